"""`evomerge bench candidate`: a candidate beside its bare forward passes, and beside the way through the disk."""

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import yaml

from evomerge.bench.machine import Machine, describe_machine
from evomerge.bench.merge import check_range
from evomerge.bench.synthetic import parse_count, write_models
from evomerge.checkpoint import OutputTokenizer, dtype_of
from evomerge.config import ModelsConfig, SearchConfig, search_config
from evomerge.demo import FOLDER
from evomerge.errors import ScoringError
from evomerge.merge import merge_to_disk
from evomerge.optimize import make_optimizer
from evomerge.recipe import Recipe
from evomerge.search.baselines import source_recipes
from evomerge.search.evaluator import Evaluator, load_checkpoint
from evomerge.search.judge import Judge
from evomerge.search.outcome import Job, Outcome
from evomerge.search.space import genome_of
from fitness.reference import SimpleEvaluate
from fitness.suite import Holdout, SuiteConfig, TaskSpec

MAX_SHOTS = 100
DEMO = "experiment=demo"

_PARENTS = 2  # of a synthetic family
_DOCUMENTS = 40  # of the generated task
_NAMES = ("lamp", "desk", "bowl", "sofa", "bench")
_CHOICES = ("red", "blue", "gold", "grey")


@dataclass(frozen=True)
class CandidateCost:
    """Seconds that a candidate takes in a worker that is warm, as medians.

    Attributes:
        merge: into the live model.
        score: all of its documents.
        judge: gates and objective.
        whole: all of it.
        bare: its batches straight through the model, and nothing else.
    """

    merge: float
    score: float
    judge: float
    whole: float
    bare: float

    @property
    def ratio(self) -> float:
        """Whole candidate to its bare forward passes."""
        return self.whole / self.bare

    @property
    def per_hour(self) -> float:
        """Candidates that one worker scores in an hour."""
        return 3600 / self.whole


@dataclass(frozen=True)
class DiskCost:
    """Seconds that the same candidates take through the disk, as medians.

    Imports and the loading of tasks are not counted: one process makes all of them.

    Attributes:
        merge: to disk.
        load: model and tokenizer.
        evaluate: `lm_eval.simple_evaluate` of the same documents.
        passes: of these, those within its model: batching, forward passes and generation.
        whole: all of it.
        difference: the largest between a score of a task and the one that the harness gave.
    """

    merge: float
    load: float
    evaluate: float
    passes: float
    whole: float
    difference: float


@dataclass(frozen=True)
class CandidateReport:
    """All that was measured.

    Attributes:
        machine: where.
        parameters: of one model.
        dtype: of the live model.
        documents: task -> how many dev documents a candidate is scored on.
        repeat: how many candidates a median is of.
        live: in a worker.
        disk: through the disk; None if that was not asked for.
    """

    machine: Machine
    parameters: int
    dtype: str
    documents: Mapping[str, int]
    repeat: int
    live: CandidateCost
    disk: DiskCost | None

    def to_json(self) -> str:
        """All of it as a JSON object."""
        document = asdict(self)
        document["live"] |= {"ratio": self.live.ratio, "per_hour": self.live.per_hour}
        if self.disk is not None:
            document["disk"] |= {
                "ratio": self.disk.whole / self.live.whole,
                "passes_ratio": self.disk.passes / self.live.score,
            }
        return json.dumps(document, indent=2)


