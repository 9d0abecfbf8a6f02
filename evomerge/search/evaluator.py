"""One live model and all that it takes to merge recipes into it and to score them. Knows nothing of Ray."""

from pathlib import Path
from time import perf_counter

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.checkpoint import chat_template, dtype_of, open_checkpoint
from evomerge.config import ModelsConfig, WorkersConfig
from evomerge.errors import OneLineError
from evomerge.merge import LiveModel, Sources, StatisticsCache, make_plan, open_sources, resolve_device, stream
from evomerge.recipe import ModelRef, Recipe
from evomerge.search.outcome import Job, Outcome, Split
from fitness.harness import Harness
from fitness.items import Scores
from fitness.suite import SuiteConfig


class Evaluator:
    """Merges and scores recipes over a fixed set of models.

    Sources, statistics, requests and token ids are made once; a recipe costs one pass over the weights and its
    forward passes.

    Args:
        models: the base and the parents that recipes may name.
        suite: what to score.
        workers: the device and its share of cores.

    Raises:
        ModelError: a model is missing, damaged, or does not fit the others.
        SuiteError: a task cannot be used.
        UsageError: the device does not exist.
    """

    def __init__(self, models: ModelsConfig, suite: SuiteConfig, workers: WorkersConfig) -> None:
        # bits of a score depend on how sums are split over threads
        torch.set_num_threads(workers.cpus)
        self.device = resolve_device(workers.device)
        refs = [models.base.ref, *(parent.ref for parent in models.parents)]
        self.checkpoints = {ref: open_checkpoint(ref) for ref in refs}
        self.sources = Sources(self.checkpoints, self.device)
        self.statistics = StatisticsCache()
        base = self.checkpoints[models.base.ref]
        self.live = LiveModel(base.config, dtype=dtype_of(models.dtype), device=self.device)
        self.tokenizer = AutoTokenizer.from_pretrained(base.folder)
        self.harness = Harness(suite)

    def evaluate(self, job: Job) -> Outcome:
        """Merge and score. A failure is a value: whatever goes wrong becomes the outcome's reason."""
        seconds: dict[str, float] = {}
        started = perf_counter()
        try:
            if job.folder is None:
                plan = make_plan(Recipe.from_yaml(job.recipe, job.name), self.checkpoints)
                self.live.load(plan, stream(plan, self.sources, device=self.device, statistics=self.statistics))
                self.harness.bind(self.live.model, self.tokenizer)
            else:
                _bind_checkpoint(self.harness, Path(job.folder), self.device)
            seconds["merge"] = perf_counter() - started
            started = perf_counter()
            scores = self.harness.score(job.split)
            seconds["score"] = perf_counter() - started
        except (torch.OutOfMemoryError, MemoryError) as error:
            if self.device.type != "cpu":
                torch.accelerator.memory.empty_cache()
            return Outcome(seconds=seconds, reason=f"out of memory: {str(error).splitlines()[0]}")
        except OneLineError as error:
            return Outcome(seconds=seconds, reason=str(error))
        except Exception as error:
            line = " ".join(str(error).split())
            return Outcome(seconds=seconds, reason=f"{type(error).__name__}: {line}")
        return Outcome(scores=scores, seconds=seconds)


def score_model(path: Path | str, suite: SuiteConfig, workers: WorkersConfig, split: Split) -> Scores:
    """Score a checkpoint, as production would load it, or a recipe file, merged in memory.

    Raises:
        ModelError: a model is missing, damaged, or does not fit the others.
        RecipeError: the recipe is not valid.
        ScoringError: its logits are not finite.
        SuiteError: a task cannot be used.
        UsageError: the device does not exist.
    """
    torch.set_num_threads(workers.cpus)
    device = resolve_device(workers.device)
    harness = Harness(suite)
    if str(path).endswith((".yaml", ".yml")):
        recipe = Recipe.read(path)
        checkpoints = open_sources(recipe)
        plan = make_plan(recipe, checkpoints)
        live = LiveModel(plan.config, dtype=plan.out_dtype, device=device)
        live.load(plan, stream(plan, Sources(checkpoints, device), device=device, statistics=StatisticsCache()))
        tokenizer = AutoTokenizer.from_pretrained(plan.tokenizer_folder)
        if recipe.chat_template is not None:
            folders = [checkpoint.folder for checkpoint in checkpoints.values()]
            tokenizer.chat_template = chat_template(recipe.chat_template, folders) or tokenizer.chat_template
        harness.bind(live.model, tokenizer)
    else:
        _bind_checkpoint(harness, open_checkpoint(ModelRef.parse(str(path))).folder, device)
    return harness.score(split)


def _bind_checkpoint(harness: Harness, folder: Path, device: torch.device) -> None:
    """Load a checkpoint and its tokenizer as whoever serves it would."""
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    harness.bind(model.to(device).eval(), AutoTokenizer.from_pretrained(folder))
