"""The Studies page: every study under the runs folder, what it is at, and how far it is."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict

from evomerge.dashboard.processes import Job
from evomerge.dashboard.rendering import render
from evomerge.dashboard.shelf import Shelf
from evomerge.study.document import BrokenStudy, StudyEntry, StudySummary

AnyState: TypeAlias = Literal["running", "paused", "interrupted", "stopped", "finished", "broken"]
Action: TypeAlias = Literal["pause", "stop", "resume"]
Column: TypeAlias = Literal["study", "state", "progress", "objective", "gates", "rate", "left", "updated"]

FAILED = 5  # launches that are told of
STATES: tuple[AnyState, ...] = ("running", "paused", "interrupted", "stopped", "finished", "broken")
_ACTIONS: dict[str, tuple[Action, ...]] = {
    "running": ("pause", "stop"),
    "paused": ("resume",),
    "interrupted": ("resume",),
    "stopped": ("resume",),
}

router = APIRouter()


class StudiesQuery(BaseModel):
    """Which studies to show, and in which order.

    Attributes:
        state: only those in this state; None shows all.
        sort: what they are ordered by; studies that have no value there come last.
        descending: from the largest value to the smallest.
    """

    model_config = ConfigDict(frozen=True)

    state: AnyState | None = None
    sort: Column = "updated"
    descending: bool = True


class StudyRow(BaseModel):
    """A study, and what can be done with it from the list."""

    model_config = ConfigDict(frozen=True)

    entry: StudyEntry
    actions: tuple[Action, ...]


class StudiesPage(BaseModel):
    """The Studies page.

    Attributes:
        query: what was asked for.
        rows: the studies that it lets through, in its order.
        counts: state -> how many studies there are; states without any are left out.
        total: how many studies there are in all.
        starting: launches whose search has no folder yet, the latest first.
        failed: launches and resumes that have failed and that nothing has come after, the latest first.
    """

    model_config = ConfigDict(frozen=True)

    query: StudiesQuery
    rows: tuple[StudyRow, ...]
    counts: dict[AnyState, int]
    total: int
    starting: tuple[Job, ...]
    failed: tuple[Job, ...]


def studies_page(entries: Sequence[StudyEntry], query: StudiesQuery, searches: Sequence[Job] = ()) -> StudiesPage:
    """The page of these studies.

    Args:
        entries: the studies.
        query: which of them to show.
        searches: of each study the one that was started last from a page, the latest first.
    """
    known = {entry.study: entry for entry in entries}
    counts = Counter(entry.state for entry in entries)
    chosen = [entry for entry in entries if query.state in (None, entry.state)]
    return StudiesPage(
        query=query,
        rows=tuple(StudyRow(entry=each, actions=_ACTIONS.get(each.state, ())) for each in _ordered(chosen, query)),
        counts={state: counts[state] for state in STATES if counts[state]},
        total=len(entries),
        starting=tuple(job for job in searches if job.state == "running" and job.study not in known),
        failed=tuple(job for job in searches if _is_last_word(job, known.get(job.study)))[:FAILED],
    )


def has_failed_last(job: Job, state: AnyState, updated: str | None) -> bool:
    """Whether a search has failed, and is the last that was heard of its study."""
    return job.state == "failed" and state != "running" and (updated or "") <= (job.ended or "")


@router.get("/", response_class=HTMLResponse)
def studies(request: Request, query: Annotated[StudiesQuery, Query()]) -> HTMLResponse:
    """Every study under the runs folder."""
    shelf: Shelf = request.app.state.shelf
    page = studies_page(shelf.entries(), query, request.app.state.processes.searches())
    return render(request, "studies.html.jinja", page=page)


def _is_last_word(job: Job, entry: StudyEntry | None) -> bool:
    if entry is None:  # it has not come to a folder
        return job.state == "failed"
    return has_failed_last(job, entry.state, None if isinstance(entry, BrokenStudy) else entry.updated)


def _ordered(entries: Sequence[StudyEntry], query: StudiesQuery) -> list[StudyEntry]:
    by_name = sorted(entries, key=lambda entry: entry.study)
    known: list[tuple[Any, StudyEntry]] = []
    unknown: list[StudyEntry] = []
    for entry in by_name:
        value = _value(entry, query.sort)
        if value is None:
            unknown.append(entry)
        else:
            known.append((value, entry))
    known.sort(key=lambda each: each[0], reverse=query.descending)
    return [entry for _, entry in known] + unknown


def _value(entry: StudyEntry, column: Column) -> Any:
    """What a study is ordered by, None if it has no such value."""
    if column == "study":
        return entry.study
    if column == "state":
        return STATES.index(entry.state)
    return None if isinstance(entry, BrokenStudy) else _NUMBERS[column](entry)


def _gates_missed(entry: StudySummary) -> int | None:
    """The negative number of them: none is the most."""
    if entry.gates_cleared is None or entry.gates is None:
        return None
    return entry.gates_cleared - entry.gates


_NUMBERS: dict[str, Callable[[StudySummary], Any]] = {
    "progress": lambda entry: entry.done / entry.total if entry.total else None,
    "objective": lambda entry: entry.objective,
    "gates": _gates_missed,
    "rate": lambda entry: entry.rate,
    "left": lambda entry: entry.seconds_left,
    # what is running is being updated
    "updated": lambda entry: (entry.state == "running", entry.updated or ""),
}
