"""The Compare page: a few candidates side by side, of one study or of several."""

import difflib
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeAlias

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict

from evomerge.dashboard.rendering import render
from evomerge.dashboard.shelf import Shelf
from evomerge.errors import OneLineError, UsageError
from evomerge.study import StudyView
from evomerge.study.document import CandidateDetail, StudyDocument, candidate_detail
from evomerge.study.export import nothing_feasible
from evomerge.study.verdict import ranked
from evomerge.study.view import StudyState

FEWEST, MOST = 2, 6
OFFERED = 10  # candidates of each study

LineKind: TypeAlias = Literal["same", "added", "removed", "place"]
Find: TypeAlias = Callable[[str], tuple[StudyView, StudyDocument]]

router = APIRouter()


class _Document(BaseModel):
    # JSON has no infinity: pydantic writes null
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class Side(_Document):
    """One of what is compared.

    Attributes:
        study: its study.
        state: of the study.
        candidates: that the study has.
        hours: of search, over all sessions of the study.
        best: it is what the study hands over.
        candidate: in full.
    """

    study: str
    state: StudyState
    candidates: int
    hours: float
    best: bool
    candidate: CandidateDetail

    @property
    def name(self) -> str:
        """As an address names it."""
        return f"{self.study}:{self.candidate.number}"


class TaskLine(_Document):
    """A task over all sides.

    Attributes:
        task: its name.
        metric: the metric of the first side that has the task.
        best: of each side, whether no other has a better score; all false where the metrics differ.
    """

    task: str
    metric: str
    best: tuple[bool, ...]


class GeneLine(_Document):
    """A dimension of the genome over all sides.

    Attributes:
        name: of the dimension.
        values: one for each side, null where its genome has no such dimension.
        differs: the values are not all the same.
    """

    name: str
    values: tuple[float | str | None, ...]
    differs: bool


class DiffLine(_Document):
    """A line of a unified diff."""

    kind: LineKind
    text: str


class Diff(_Document):
    """From the first side's recipe to another's.

    Attributes:
        side: which of the sides, from 1.
        lines: a unified diff; empty if the recipes are equal.
    """

    side: int
    lines: tuple[DiffLine, ...]


class ComparePage(_Document):
    """Candidates side by side.

    Attributes:
        asked: what was asked for, as it was.
        sides: what of it could be found.
        problems: why the rest could not.
        cautions: what makes the sides' scores hard to compare, or that there is one side only.
        tasks: of all sides, in the order of the first.
        genes: of all sides.
        diffs: from the first side's recipe to each other one's.
        studies: all of them, any of which could be asked for.
        candidates: of the studies that were asked for, those that rank highest: they could be asked for as well.
    """

    asked: tuple[str, ...]
    sides: tuple[Side, ...]
    problems: tuple[str, ...]
    cautions: tuple[str, ...]
    tasks: tuple[TaskLine, ...]
    genes: tuple[GeneLine, ...]
    diffs: tuple[Diff, ...]
    studies: tuple[str, ...]
    candidates: tuple[str, ...]


def compare_page(asked: Sequence[str], studies: Sequence[str], find: Find) -> ComparePage:
    """The page that compares candidates.

    Args:
        asked: each `study:number`, or `study` for what it hands over; empty ones do not count.
        studies: the names of all studies.
        find: gives a study of that name; it raises OneLineError where it cannot be read.
    """
    wanted = tuple(dict.fromkeys(text.strip() for text in asked if text.strip()))
    sides: list[Side] = []
    views: list[StudyView] = []
    documents: dict[str, StudyDocument] = {}
    problems = []
    for text in wanted[:MOST]:
        try:
            view, document, side = _side(text, studies, find)
        except OneLineError as error:
            problems.append(str(error))
        else:
            sides.append(side)
            views.append(view)
            documents[side.study] = document
    if len(wanted) > MOST:
        problems.append(f"at most {MOST} can be compared; the first {MOST} are")
    return ComparePage(
        asked=wanted,
        sides=tuple(sides),
        problems=tuple(problems),
        cautions=(*_alone(wanted), *_cautions(sides, views)),
        tasks=_tasks(sides, views),
        genes=_genes(sides),
        diffs=tuple(Diff(side=place, lines=_diff(sides[0], other)) for place, other in enumerate(sides[1:], start=2)),
        studies=tuple(studies),
        candidates=tuple(
            f"{study}:{candidate.number}"
            for study, document in documents.items()
            for candidate in ranked(document.candidates)[:OFFERED]
        ),
    )


