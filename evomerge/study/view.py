"""Reading a study: no lock, no repair, no writes, also while another process writes to it."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Literal, TypedDict

from optuna import get_all_study_names
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from evomerge.errors import StudyError, UsageError
from evomerge.study.folder import StudyFolder
from evomerge.study.items import read_items
from evomerge.study.journal import open_database, open_journal, reading
from evomerge.study.lock import Holder, holder
from evomerge.study.provenance import Environment
from evomerge.study.results import (
    ANSWERS,
    BASELINES,
    Baseline,
    Candidate,
    Difference,
    Finalist,
    Result,
    State,
    rung_key,
)
from evomerge.study.tally import Tally
from fitness.items import Scores, TaskScores

Ended = Literal["paused", "stopped", "finished"]
StudyState = Literal["running", "paused", "stopped", "finished", "interrupted"]

_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.FAIL: "failed",
    TrialState.PRUNED: "complete",
}

# Optuna's own tools can end a trial, too
_FOREIGN = vars(Result(reason="ended by another program"))


class _Ending(TypedDict):
    how: Ended
    at: str | None


@dataclass(frozen=True)
class _Known:
    """The first candidates of a study, as far as all of them have ended: they do not change any more."""

    candidates: tuple[Candidate, ...] = ()
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0  # of search until the last record of theirs

    def plus(self, trials: Sequence[FrozenTrial]) -> "_Known":
        candidates = [*map(_candidate, trials)]
        seconds = max(map(_seconds, trials))
        return _Known((*self.candidates, *candidates), self.tally.plus(candidates), max(self.seconds, seconds))


class StudyView:
    """What a study holds. Every call sees what has been written since the last one.

    Args:
        folder: the study's folder.

    Attributes:
        environment: what the study was begun with.

    Raises:
        StudyError: it is no study, is damaged, or was written by a newer evomerge.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = StudyFolder(Path(os.path.abspath(folder)))
        self.config = self.folder.read_config()
        self.environment = Environment.read(self.folder.environment)
        self._open()

    def _open(self) -> None:
        self._storage = open_storage(self.folder, self.config)
        self._study_id = self._find()
        self._known = _Known()

    def _find(self) -> int:
        with reading(self.folder.journal):
            names = get_all_study_names(self._storage)
        if self.config.get("storage") is not None:  # a database holds many
            names = [name for name in names if name == self.config["study"]]
        if len(names) != 1:
            found = ", ".join(names) or "none"
            raise StudyError("study has no record", where=self.folder.path, expected="one Optuna study", found=found)
        return self._storage.get_study_id_from_name(names[0])

    @property
    def name(self) -> str:
        """The study's name: that of its folder."""
        return self.folder.path.name

    @property
    def holder(self) -> Holder | None:
        """The process that is writing to the study, None if there is none."""
        try:
            return holder(self.folder.lock)
        except OSError as error:
            raise StudyError("study cannot be read", where=self.folder.lock, found=error.strerror) from error

    @property
    def state(self) -> StudyState:
        """`running` while a process writes to it, then how its last session ended.

        `paused`: it was asked to keep the rest for later. `stopped`: it was asked to end, and the winner of what there
        was has been chosen. `finished`: its budget was used up, and the winner has been chosen. `interrupted`: none of
        these; it was killed or met an error.
        """
        return "running" if self.holder is not None else self.ended or "interrupted"

    @property
    def ended(self) -> Ended | None:
        """How its last session ended; None while one is at work, and when it was killed or met an error."""
        ending = self._ending()
        return None if ending is None else ending["how"]

    @property
    def begun(self) -> str | None:
        """When its first session began, UTC, ISO 8601; None if it is not known."""
        begun: str | None = self._attributes().get("begun")
        return begun or next((_utc(trial.datetime_start) for trial in self._trials() if trial.datetime_start), None)

    @property
    def updated(self) -> str | None:
        """When its last session ended, or its last candidate where none has; UTC, ISO 8601; None before any."""
        ending = self._ending()
        if ending is not None and ending["at"] is not None:
            return ending["at"]
        moments = (trial.datetime_complete or trial.datetime_start for trial in self._trials())
        last = max((moment for moment in moments if moment is not None), default=None)
        return None if last is None else _utc(last)

    @property
    def hours(self) -> float:
        """Hours of search until the last record, over all sessions."""
        known, later = self._read()
        seconds = [known.seconds, *map(_seconds, later)]
        seconds += [record["elapsed"] for record in self._records("baseline:", "finalist:", "note:")]
        return max(seconds) / 3600

    def candidates(self) -> tuple[Candidate, ...]:
        """All candidates; the one at index i has number i."""
        known, later = self._read()
        return (*known.candidates, *map(_candidate, later))

    @property
    def tally(self) -> Tally:
        """Counts over all candidates."""
        known, later = self._read()
        return known.tally.plus(map(_candidate, later))

    def candidate(self, number: int) -> Candidate:
        """One candidate.

        Raises:
            UsageError: there is none of that number.
        """
        known, later = self._read()
        count = len(known.candidates)
        if not 0 <= number < count + len(later):
            numbers = f"0 to {count + len(later) - 1}" if count or later else "the study has none yet"
            raise UsageError("no such candidate", where=f"study {self.name}", expected=numbers, found=number)
        return known.candidates[number] if number < count else _candidate(later[number - count])

    @property
    def best(self) -> Candidate | None:
        """The feasible candidate whose objective on dev has the highest lower limit, the earliest among equals."""
        return self.tally.best

    @property
    def winner(self) -> Candidate | None:
        """The candidate to hand over, never one that was refused on holdout.

        The elected one, if any, once the finalists have met the holdout. Until then, and again when a better one than
        all of theirs is found on dev, it is `best`; None if holdout refused that.
        """
        best = self.best
        elected = self._attributes().get("winner")
        if best is not None and elected is not None and elected["over"] == best.number:
            return None if elected["number"] is None else self.candidate(elected["number"])
        refused = {finalist.number for finalist in self.finalists() if not finalist.feasible}
        return None if best is None or best.number in refused else best

    def baselines(self) -> tuple[Baseline, ...]:
        """What the search has to beat: in the order that it has noted, else in that in which it was added."""
        return tuple(
            Baseline(**_fields(record), name=record["name"], recipe=record["recipe"])
            for record in sorted(self._records("baseline:"), key=self._place())
        )

    def finalists(self) -> tuple[Finalist, ...]:
        """What was scored on holdout: the baselines in their order, then candidates in that of being added."""
        return tuple(
            Finalist(**_fields(record), name=record["name"], number=record["number"])
            for record in sorted(self._records("finalist:"), key=self._place())
        )

    def notes(self) -> dict[str, Any]:
        """What else the search has recorded: name -> JSON value."""
        return {record["name"]: record["value"] for record in self._records("note:")}

    def differences(self) -> tuple[Difference, ...]:
        """How far the finalists are ahead of the best parent and of the uniform merge; empty until they have ended."""
        return tuple(
            Difference(
                **record
                | {
                    "objective": tuple(record["objective"]),
                    "tasks": {task: tuple(each) for task, each in record["tasks"].items()},
                }
            )
            for record in self.notes().get("differences", ())
        )

    @property
    def benchmarks(self) -> tuple[str, ...]:
        """The public benchmarks that steered the search, each as "task: data set (split)"."""
        return tuple(self.notes().get("benchmarks", ()))

    def tasks(self) -> dict[str, dict[str, Any]]:
        """task -> {metric: str, higher_is_better: bool}; empty until something was scored."""
        tasks: dict[str, dict[str, Any]] = self._attributes().get("tasks", {})
        return tasks

    def scores(self, name: str, result: Result) -> Scores:
        """What was scored, with its items, as it was when it was recorded.

        Args:
            name: that `candidate_items`, `baseline_items` or `holdout_items` gives.
            result: its result.

        Raises:
            StudyError: there are no items, or the file is damaged.
        """
        tasks = self.tasks()
        return {
            task: TaskScores(task, score=score, **vars(items), **tasks[task])
            for task, items in read_items(self.folder.items, name).items()
            if (score := result.scores.get(task)) is not None
        }

    @property
    def item_evaluations(self) -> int:
        """How many documents were scored in this study, over all tasks and recipes."""
        answers = self.notes().get(ANSWERS, {"item_evaluations": 0})
        others = sum(each.item_evaluations for each in (*self.baselines(), *self.finalists()))
        return self.tally.item_evaluations + others + int(answers["item_evaluations"])

    def _read(self) -> tuple[_Known, list[FrozenTrial]]:
        """The first candidates, as far as all of them have ended, and the trials of the others."""
        trials, known = self._trials(), self._known
        count = len(known.candidates)
        ended = [*takewhile(lambda trial: trial.state.is_finished(), trials[count:])]
        if ended:
            known = self._known = known.plus(ended)
        return known, trials[count + len(ended) :]

    def _trials(self) -> list[FrozenTrial]:
        with reading(self.folder.journal):
            return self._storage.get_all_trials(self._study_id, deepcopy=False)

    def _attributes(self) -> dict[str, Any]:
        with reading(self.folder.journal):
            return self._storage.get_study_user_attrs(self._study_id)

    def _ending(self) -> _Ending | None:
        """How and when its last session ended, None if it is going on or ended in no way of its own."""
        attributes = self._attributes()
        if attributes.get("finished") and "ended" not in attributes:  # of an older evomerge
            return {"how": "finished", "at": None}
        ending: _Ending | None = attributes.get("ended")
        return ending

    def _place(self) -> Callable[[Mapping[str, Any]], tuple[bool, int]]:
        """What sorts records of results: workers hand them back in any order."""
        places = {name: place for place, name in enumerate(self.notes().get(BASELINES, ()))}
        return lambda record: (record.get("number") is not None, places.get(record["name"], len(places)))

    def _records(self, *prefixes: str) -> list[dict[str, Any]]:
        return [record for key, record in self._attributes().items() if key.startswith(prefixes)]


