"""Writing a study. One candidate is one Optuna trial; each step is a few appended lines, each of them durable."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import DuplicatedStudyError
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from evomerge.errors import ConfigError
from evomerge.study.folder import (
    check_name,
    new_folder,
    remove_partial_files,
    replace_file,
    writing,
)
from evomerge.study.items import baseline_items, candidate_items, holdout_items, write_items
from evomerge.study.journal import recording, remove_stale_lock, repair
from evomerge.study.lock import Holder, StudyLock
from evomerge.study.provenance import Environment, provenance
from evomerge.study.requests import withdraw
from evomerge.study.results import Baseline, Candidate, Result, result_document, rung_key
from evomerge.study.view import Ended, StudyView, open_storage
from fitness.items import Scores

MAX_ATTEMPTS = 5  # of one candidate, over worker deaths and interrupted sessions

Dimension: TypeAlias = tuple[float, float] | tuple[str, ...]
"""The range of a dimension in its natural unit, or its choices."""


class Study(StudyView):
    """A study that this process alone writes to. Use as a context manager, or `close` it.

    A process that is killed leaves its candidates `running`. Whoever opens the study next finds them so, and calls
    `retry` for each: the number, the point and the recipe stay, so a killed search ends like one left alone.
    """

    def __init__(self, folder: Path) -> None:
        self._began = time.monotonic()
        self._distributions: dict[tuple[str, Dimension], BaseDistribution] = {}
        super().__init__(folder)

    @classmethod
    def create(cls, folder: Path, config: Mapping[str, Any], environment: Environment) -> Self:
        """Make the folder of a new study, whole or not at all, and open it.

        Args:
            folder: where; its name is `config["study"]`.
            config: the resolved config, plain YAML values; `storage` may name an Optuna database URL.
            environment: what it is run with.

        Raises:
            ConfigError: the name is not allowed or is taken.
            StudyError: the disk or the database cannot be written.
        """
        name = config["study"]
        check_name(name)
        with new_folder(folder) as staging, recording(folder):
            staging.write_config(dict(config))
            replace_file(staging.environment, environment.model_dump_json(indent=2).encode() + b"\n")
            staging.items.mkdir()
            if config.get("storage") is None:
                staging.journal.touch()
            try:
                open_storage(staging, config).create_new_study([StudyDirection.MAXIMIZE], name)
            except DuplicatedStudyError as error:
                raise ConfigError(
                    "study name already in use", where="the database", found=name, remedy="choose another name"
                ) from error
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a study to write to it; what a killed writer left half-written is removed.

        Raises:
            StudyError: it is no study, is damaged, or cannot be written.
            StudyInUseError: another process writes to it.
        """
        return cls(folder)

    def _open(self) -> None:
        self._lock = StudyLock(self.folder.lock)
        try:
            with writing(self.folder.path):
                # it was asked of a session that has ended; at once, as from now on this one may be asked
                withdraw(self.folder)
                if self.folder.journal.is_file():
                    repair(self.folder.journal)
                    remove_stale_lock(self.folder.journal)
                self.folder.items.mkdir(exist_ok=True)
                remove_partial_files(self.folder.path)
                remove_partial_files(self.folder.items)
            super()._open()
            self._interrupted = self._ending() is None
            self._seconds_before = super().hours * 3600
            self._publish()
        except BaseException:
            self._lock.release()
            raise

    @property
    def session(self) -> Holder:
        """This process, as others see it."""
        return self._lock.holder

    @property
    def interrupted(self) -> bool:
        """Whether the session before this one was killed or met an error: what was running then was cut off."""
        return self._interrupted

    @property
    def hours(self) -> float:
        """Hours of search, over all sessions and up to now."""
        return self._elapsed / 3600

    @property
    def _elapsed(self) -> float:
        return self._seconds_before + time.monotonic() - self._began

    def start(
        self,
        x: Iterable[float],
        genome: Mapping[str, float | str],
        space: Mapping[str, Dimension],
        recipe: str,
    ) -> int:
        """Record that a new candidate is being scored.

        Args:
            x: (d,) in [0, 1], as the optimizer asked it; kept bit for bit.
            genome: dimension -> value in its natural unit.
            space: dimension -> (low, high), or its choices.
            recipe: YAML.

        Returns:
            Its number.

        Raises:
            StudyError: the disk or the database cannot be written.
        """
        distributions = {name: self._distribution(name, space[name]) for name in genome}
        trial = create_trial(
            state=TrialState.RUNNING,
            params={name: _within(value, distributions[name]) for name, value in genome.items()},
            distributions=distributions,
            user_attrs={"x": [float(value) for value in x], "recipe": recipe},
        )
        with self._recording():
            trial_id = self._storage.create_new_trial(self._study_id, trial)
            return self._storage.get_trial(trial_id).number

    def retry(self, number: int) -> bool:
        """Record that a running candidate is dispatched once more.

        Returns:
            False when it has had MAX_ATTEMPTS: it has then been recorded as failed.

        Raises:
            RuntimeError: it is not running.
            StudyError: the disk or the database cannot be written.
        """
        trial_id, attempts = self._running(number), self.candidate(number).attempts
        if attempts >= MAX_ATTEMPTS:
            self.finish(number, Result(reason=f"interrupted {attempts} times"))
            return False
        with self._recording():
            self._storage.set_trial_user_attr(trial_id, "attempts", attempts + 1)
        return True

    def climb(self, number: int, result: Result, items: Scores | None = None) -> Candidate:
        """Record how a running candidate stands on a rung that is not the last.

        Args:
            number: of the candidate.
            result: over the items of all rungs so far, its costs summed over them.
            items: per-item scores of all rungs so far.

        Returns:
            The candidate as recorded: what the race decides by, now and after any interruption.

        Raises:
            RuntimeError: it is not running.
            StudyError: the disk or the database cannot be written.
        """
        trial_id, key = self._running(number), rung_key(len(self.candidate(number).rungs))
        if items:
            self._write_items(candidate_items(number), items)
        with self._recording():
            record = result_document(result) | {"elapsed": self._elapsed}
            self._storage.set_trial_user_attr(trial_id, key, record)
        return self.candidate(number)

    def finish(self, number: int, result: Result, items: Scores | None = None) -> Candidate:
        """Record what became of a running candidate, and put its recipe in best.yaml if it is the best so far.

        A result that cannot be ranked (no objective, or one that is not finite) becomes a failure. One that a race
        stopped is a pruned trial: Optuna's own tools do not take it for the best either.

        Returns:
            The candidate as recorded: what the optimizer is to be told, now and at any replay.

        Raises:
            RuntimeError: it is not running.
            StudyError: the disk or the database cannot be written.
        """
        trial_id = self._running(number)
        result = result.settled
        if items:
            self._write_items(candidate_items(number), items)
        outcome = result_document(result) | {"elapsed": self._elapsed}
        with self._recording():
            self._storage.set_trial_user_attr(trial_id, "outcome", outcome)
            if result.reason is None and result.stopped is not None:
                self._storage.set_trial_state_values(trial_id, TrialState.PRUNED)
            elif result.objective is None:
                self._storage.set_trial_state_values(trial_id, TrialState.FAIL)
            else:
                if result.violations:
                    # the older form of constraints: one line for all gates, and the one that optuna-dashboard shows
                    self._storage.set_trial_system_attr(trial_id, "constraints", list(result.violations.values()))
                self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [result.objective])
        candidate = self.candidate(number)
        if candidate.feasible:
            self._publish()
        return candidate

    def add_baseline(self, name: str, recipe: str, result: Result, items: Scores | None = None) -> Baseline:
        """Record a baseline, or replace the one of that name. Raises StudyError."""
        baseline = Baseline(**vars(result.settled), name=name, recipe=recipe)
        self._add(f"baseline:{name}", baseline_items(name), result.settled, items, {"name": name, "recipe": recipe})
        return baseline

    def add_finalist(self, name: str, number: int | None, result: Result, items: Scores | None = None) -> None:
        """Record what was scored on holdout, or replace it; a best.yaml that it refuses is removed.

        Args:
            name: of the baseline, or the candidate's number as text.
            number: of the candidate, None for a baseline.
            result: on holdout.
            items: per-item scores.

        Raises:
            StudyError: the disk or the database cannot be written.
        """
        self._add(f"finalist:{name}", holdout_items(name), result.settled, items, {"name": name, "number": number})
        if number is not None:
            self._publish()

    def elect(self, number: int | None) -> None:
        """Make a feasible candidate the winner, or none, until the search finds one that beats all of today's on dev.

        Raises:
            StudyError: the disk or the database cannot be written.
            ValueError: it does not clear every gate.
        """
        best = self.best
        if best is None or (number is not None and not self.candidate(number).feasible):
            raise ValueError(f"candidate {number} is not feasible")
        self._set("winner", {"number": number, "over": best.number})
        self._publish()

    def note(self, name: str, value: Any) -> None:
        """Record a JSON value that reports show. Raises StudyError."""
        self._set(f"note:{name}", {"name": name, "value": value, "elapsed": self._elapsed})

    def begin(self) -> None:
        """Record that a session of search begins: killed from now on, the study is interrupted.

        Its hours count from now on; to get ready for it is no search.

        Raises:
            StudyError: the disk or the database cannot be written.
        """
        self._began = time.monotonic()
        if self.begun is None:  # an older evomerge recorded it with its candidates only
            self._set("begun", _now())
        self._set("ended", None)

    def end(self, how: Ended = "finished") -> None:
        """Record how the session came to its end. Raises StudyError."""
        self._set("ended", {"how": how, "at": _now()})

    def change_config(self, config: Mapping[str, Any]) -> None:
        """Replace config.yaml, under another budget or with other workers. Raises StudyError."""
        # a folder that was renamed keeps the name under which a database knows its study
        changed = dict(config) | {"study": self.config["study"]}
        with writing(self.folder.config):
            self.folder.write_config(changed)
        self.config = changed

    def close(self) -> None:
        """Let others write to the study."""
        self._storage.remove_session()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _publish(self) -> None:
        """Bring best.yaml and its sidecar up to the winner. Doing it again changes nothing."""
        winner = self.winner
        if winner is None:
            with writing(self.folder.path):
                self.folder.best.unlink(missing_ok=True)
                self.folder.provenance.unlink(missing_ok=True)
            return
        facts = provenance(self.name, winner, self.finalists(), self.benchmarks, self.environment, self.config)
        contents = {
            self.folder.provenance: facts.model_dump_json(indent=2) + "\n",
            self.folder.best: winner.recipe,
        }
        with writing(self.folder.path):
            for path, content in contents.items():
                if not path.is_file() or path.read_bytes() != content.encode():
                    replace_file(path, content.encode())

    def _add(self, key: str, items_name: str, result: Result, items: Scores | None, record: dict[str, Any]) -> None:
        if items:
            self._write_items(items_name, items)
        self._set(key, record | result_document(result) | {"elapsed": self._elapsed})

    def _set(self, key: str, value: Any) -> None:
        with self._recording():
            self._storage.set_study_user_attr(self._study_id, key, value)

    def _write_items(self, name: str, items: Scores) -> None:
        if not self.tasks():
            facts = {
                task: {"metric": each.metric, "higher_is_better": each.higher_is_better} for task, each in items.items()
            }
            self._set("tasks", facts)
        with writing(self.folder.items):
            write_items(self.folder.items, name, items)

    def _running(self, number: int) -> int:
        """The id of a candidate's trial."""
        state = self.candidate(number).state
        if state != "running":
            raise RuntimeError(f"candidate {number} is {state} already")
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def _distribution(self, name: str, dimension: Dimension) -> BaseDistribution:
        key = (name, dimension)
        if key not in self._distributions:
            self._distributions[key] = _distribution(dimension)
        return self._distributions[key]

    @contextmanager
    def _recording(self) -> Iterator[None]:
        with recording(self.folder.path):
            try:
                yield
            except OSError:
                # the next append would make a half-written line fatal
                if self.folder.journal.is_file():
                    repair(self.folder.journal)
                raise


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _distribution(dimension: Dimension) -> BaseDistribution:
    if isinstance(dimension[0], str):
        return CategoricalDistribution(dimension)
    low, high = dimension
    return FloatDistribution(float(low), float(high))


def _within(value: float | str, distribution: BaseDistribution) -> float | str:
    """The value, moved into its range where rounding has carried it over the edge."""
    if isinstance(value, str) or not isinstance(distribution, FloatDistribution):
        return value
    return min(max(float(value), distribution.low), distribution.high)
