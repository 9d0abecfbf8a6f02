"""Studies as documents: what `show --json` and `studies --json` print and what the dashboard shows."""

from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

from evomerge.errors import OneLineError
from evomerge.study.folder import folders_in
from evomerge.study.results import Baseline, Candidate, Finalist, Result, State
from evomerge.study.view import StudyState, StudyView


class _Document(BaseModel):
    # JSON has no infinity: pydantic writes null
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class ResultDocument(_Document):
    """What every scored recipe has.

    Attributes:
        scores: task -> score, in the task's own unit.
        gates: task -> whether its gate is cleared.
        violations: task -> relative miss of its gate; zero or less clears it.
        feasible: scored, and every gate cleared.
        objective: higher is better; null when it failed or is running.
        seconds: merging and scoring.
        reason: why it failed.
    """

    scores: dict[str, float]
    gates: dict[str, bool]
    violations: dict[str, float]
    feasible: bool
    objective: float | None
    seconds: float | None
    reason: str | None


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
    """A candidate or a baseline on holdout; `number` is null for a baseline."""

    name: str
    number: int | None


class StudyDocument(_Document):
    """A study. Keys may be added, not renamed.

    Attributes:
        best: the candidate that export hands over, null if there is none: the feasible one with the highest objective
            on dev; once the finalists have met the holdout, the first of them that clears every gate there too.
        hours: of search, over all sessions.
        benchmarks: public ones that steered the search: its scores on them are no benchmark results.
    """

    study: str
    state: StudyState
    best: CandidateDocument | None
    hours: float
    benchmarks: tuple[str, ...]
    baselines: tuple[BaselineDocument, ...]
    finalists: tuple[FinalistDocument, ...]
    candidates: tuple[CandidateDocument, ...]


class StudySummary(_Document):
    """One line of `evomerge studies`; `objective` is that of the candidate that export hands over, null without one."""

    study: str
    folder: str
    state: StudyState
    candidates: int
    feasible: int
    objective: float | None
    hours: float
    reason: None = None


class BrokenStudy(_Document):
    """A folder under runs_dir that cannot be read as a study, and why."""

    study: str
    folder: str
    state: Literal["broken"] = "broken"
    reason: str


StudyEntry: TypeAlias = StudySummary | BrokenStudy


def study_document(study: StudyView) -> StudyDocument:
    """The document of a study as it is now."""
    winner = study.winner
    return StudyDocument(
        study=study.name,
        state=study.state,
        best=None if winner is None else _candidate(winner),
        hours=study.hours,
        benchmarks=study.benchmarks,
        baselines=tuple(map(_baseline, study.baselines())),
        finalists=tuple(map(_finalist, study.finalists())),
        candidates=tuple(map(_candidate, study.candidates())),
    )


def candidate_detail(study: StudyView, number: int) -> CandidateDetail:
    """The document of one candidate. Raises UsageError if there is none of that number."""
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
    return tuple(map(_entry, folders_in(runs_dir)))


def _entry(folder: Path) -> StudyEntry:
    try:
        study = StudyView(folder)
        candidates, winner = study.candidates(), study.winner
        return StudySummary(
            study=study.name,
            folder=str(folder),
            state=study.state,
            candidates=len(candidates),
            feasible=sum(candidate.feasible for candidate in candidates),
            objective=None if winner is None else winner.objective,
            hours=study.hours,
        )
    except OneLineError as error:
        return BrokenStudy(study=folder.name, folder=str(folder), reason=str(error))


def _result(result: Result) -> ResultDocument:
    return ResultDocument(
        scores=dict(result.scores),
        gates=result.gates,
        violations=dict(result.violations),
        feasible=result.feasible,
        objective=result.objective,
        seconds=result.seconds,
        reason=result.reason,
    )


def _candidate(candidate: Candidate) -> CandidateDocument:
    return CandidateDocument(
        **_result(candidate).model_dump(),
        number=candidate.number,
        state=candidate.state,
        genome=dict(candidate.genome),
        attempts=candidate.attempts,
    )


def _baseline(baseline: Baseline) -> BaselineDocument:
    return BaselineDocument(**_result(baseline).model_dump(), name=baseline.name, recipe=baseline.recipe)


def _finalist(finalist: Finalist) -> FinalistDocument:
    return FinalistDocument(**_result(finalist).model_dump(), name=finalist.name, number=finalist.number)