def bench_candidate(
    overrides: Sequence[str] = (),
    config_dir: Path | None = None,
    *,
    parameters: str | None = None,
    shots: int | None = None,
    repeat: int = 3,
    compare: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> CandidateReport:
    """Measure.

    Args:
        overrides: as of `evomerge search`; the demo if there are none.
        config_dir: with the user's options.
        parameters: about, of synthetic models with the demo's tokenizer, such as `30M`, that take the place of those
            of the config.
        shots: examples before each document of a generated task of choices, which takes the place of the suite.
        repeat: how many candidates a median is of.
        compare: also merge the same candidates to disk, load them and call `lm_eval.simple_evaluate`.
        say: told what is under way.

    Raises:
        OneLineError: of the kind that fits, as `evomerge search`; or a candidate cannot be scored.
    """
    check_range("--repeat", repeat, 1, 1000)
    check_range("--shots", shots or 0, 0, MAX_SHOTS)
    config = search_config(["study=bench", *(overrides or [DEMO])], config_dir)
    with tempfile.TemporaryDirectory(prefix="evomerge-bench-") as scratch:
        if parameters is not None:
            say("writing models")
            config = config.model_copy(update={"models": _synthetic(Path(scratch), parameters, config.models.dtype)})
        if shots is not None:
            config = config.model_copy(update={"suite": _few_shot_suite(Path(scratch), shots, config.suite)})
        say("loading models and tasks")
        bench = _Bench(config, Path(scratch), say)
        first, *recipes = bench.recipes(repeat + 1)
        bench.warm(first)
        live = bench.live(recipes)
        disk = bench.disk(recipes) if compare else None
        return CandidateReport(
            machine=describe_machine(bench.evaluator.device),
            parameters=bench.parameters,
            dtype=config.models.dtype,
            documents={task: len(ids["dev"]) for task, ids in bench.evaluator.harness.documents.items()},
            repeat=repeat,
            live=live,
            disk=disk,
        )


class _Bench:
    def __init__(self, config: SearchConfig, scratch: Path, say: Callable[[str], None]) -> None:
        self.evaluator = Evaluator(config.models, config.suite, config.workers)
        self._config, self._scratch, self._say = config, scratch, say
        self._base = self.evaluator.checkpoints[config.models.base.ref]
        self.parameters = sum(header.size for header in self._base.headers.values())
        self._judge = Judge(config.suite)
        self._means: dict[str, dict[str, float]] = {}  # recipe -> task -> score

    def recipes(self, count: int) -> list[str]:
        """The candidates that a search of this config begins with."""
        config = self._config
        genome = genome_of(config, self._base)
        optimizer = make_optimizer(config.optimizer, initial=genome.initial, choices=genome.choices, seed=config.seed)
        asked = optimizer.ask()
        return [genome.recipe(asked[number % len(asked)]).to_yaml() for number in range(count)]

    def warm(self, recipe: str) -> None:
        """Tokenize, measure statistics, and compile."""
        self._say("warming up")
        outcome = self._evaluate(recipe)
        self.evaluator.harness.bare_seconds("dev")
        for name in source_recipes(self._config.models):  # whatever gates refer to, judging takes as long
            self._judge.refer(name, "dev", outcome.scores)

    def live(self, recipes: Sequence[str]) -> CandidateCost:
        rows = []
        for number, recipe in enumerate(recipes, 1):
            self._say(f"candidate {number} of {len(recipes)}: merged into the live model")
            began = perf_counter()
            outcome = self._evaluate(recipe)
            scored = perf_counter()
            self._judge(outcome, "dev")
            ended = perf_counter()
            bare = self.evaluator.harness.bare_seconds("dev")
            rows.append((outcome.seconds["merge"], outcome.seconds["score"], ended - scored, ended - began, bare))
            self._means[recipe] = outcome.means
        return CandidateCost(*map(median, zip(*rows, strict=True)))

    def disk(self, recipes: Sequence[str]) -> DiskCost:
        evaluate = SimpleEvaluate(self._config.suite)
        folder, device = self._scratch / "merged", self.evaluator.device
        rows, differences = [], []
        for number, recipe in enumerate(recipes, 1):
            self._say(f"candidate {number} of {len(recipes)}: merged to disk")
            began = perf_counter()
            merge_to_disk(Recipe.from_yaml(recipe), folder, device=str(device), kernels=self._config.workers.compile)
            merged = perf_counter()
            model, tokenizer = load_checkpoint(folder, device)
            loaded = perf_counter()
            found = evaluate(model, tokenizer, "dev")
            ended = perf_counter()
            shutil.rmtree(folder)
            rows.append((merged - began, loaded - merged, found.seconds, found.passes, ended - began))
            differences += [abs(found.scores[task] - mean) for task, mean in self._means[recipe].items()]
        merge, load, scoring, passes, whole = map(median, zip(*rows, strict=True))
        return DiskCost(merge, load, scoring, passes, whole, max(differences))

    def _evaluate(self, recipe: str) -> Outcome:
        outcome = self.evaluator.evaluate(Job("candidate", recipe))
        if outcome.reason is not None:
            raise ScoringError("a candidate of the bench failed", found=outcome.reason)
        return outcome


def _synthetic(folder: Path, parameters: str, dtype: str) -> ModelsConfig:
    tokenizer = OutputTokenizer(FOLDER / "models" / "base")
    base, *parents = write_models(folder, parse_count(parameters), _PARENTS, dtype_of(dtype), tokenizer)
    return ModelsConfig.model_validate({"base": base.path, "parents": [each.path for each in parents], "dtype": dtype})


def _few_shot_suite(folder: Path, shots: int, suite: SuiteConfig) -> SuiteConfig:
    """The same suite with one task of choices instead of its own, each document behind the same examples."""
    draw = random.Random(0)
    documents = [_document(draw) for _ in range(_DOCUMENTS)]
    task: dict[str, Any] = {
        "task": "colours",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "colours.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "num_fewshot": shots,
        "fewshot_config": {"sampler": "first_n", "samples": [_document(draw) for _ in range(shots)]},
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": list(_CHOICES),
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "colours.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents), encoding="utf-8")
    (folder / "colours.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    tasks = (TaskSpec(name="colours", metric="acc"),)
    return suite.model_copy(update={"include_path": (str(folder),), "tasks": tasks, "holdout": Holdout()})


def _document(draw: random.Random) -> dict[str, str]:
    colours = {name: draw.choice(_CHOICES) for name in draw.sample(_NAMES, len(_NAMES))}
    asked = draw.choice(_NAMES)
    told = " , ".join(f"{name} {colour}" for name, colour in colours.items())
    return {"prompt": f"{told} : {asked}", "answer": colours[asked]}
