"""Studies as documents: what `show --json` and `studies --json` print and what the dashboard shows."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeAlias
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict

from evomerge.errors import OneLineError
from evomerge.study.folder import folders_in
from evomerge.study.journal import understanding
from evomerge.study.results import Baseline, Candidate, Difference, Finalist, Range, Result, State, floor
from evomerge.study.status import read_status
from evomerge.study.view import StudyState, StudyView
from fitness.confidence import Estimate, combine

Triple: TypeAlias = tuple[float, float, float]
Lead: TypeAlias = tuple[float, float | None, float | None]

# of candidates that have ended: they do not change any more, and a study may have thousands
_made: "WeakKeyDictionary[StudyView, dict[int, CandidateDocument]]" = WeakKeyDictionary()


class _Document(BaseModel):
    # JSON has no infinity: pydantic writes null
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class ResultDocument(_Document):
    """What every scored recipe has.

    Attributes:
        scores: task -> score, in the task's own unit.
        intervals: task -> (low, high) of its score with 95 % confidence; a task whose metric has none is left out.
        gates: task -> whether its gate is cleared.
        violations: task -> relative miss of its gate; zero or less clears it.
        limits: task -> what was held against its gate in place of the score, where the gate asks for confidence or the
            score is over part of the items.
        feasible: scored on all items, and every gate cleared.
        objective: higher is better; null when it failed or is running.
        objective_interval: (low, high) with 95 % confidence; null where a task has none.
        objective_floor: what winners are chosen by: the lower limit, where a task without one is taken at its value;
            null when it failed or is running, and in studies of an older evomerge.
        seconds: merging and scoring.
        cached: its scores were known from an equal recipe, so that nothing was merged or scored.
        reason: why it failed.
        stopped: why a race stopped it: its scores are then over part of the items; null if none did.
        rung: how many rungs of the race it was scored on, null without a race.
        item_evaluations: how many documents were scored for it, over all tasks.
    """

    scores: dict[str, float]
    intervals: dict[str, Range]
    gates: dict[str, bool]
    violations: dict[str, float]
    limits: dict[str, float]
    feasible: bool
    objective: float | None
    objective_interval: Range | None
    objective_floor: float | None = None
    seconds: float | None
    cached: bool
    reason: str | None
    stopped: str | None
    rung: int | None
    item_evaluations: int

    @property
    def floor(self) -> float:
        """What winners are chosen by; see `Result.floor`."""
        return floor(self.objective, self.objective_interval, self.objective_floor)


class CandidateDocument(ResultDocument):
    """A candidate in the list of a study."""

    number: int
    state: State
    genome: dict[str, float | str]
    attempts: int


class CandidateDetail(CandidateDocument):
    """One candidate in full."""

    study: str
    x: tuple[float, ...]
    recipe: str
    holdout: ResultDocument | None


class BaselineDocument(ResultDocument):
    """A baseline, with the YAML that it was merged from."""

    name: str
    recipe: str


class FinalistDocument(ResultDocument):
    """A candidate or a baseline on holdout.

    Attributes:
        number: of the candidate, null for a baseline.
        optimism: (dev minus holdout, low, high) of a candidate's objective, with 95 % confidence; null if not known.
    """

    name: str
    number: int | None
    optimism: Triple | None


class DifferenceDocument(_Document):
    """How far a candidate is ahead of a baseline over the same documents.

    Attributes:
        candidate: its number.
        rival: the name of the baseline: the parent with the best objective on dev, or the uniform merge.
        objective: (difference, low, high) of the objective, with 95 % confidence; low and high are null where a task
            has no interval.
        tasks: task -> the same of its score, in its unit; a task whose metric has no interval is left out.
    """

    candidate: int
    rival: str
    split: Literal["dev", "holdout"]
    objective: Lead
    tasks: dict[str, Triple]


class StudyDocument(_Document):
    """A study. Keys may be added, not renamed.

    Attributes:
        best: the candidate that export hands over, null if there is none: the feasible one whose objective on dev has
            the highest lower limit; once the finalists have met the holdout, the first of them that clears every gate
            there too.
        finalists: what was scored on holdout: baselines, then candidates, the best on dev first.
        differences: of the finalists to the best parent and to the uniform merge; empty until the search has ended.
        hours: of search, over all sessions.
        item_evaluations: how many documents were scored, over all tasks and recipes.
        benchmarks: public ones that steered the search: its scores on them are no benchmark results.
    """

    study: str
    state: StudyState
    best: CandidateDocument | None
    hours: float
    item_evaluations: int
    benchmarks: tuple[str, ...]
    baselines: tuple[BaselineDocument, ...]
    finalists: tuple[FinalistDocument, ...]
    differences: tuple[DifferenceDocument, ...]
    candidates: tuple[CandidateDocument, ...]


class StudySummary(_Document):
    """One line of `evomerge studies`.

    Attributes:
        candidates: asked so far, those that are running among them.
        done: candidates that have their result.
        total: the budget of candidates.
        objective: of the candidate that export hands over, null without one.
        objective_interval: of the same, (low, high) with 95 % confidence.
        gates_cleared: by the candidate that export hands over, else by the one that comes nearest; null before any.
        gates: how many there are; null before any candidate was scored.
        hours: of search, over all sessions.
        rate: candidates per hour in the session that is running; null until it is worth telling.
        seconds_left: until the budget of the session that is running is used up; null until it is worth telling.
        begun: when its first session began, UTC, ISO 8601; null if it is not known.
        updated: when it was last heard of, UTC, ISO 8601; null if it is not known.
    """

    study: str
    folder: str
    state: StudyState
    candidates: int
    done: int
    total: int | None
    feasible: int
    objective: float | None
    objective_interval: Range | None
    gates_cleared: int | None
    gates: int | None
    hours: float
    rate: float | None
    seconds_left: float | None
    begun: str | None
    updated: str | None
    reason: None = None


class BrokenStudy(_Document):
    """A folder under runs_dir that cannot be read as a study, and why."""

    study: str
    folder: str
    state: Literal["broken"] = "broken"
    reason: str


StudyEntry: TypeAlias = StudySummary | BrokenStudy


def study_document(study: StudyView) -> StudyDocument:
    """The document of a study as it is now. Raises StudyError if its records are damaged."""
    with understanding(study.folder.path):
        winner, candidates = study.winner, study.candidates()
        documents = _candidates(study, candidates)
        return StudyDocument(
            study=study.name,
            state=study.state,
            best=None if winner is None else documents[winner.number],
            hours=study.hours,
            item_evaluations=study.item_evaluations,
            benchmarks=study.benchmarks,
            baselines=tuple(map(_baseline, study.baselines())),
            finalists=tuple(
                _finalist(finalist, candidates)
                for finalist in sorted(study.finalists(), key=lambda each: _place(each, candidates))
            ),
            differences=tuple(map(_difference, study.differences())),
            candidates=documents,
        )


def candidate_detail(study: StudyView, number: int) -> CandidateDetail:
    """The document of one candidate.

    Raises:
        UsageError: there is none of that number.
        StudyError: the records of the study are damaged.
    """
    with understanding(study.folder.path):
        candidate = study.candidate(number)
        finalist = next((each for each in study.finalists() if each.number == number), None)
        return CandidateDetail(
            **_candidate(candidate).model_dump(),
            study=study.name,
            x=candidate.x,
            recipe=candidate.recipe,
            holdout=None if finalist is None else _result(finalist),
        )


def list_studies(runs_dir: Path) -> tuple[StudyEntry, ...]:
    """Every folder in `runs_dir`, by name, the broken ones with the reason."""
    return tuple(map(study_entry, folders_in(runs_dir)))


def study_summary(study: StudyView) -> StudySummary:
    """How a study stands."""
    tally, winner, status = study.tally, study.winner, read_status(study.folder)
    shown = winner or tally.nearest
    return StudySummary(
        study=study.name,
        folder=str(study.folder.path),
        state=study.state,
        candidates=tally.candidates,
        done=tally.done,
        total=candidate_budget(study),
        feasible=tally.feasible,
        objective=None if winner is None else winner.objective,
        objective_interval=None if winner is None else winner.objective_interval,
        gates_cleared=None if shown is None else sum(shown.gates.values()),
        gates=None if shown is None else len(shown.gates),
        hours=study.hours,
        rate=None if status is None else status.rate,
        seconds_left=None if status is None else status.seconds_left,
        begun=study.begun,
        updated=study.updated if status is None else status.updated,
    )


def candidate_budget(study: StudyView) -> int | None:
    """The candidates of the budget; None in the config of what is no search."""
    budget = study.config.get("budget")
    candidates = budget.get("candidates") if isinstance(budget, dict) else None
    return candidates if isinstance(candidates, int) else None


def study_entry(folder: Path, open_study: Callable[[Path], StudyView] = StudyView) -> StudyEntry:
    """How the study in a folder stands, or why it cannot be read.

    Args:
        folder: of the study.
        open_study: opens it.
    """
    try:
        with understanding(folder):
            return study_summary(open_study(folder))
    except OneLineError as error:
        return BrokenStudy(study=folder.name, folder=str(folder), reason=str(error))


def _result(result: Result) -> ResultDocument:
    return ResultDocument(
        scores=dict(result.scores),
        intervals=dict(result.intervals),
        gates=result.gates,
        violations=dict(result.violations),
        limits=dict(result.limits),
        feasible=result.feasible,
        objective=result.objective,
        objective_interval=result.objective_interval,
        objective_floor=result.objective_floor,
        seconds=result.seconds,
        cached=result.cached,
        reason=result.reason,
        stopped=result.stopped,
        rung=result.rung,
        item_evaluations=result.item_evaluations,
    )


def _candidate(candidate: Candidate) -> CandidateDocument:
    return CandidateDocument(
        **_result(candidate).model_dump(),
        number=candidate.number,
        state=candidate.state,
        genome=dict(candidate.genome),
        attempts=candidate.attempts,
    )


def _candidates(study: StudyView, candidates: Sequence[Candidate]) -> tuple[CandidateDocument, ...]:
    """The documents of all candidates; those of ended ones are made once for each view."""
    made = _made.setdefault(study, {})
    for candidate in candidates:
        if candidate.state != "running" and candidate.number not in made:
            made[candidate.number] = _candidate(candidate)
    return tuple(made.get(candidate.number) or _candidate(candidate) for candidate in candidates)


def _baseline(baseline: Baseline) -> BaselineDocument:
    return BaselineDocument(**_result(baseline).model_dump(), name=baseline.name, recipe=baseline.recipe)


def _finalist(finalist: Finalist, candidates: Sequence[Candidate]) -> FinalistDocument:
    dev = None if finalist.number is None else candidates[finalist.number]
    return FinalistDocument(
        **_result(finalist).model_dump(),
        name=finalist.name,
        number=finalist.number,
        optimism=None if dev is None else _optimism(dev, finalist),
    )


def _place(finalist: Finalist, candidates: Sequence[Candidate]) -> tuple[bool, float]:
    """Baselines first, in the order that they have; then candidates in that in which the winner is looked for."""
    if finalist.number is None:
        return False, 0.0
    return True, -candidates[finalist.number].floor


def _difference(difference: Difference) -> DifferenceDocument:
    value, *limits = difference.objective
    low, high = (limit if math.isfinite(limit) else None for limit in limits)
    return DifferenceDocument(**vars(difference) | {"objective": (value, low, high)})


def _optimism(dev: Result, holdout: Result) -> Triple | None:
    """By how much dev was better than holdout; their documents differ, so their doubts add up."""
    if dev.objective is None or dev.objective_interval is None:
        return None
    if holdout.objective is None or holdout.objective_interval is None:
        return None
    low, high = holdout.objective_interval
    return combine(
        [(1, Estimate(dev.objective, *dev.objective_interval)), (1, Estimate(-holdout.objective, -high, -low))]
    )
