"""Launching and resuming a search: what the command line and the dashboard call."""

import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from evomerge.checkpoint import dtype_of, open_checkpoint
from evomerge.config import SearchConfig, resumed_config, search_config_of
from evomerge.errors import NothingFeasibleError, OneLineError
from evomerge.genome import Genome, short_names
from evomerge.merge import LiveModel, make_plan, preflight, resolve_device
from evomerge.optimize import make_optimizer
from evomerge.recipe import Recipe
from evomerge.search.baselines import source_recipes, uniform_recipes
from evomerge.search.finalists import choose_winner
from evomerge.search.loop import Search
from evomerge.search.progress import SearchProgress
from evomerge.search.recall import Recall, ScoreKeys
from evomerge.search.space import genome_of
from evomerge.search.workers import WorkerPool
from evomerge.study import Environment, Study, check_new, describe_environment
from evomerge.study.cache import ScoreCache
from fitness.harness import Harness
from fitness.racing import Course

INTERRUPTED = 130
NOWHERE = torch.device("meta")  # shapes without memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """How a session ended: where the study lies, what to tell the user, and the exit code."""

    folder: Path
    message: str
    code: int


def launch(config: SearchConfig) -> Ending:
    """Start a study and search until its budget is used up.

    Everything that can be known without an accelerator is checked before Ray starts, and the study's folder is made
    once Ray has what the workers need.

    Raises:
        OneLineError: of the kind that fits; see `evomerge.errors`.
    """
    check_new(config.study, config.runs_dir)
    environment, genome, harness = _preflight(config)
    for name, recipe in source_recipes(config.models).items():
        preflight(Recipe.from_yaml(recipe, name))  # reads every tensor: NaN and Inf are found here
    with (
        _draining() as drain,
        WorkerPool(config) as pool,
        Study.create(config.folder, config.model_dump(mode="json"), environment) as study,
    ):
        if harness.benchmarks:
            study.note("benchmarks", list(harness.benchmarks))
        return _session(config, study, environment, genome, harness, pool, drain)


def resume(folder: Path, overrides: Sequence[str] = ()) -> Ending:
    """Go on with a study, whether it was interrupted, killed, or came to its end.

    Raises:
        ConfigError: an override would make it another study.
        StudyError: it cannot be read, or another process is writing to it.
        OneLineError: as `launch`.
    """
    with Study.open(folder) as study:
        # a folder that was moved is still the same study
        place = {"study": study.folder.path.name, "runs_dir": str(study.folder.path.parent)}
        config = resumed_config(search_config_of(study.config | place, str(study.folder.config)), overrides)
        environment, genome, harness = _preflight(config)
        study.environment.require_same_inputs(environment)
        differences = study.environment.differences(environment)
        with _draining() as drain, WorkerPool(config) as pool:
            if overrides:
                study.change_config(config.model_dump(mode="json"))
            return _session(config, study, environment, genome, harness, pool, drain, differences)


def _preflight(config: SearchConfig) -> tuple[Environment, Genome, Harness]:
    """Find what is wrong with models, tasks, gates and genome before anything is started."""
    if config.workers.address is None:  # a cluster has devices that this machine has not
        resolve_device(config.workers.device)
    models = config.models
    parents = [parent.ref for parent in models.parents]
    config.suite.check_references(short_names(parents))
    checkpoints = {ref: open_checkpoint(ref) for ref in (models.base.ref, *parents)}
    base = checkpoints[models.base.ref]
    genome = genome_of(config, base)
    for name, recipe in (source_recipes(models) | uniform_recipes(models)).items():
        make_plan(Recipe.from_yaml(recipe, name), checkpoints)
    plan = make_plan(genome.recipe(genome.initial), checkpoints)
    live = LiveModel(plan.config, dtype=dtype_of(models.dtype), device=NOWHERE)
    live.check(plan)
    harness = Harness(config.suite)
    described = {str(ref): each for ref, each in checkpoints.items()}
    environment = describe_environment(described, harness.digests, plan.tokenizer.digest())
    harness.check_template(plan.tokenizer.load())
    return environment, genome, harness


def _session(
    config: SearchConfig,
    study: Study,
    environment: Environment,
    genome: Genome,
    harness: Harness,
    pool: WorkerPool,
    drain: threading.Event,
    differences: Sequence[str] = (),
) -> Ending:
    optimizer = make_optimizer(config.optimizer, initial=genome.initial, choices=genome.choices, seed=config.seed)
    done = sum(candidate.state != "running" for candidate in study.candidates())
    with (
        _logging_to(study.folder.path / "search.log"),
        SearchProgress(config.budget.candidates, done) as progress,
    ):
        progress.say(f"study {study.name}: {genome.dimension} dimensions, {config.workers.count} workers")
        for difference in differences:
            progress.say(f"warning: another {difference} than before, scores may differ in their last digits")
        course = Course(harness.orders, harness.raceable, harness.additive)
        recall = Recall(pool, ScoreCache(config.runs_dir), ScoreKeys(config, harness, environment))
        search = Search(config, study, genome, optimizer, recall, progress, drain.is_set, course)
        search.run()
        try:
            winner = None if drain.is_set() else choose_winner(search)
        except NothingFeasibleError:
            study.end()
            raise
    if winner is None:
        return Ending(
            study.folder.path,
            f"interrupted, everything is kept; go on with: evomerge resume {study.folder.path}",
            INTERRUPTED,
        )
    study.end()
    return Ending(study.folder.path, f"the recipe of candidate {winner.number}: {study.folder.best}", 0)


@contextmanager
def _draining() -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM) lets the running candidates finish; the second ends the process at once."""
    drain = threading.Event()

    def ask(_signal: int, _frame: object) -> None:
        if drain.is_set():
            raise KeyboardInterrupt
        drain.set()

    if threading.current_thread() is not threading.main_thread():
        yield drain
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield drain
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("evomerge")
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    except OneLineError as error:
        log.error("%s", error)
        raise
    finally:
        root.setLevel(level)
        root.removeHandler(handler)
        handler.close()
