"""Launching and resuming a search: what the command line and the dashboard call."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from evomerge.budget import check_resume, used_up
from evomerge.config import SearchConfig, resumed_config, search_config_of
from evomerge.errors import NothingFeasibleError, OneLineError
from evomerge.optimize import make_optimizer
from evomerge.search.drain import Drain, draining
from evomerge.search.finalists import choose_winner
from evomerge.search.loop import Search
from evomerge.search.notify import Notifier, notifying
from evomerge.search.preparation import Prepared, prepare, prepare_new
from evomerge.search.progress import SearchProgress, StatusBoard
from evomerge.search.recall import Recall, ScoreKeys
from evomerge.search.workers import WorkerPool
from evomerge.study import Candidate, Study
from evomerge.study.cache import ScoreCache
from evomerge.study.export import nothing_feasible
from evomerge.study.view import Ended
from fitness.racing import Course

INTERRUPTED = 130

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
    prepared = prepare_new(config)
    with notifying(config.folder, config.notify) as notifier:
        with (
            draining() as drain,
            WorkerPool(config) as pool,
            Study.create(config.folder, config.model_dump(mode="json"), prepared.environment) as study,
        ):
            if prepared.harness.benchmarks:
                study.note("benchmarks", list(prepared.harness.benchmarks))
            ending = _session(config, study, prepared, pool, drain, notifier)
        return _told(ending, notifier)


def resume(folder: Path, overrides: Sequence[str] = ()) -> Ending:
    """Go on with a study, whether it was paused, stopped, interrupted, or came to its end.

    One that is finished, and whose budget is used up, is left as it is unless a finalist failed: that is scored again.

    Raises:
        ConfigError: an override would make it another study, or asks for no more than is used up; see `check_resume`.
        StudyError: it cannot be read, or another process is writing to it.
        OneLineError: as `launch`.
    """
    with notifying(folder) as notifier:
        with Study.open(folder) as study:
            # a folder that was moved is still the same study
            place = {"study": study.folder.path.name, "runs_dir": str(study.folder.path.parent)}
            recorded = search_config_of(study.config | place, str(study.folder.config))
            config = resumed_config(recorded, overrides)
            if config == recorded and used_up(study, config.budget):
                return _nothing_left(study, config)
            check_resume(study, config.budget, overrides)
            notifier.config = config.notify
            prepared = prepare(config)
            study.environment.require_same_inputs(prepared.environment)
            differences = study.environment.differences(prepared.environment)
            with draining() as drain, WorkerPool(config) as pool:
                if overrides:
                    study.change_config(config.model_dump(mode="json"))
                ending = _session(config, study, prepared, pool, drain, notifier, differences)
        return _told(ending, notifier)


def _nothing_left(study: Study, config: SearchConfig) -> Ending:
    winner = study.winner
    if winner is None:
        raise nothing_feasible(study)
    said = f"nothing is left to do, the budget of {config.budget} is used up"
    return Ending(study.folder.path, f"{said}; {_handed_over(study, winner)}", 0)


def _handed_over(study: Study, winner: Candidate) -> str:
    return f"the recipe of candidate {winner.number}: {study.folder.best}"


def _ended(search: Search) -> Ended:
    search.take_budget()  # the last look: what is asked from now on finds that the search has ended
    return "finished" if search.spent else "stopped"


def _told(ending: Ending, notifier: Notifier) -> Ending:
    if ending.code == 0:
        notifier.ended(ending.message)
    return ending


def _session(
    config: SearchConfig,
    study: Study,
    prepared: Prepared,
    pool: WorkerPool,
    drain: Drain,
    notifier: Notifier,
    differences: Sequence[str] = (),
) -> Ending:
    genome, harness = prepared.genome, prepared.harness
    optimizer = make_optimizer(config.optimizer, initial=genome.initial, choices=genome.choices, seed=config.seed)
    done = sum(candidate.state != "running" for candidate in study.candidates())
    study.begin()
    drain.watch(study.folder)
    board = StatusBoard(study.folder, study.session, lambda: pool.doing, drain.wish)
    with (
        _logging_to(study.folder.path / "search.log"),
        SearchProgress(config.budget.candidates, done, board=board) as progress,
    ):
        notifier.say = progress.say
        progress.say(f"study {study.name}: {genome.dimension} dimensions, {config.workers.count} workers")
        for difference in differences:
            progress.say(f"warning: another {difference} than before, scores may differ in their last digits")
        course = Course(harness.orders, harness.raceable, harness.additive)
        recall = Recall(pool, ScoreCache(config.runs_dir), ScoreKeys(config, harness, prepared.environment))
        search = Search(
            config,
            study,
            genome,
            optimizer,
            recall,
            progress,
            drain.wish,
            course,
            cleared=lambda candidate: notifier.cleared(study, candidate),
            budget=drain.budget,
        )
        search.run()
        search.wish = drain.wish_to_pause
        try:
            winner = None if search.draining else choose_winner(search)
        except NothingFeasibleError:
            study.end(_ended(search))
            raise
        ended = _ended(search)
    if winner is None:
        study.end("paused")
        return Ending(
            study.folder.path,
            f"paused, everything is kept; go on with: evomerge resume {study.folder.path}",
            INTERRUPTED,
        )
    study.end(ended)
    return Ending(study.folder.path, _handed_over(study, winner), 0)


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
