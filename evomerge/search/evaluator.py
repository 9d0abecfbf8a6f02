"""One live model and all that it takes to merge recipes into it and to score them. Knows nothing of Ray."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from evomerge.checkpoint import OutputTokenizer, dtype_of, open_checkpoint
from evomerge.config import ModelsConfig, WorkersConfig
from evomerge.errors import ModelError, NonFiniteError, OneLineError
from evomerge.merge import (
    Kernels,
    LiveModel,
    Sources,
    StatisticsCache,
    make_plan,
    merge_to_disk,
    open_sources,
    resolve_device,
    stream,
)
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
        self._workers = workers
        self.sources = self._kept_sources()
        self.statistics = StatisticsCache(room=self.sources.room)
        self.kernels = Kernels(workers.compile)
        self._base, self._dtype = self.checkpoints[models.base.ref], dtype_of(models.dtype)
        self._live: LiveModel | None = self._new_live_model()
        self._tokenizers: dict[OutputTokenizer, Any] = {}
        self.harness = Harness(suite)

    def evaluate(self, job: Job) -> Outcome:
        """Merge and score. A failure is a value: whatever goes wrong becomes the outcome's reason."""
        seconds: dict[str, float] = {}
        failure: dict[str, Any] = {}
        scores: Scores = {}
        with _warnings() as warned:
            try:
                scores = self._evaluate(job, seconds)
            except (torch.OutOfMemoryError, MemoryError) as error:
                if self.device.type != "cpu":
                    torch.accelerator.memory.empty_cache()
                failure = {"reason": f"out of memory: {_first_line(error)}"}
            except OneLineError as error:
                failure = {"reason": str(error)}
            except Exception as error:
                # after an error of its driver, an accelerator fails whatever comes next in this process
                broken = self.device.type != "cpu"
                failure = {"reason": f"{type(error).__name__}: {_first_line(error)}", "broken": broken}
        return Outcome(scores=scores, seconds=seconds, warnings=tuple(dict.fromkeys(warned)), **failure)

    def _kept_sources(self) -> Sources:
        return Sources(
            self.checkpoints,
            self.device,
            device_share=min(1.0, self._workers.gpus or 1.0),
            host_share=1 / self._workers.count,
        )

    def _new_live_model(self) -> LiveModel:
        return LiveModel(self._base.config, dtype=self._dtype, device=self.device)

    def _tokenizer(self, tokenizer: OutputTokenizer) -> Any:
        """Loaded once for all candidates: the harness keeps token ids as long as it is the same object."""
        if tokenizer not in self._tokenizers:
            self._tokenizers[tokenizer] = tokenizer.load()
        return self._tokenizers[tokenizer]

    def _evaluate(self, job: Job, seconds: dict[str, float]) -> Scores:
        started = perf_counter()
        recipe = Recipe.from_yaml(job.recipe, job.name)
        if job.folder is None:
            plan = make_plan(recipe, self.checkpoints)
            live = self._live = self._live or self._new_live_model()
            merges = stream(plan, self.sources, device=self.device, statistics=self.statistics, kernels=self.kernels)
            live.load(plan, merges)
            self.harness.bind(live.model, self._tokenizer(plan.tokenizer))
        else:
            if self._live is not None:  # it and the sources may fill the device
                self._live.model.to("cpu")
                self._live, self.sources = None, self._kept_sources()
                self.statistics = StatisticsCache(room=self.sources.room)
            shutil.rmtree(job.folder, ignore_errors=True)  # of a worker that died with this job
            merge_to_disk(recipe, Path(job.folder), device=str(self.device), kernels=self._workers.compile)
            _bind_checkpoint(self.harness, Path(job.folder), self.device)
        seconds["merge"] = perf_counter() - started
        started = perf_counter()
        score = self.harness.likelihood if job.answers else self.harness.score
        scores = score(job.split, items=job.items)
        seconds["score"] = perf_counter() - started
        return scores


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
    elif ModelRef.parse(str(path)).adapter is not None:
        recipe = Recipe.from_document({"merge_method": "passthrough", "models": [{"model": str(path)}]})
    else:
        _bind_checkpoint(harness, open_checkpoint(ModelRef.parse(str(path))).folder, device)
        return harness.score(split)
    checkpoints = open_sources(recipe)
    plan = make_plan(recipe, checkpoints)
    live = LiveModel(plan.config, dtype=plan.out_dtype, device=device)
    sources, statistics = Sources(checkpoints, device, keep=False), StatisticsCache(keep=False)
    live.load(plan, stream(plan, sources, device=device, statistics=statistics))
    sources.release()
    harness.bind(live.model, plan.tokenizer.load())
    return harness.score(split)


def _bind_checkpoint(harness: Harness, folder: Path, device: torch.device) -> None:
    harness.bind(*load_checkpoint(folder, device))


def load_checkpoint(folder: Path, device: torch.device) -> tuple[torch.nn.Module, Any]:
    """A checkpoint and its tokenizer as whoever serves it would load them.

    Raises:
        ModelError: it cannot be loaded, or lacks weights.
        NonFiniteError: NaN or Inf in a weight.
    """
    return _load_model(folder).to(device).eval(), OutputTokenizer(folder).load()


def _load_model(folder: Path) -> torch.nn.Module:
    """transformers alone would fill what a checkpoint lacks with random numbers."""
    with _quiet_transformers():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto", trust_remote_code=False, ignore_mismatched_sizes=True, output_loading_info=True
            )
        except Exception as error:  # every architecture and quantizer has its own
            raise ModelError("model cannot be loaded", where=folder, found=_first_line(error)) from error
    model, report = loaded
    unfit = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if unfit:
        raise ModelError(
            "weights do not fit config.json",
            where=folder,
            expected=f"{unfit[0]} in the shape that config.json gives it",
            found="none" if unfit[0] in report["missing_keys"] else "another shape",
            remedy="download or save the model again",
        )
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not weight.isfinite().all():
            raise NonFiniteError(
                "NaN or Inf in a model", where=f"{folder}: {name}", remedy="download or train the model again"
            )
    return cast(torch.nn.Module, model)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Bars and reports of a load; what matters in them is raised."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What evomerge and fitness warn of meanwhile: Ray would leave it in a log file of the worker's node."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("evomerge", "fitness")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield messages
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