def open_storage(folder: StudyFolder, config: Mapping[str, Any]) -> BaseStorage:
    """The storage of a study: the database that its config names under `storage`, else the journal in its folder.

    Raises:
        StudyError: it is missing, damaged or cannot be reached.
    """
    url = config.get("storage")
    return open_journal(folder.journal) if url is None else open_database(url)


def _utc(moment: datetime) -> str:
    """A local time, as Optuna records it."""
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def _candidate(trial: FrozenTrial) -> Candidate:
    attributes, state = trial.user_attrs, _STATES.get(trial.state)
    pruned = trial.state is TrialState.PRUNED and "outcome" not in attributes
    if state is None or pruned or not {"x", "recipe"} <= attributes.keys():
        raise StudyError("trial was not written by evomerge", where=f"trial {trial.number}", found=trial.state.name)
    return Candidate(
        **(_fields(attributes.get("outcome", _FOREIGN)) if state != "running" else {}),
        number=trial.number,
        state=state,
        x=tuple(attributes["x"]),
        genome=trial.params,
        recipe=attributes["recipe"],
        attempts=attributes.get("attempts", 1),
        rungs=tuple(Result(**_fields(record)) for record in _rungs(trial)),
    )


def _seconds(trial: FrozenTrial) -> float:
    """Of search until the last record of a trial, over all sessions."""
    steps = (*_rungs(trial), trial.user_attrs.get("outcome"))
    return max((step["elapsed"] for step in steps if step), default=0.0)


def _rungs(trial: FrozenTrial) -> list[dict[str, Any]]:
    attributes = trial.user_attrs
    return [attributes[rung_key(rung)] for rung in takewhile(lambda rung: rung_key(rung) in attributes, count())]


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    # a study of an older evomerge does not have them all
    found = {each.name: record[each.name] for each in fields(Result) if each.name in record}
    if (interval := found.get("objective_interval")) is not None:  # JSON has no tuples
        found["objective_interval"] = tuple(interval)
    return found | {"intervals": {task: tuple(limits) for task, limits in found.get("intervals", {}).items()}}


def best_of(candidates: Iterable[Candidate]) -> Candidate | None:
    """The feasible candidate whose objective has the highest lower limit, the earliest among equals."""
    return Tally().plus(candidates).best