@router.get("/compare", response_class=HTMLResponse)
def compare(request: Request, asked: Annotated[list[str], Query(alias="with", default_factory=list)]) -> HTMLResponse:
    """A few candidates side by side."""
    shelf: Shelf = request.app.state.shelf
    return render(request, "compare.html.jinja", page=comparison(shelf, asked))


def comparison(shelf: Shelf, asked: Sequence[str]) -> ComparePage:
    """The page that compares candidates of a dashboard's studies."""
    return compare_page(asked, shelf.names(), lambda name: (shelf.study(name), shelf.snapshot(name).document))


def _side(text: str, studies: Sequence[str], find: Find) -> tuple[StudyView, StudyDocument, Side]:
    name, number = text, None
    if name not in studies:  # a folder may be called anything
        name, _, digits = text.rpartition(":")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
            raise UsageError("no such study", where=text, expected="STUDY or STUDY:NUMBER")
        number = int(digits)
    view, document = find(name)
    if number is None:
        if document.best is None:
            raise nothing_feasible(view)
        number = document.best.number
    side = Side(
        study=name,
        state=document.state,
        candidates=len(document.candidates),
        hours=document.hours,
        best=document.best is not None and document.best.number == number,
        candidate=candidate_detail(view, number),
    )
    return view, document, side


def _alone(wanted: Sequence[str]) -> tuple[str, ...]:
    return (f"Name another one: {FEWEST} to {MOST} can be compared.",) if 0 < len(wanted) < FEWEST else ()


def _cautions(sides: Sequence[Side], views: Sequence[StudyView]) -> tuple[str, ...]:
    if not sides:
        return ()
    first = views[0].environment.tasks
    differing = {
        task: side.study
        for side, view in zip(sides, views, strict=True)
        for task, digest in view.environment.tasks.items()
        if first.get(task, digest) != digest
    }
    cautions = [
        f"{task} is not the same task in {sides[0].study} and in {study}: other documents, or scored in another way."
        for task, study in differing.items()
    ]
    partial = [side.name for side in sides if side.candidate.stopped is not None]
    if partial:
        cautions.append(f"A race stopped {', '.join(partial)}: scores over part of the documents.")
    return tuple(cautions)


def _tasks(sides: Sequence[Side], views: Sequence[StudyView]) -> tuple[TaskLine, ...]:
    facts = [view.tasks() for view in views]
    lines = []
    for task in dict.fromkeys(task for side in sides for task in side.candidate.scores):
        known = [each[task] for each in facts if task in each]
        scores = [side.candidate.scores.get(task) for side in sides]
        alike = all(each == known[0] for each in known)
        found = [score for score in scores if score is not None]
        top = max(found) if known[0]["higher_is_better"] else min(found)
        lines.append(
            TaskLine(
                task=task,
                metric=known[0]["metric"],
                best=tuple(alike and len(found) > 1 and score == top for score in scores),
            )
        )
    return tuple(lines)


def _genes(sides: Sequence[Side]) -> tuple[GeneLine, ...]:
    names = dict.fromkeys(name for side in sides for name in side.candidate.genome)
    lines = [(name, tuple(side.candidate.genome.get(name) for side in sides)) for name in names]
    return tuple(GeneLine(name=name, values=values, differs=len(set(values)) > 1) for name, values in lines)


def _diff(first: Side, other: Side) -> tuple[DiffLine, ...]:
    lines = difflib.unified_diff(
        first.candidate.recipe.splitlines(), other.candidate.recipe.splitlines(), first.name, other.name, lineterm=""
    )
    return tuple(DiffLine(kind=_kind(line), text=line) for line in lines)


def _kind(line: str) -> LineKind:
    if line.startswith(("@@", "---", "+++")):
        return "place"
    kinds: dict[str, LineKind] = {"+": "added", "-": "removed"}
    return kinds.get(line[:1], "same")
