"""The Candidate page: what one recipe is, what it scored, and which documents it wins and loses."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from evomerge.dashboard.prompts import Prompt, prompts_of
from evomerge.dashboard.rendering import render
from evomerge.dashboard.shelf import Shelf
from evomerge.errors import StudyError
from evomerge.study import StudyView
from evomerge.study.document import CandidateDetail, StudyDocument, candidate_detail
from evomerge.study.export import caution
from evomerge.study.facts import study_facts
from evomerge.study.items import baseline_items, candidate_items
from evomerge.study.results import Candidate, Range
from evomerge.study.tasks import TaskFacts
from evomerge.study.view import StudyState
from fitness.items import TaskScores
from fitness.suite import BASE

ITEMS = 20  # documents on a page

Outcome: TypeAlias = Literal["lost", "won", "level"]

router = APIRouter()


class _Document(BaseModel):
    # JSON has no infinity: pydantic writes null
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class ItemsQuery(BaseModel):
    """Which documents to show.

    Attributes:
        task: of this task; None: the first.
        outcome: those that the candidate loses to the best parent, wins, or where the two are level.
        page: from 1; one past the end is the last.
    """

    model_config = ConfigDict(frozen=True)

    task: str | None = None
    outcome: Outcome = "lost"
    page: int = Field(default=1, ge=1, le=10**6)


class ScoreRow(_Document):
    """A candidate on one task.

    Attributes:
        task: what it is measured on, with its gate.
        score: on dev, null if it has none.
        interval: of the score, with 95 % confidence.
        cleared: whether the gate is cleared on dev; null without a gate or a score.
        limit: what was held against the gate in place of the score, where the gate asks for confidence.
        parent: the parent that is best on this task; null before any was scored.
        parent_score: what it scores on dev.
        holdout: the score there, null unless it is a finalist.
        holdout_interval: of that score.
        holdout_cleared: as `cleared`, on holdout.
    """

    task: TaskFacts
    score: float | None
    interval: Range | None
    cleared: bool | None
    limit: float | None
    parent: str | None
    parent_score: float | None
    holdout: float | None
    holdout_interval: Range | None
    holdout_cleared: bool | None


class Gene(_Document):
    """One dimension of the genome.

    Attributes:
        name: such as `weight.layers_0_8.self_attn.refunds`.
        value: in its own unit, or the option that was chosen.
        share: where the value lies between the bounds of the search, in [0, 1]; null for a choice.
    """

    name: str
    value: float | str
    share: float | None


class ItemRow(_Document):
    """One document.

    Attributes:
        doc_id: index into the task's documents.
        value: what the metric gives the candidate for it.
        rival: what it gives the parent that is best on the task.
        answer: what the candidate answered; null where that is not known.
        rival_answer: what that parent answered.
        right: whether the candidate's answer is right; null where the metric knows more than right and wrong.
        rival_right: whether the parent's is.
        prompt: the document as text; null unless the study's prompts have been read.
    """

    doc_id: int
    value: float
    rival: float
    answer: str | None
    rival_answer: str | None
    right: bool | None
    rival_right: bool | None
    prompt: Prompt | None


class Items(_Document):
    """Documents on dev, against the parent that is best on their task.

    Attributes:
        counts: task -> outcome -> how many documents.
        task: whose documents are shown.
        rival: the best parent on that task.
        outcome: which of them.
        likelihoods: the values are log-likelihoods in nats, not the metric's.
        answers: whether any answer on the task is known.
        page: the one that is shown, from 1.
        pages: how many there are, at least one.
        size: documents on a page.
        rows: the documents, by id.
        prompts: whether the study's prompts have been read.
    """

    counts: dict[str, dict[Outcome, int]]
    task: str
    rival: str
    outcome: Outcome
    likelihoods: bool
    answers: bool
    page: int
    pages: int
    size: int
    rows: tuple[ItemRow, ...]
    prompts: bool


class CandidatePage(_Document):
    """A candidate in full.

    Attributes:
        study: its study.
        state: of the study.
        candidate: scores, genome and recipe.
        rank: its place among the candidates that were scored on all items, from 1; null if it was not.
        ranked: how many these are.
        exported: it is what the study hands over.
        caution: what speaks against handing it over, null if nothing does.
        scores: by task, in the suite's order.
        genes: by dimension.
        timings: phase -> seconds.
        items: null if there are no scores of single documents to compare.
        items_problem: why they cannot be read; null if they can.
        previous: the number of the candidate before, null for the first.
        next: the number of the candidate after, null for the last.
    """

    study: str
    state: StudyState
    candidate: CandidateDetail
    rank: int | None
    ranked: int
    exported: bool
    caution: str | None
    scores: tuple[ScoreRow, ...]
    genes: tuple[Gene, ...]
    timings: dict[str, float]
    items: Items | None
    items_problem: str | None
    previous: int | None
    next: int | None


def candidate_page(
    study: StudyView, document: StudyDocument, number: int, query: ItemsQuery | None = None
) -> CandidatePage:
    """The page of a candidate.

    Args:
        study: its study.
        document: of the study, as it is now.
        number: of the candidate.
        query: which documents to show; None: those that it loses on the first task.

    Raises:
        UsageError: there is no candidate of that number.
        StudyError: the study is damaged.
    """
    candidate, detail = study.candidate(number), candidate_detail(study, number)
    facts = study_facts(study, document)
    items, problem = None, None
    try:
        items = _items(study, candidate, facts.tasks, query or ItemsQuery())
    except StudyError as error:  # the rest of the page is none the worse for it
        problem = str(error)
    return CandidatePage(
        study=document.study,
        state=document.state,
        candidate=detail,
        rank=facts.places.get(number),
        ranked=len(facts.order),
        exported=document.best is not None and document.best.number == number,
        caution=caution(study, candidate) if candidate.state == "complete" else None,
        scores=tuple(_score(task, detail) for task in facts.tasks),
        genes=genes(candidate),
        timings=dict(candidate.timings),
        items=items,
        items_problem=problem,
        previous=number - 1 if number > 0 else None,
        next=number + 1 if number + 1 < len(document.candidates) else None,
    )


def best_parent(task: TaskFacts) -> str | None:
    """The parent that is best on a task, the first among equals: what its gate may refer to. None before any."""
    parents = {model: score for model, score in task.references.items() if model != BASE}
    best = max if task.higher_is_better else min
    return best(parents, key=parents.__getitem__) if parents else None


def genes(candidate: Candidate) -> tuple[Gene, ...]:
    """The dimensions of a candidate's genome."""
    # an option has a place in the list of options, which tells nothing
    shares = candidate.x if len(candidate.x) == len(candidate.genome) else (None,) * len(candidate.genome)
    return tuple(
        Gene(name=name, value=value, share=None if isinstance(value, str) else share)
        for (name, value), share in zip(candidate.genome.items(), shares, strict=True)
    )


@router.get("/studies/{study}/candidates/{number}", response_class=HTMLResponse)
def candidate(
    request: Request,
    study: str,
    number: Annotated[int, Path(ge=0, le=10**9)],
    query: Annotated[ItemsQuery, Query()],
) -> HTMLResponse:
    """One candidate of a study."""
    shelf: Shelf = request.app.state.shelf
    page = candidate_page(shelf.study(study), shelf.snapshot(study).document, number, query)
    return render(request, "candidate.html.jinja", page=page)


def _score(task: TaskFacts, candidate: CandidateDetail) -> ScoreRow:
    holdout, parent = candidate.holdout, best_parent(task)
    return ScoreRow(
        task=task,
        score=candidate.scores.get(task.name),
        interval=candidate.intervals.get(task.name),
        cleared=candidate.gates.get(task.name),
        limit=candidate.limits.get(task.name),
        parent=parent,
        parent_score=None if parent is None else task.references[parent],
        holdout=None if holdout is None else holdout.scores.get(task.name),
        holdout_interval=None if holdout is None else holdout.intervals.get(task.name),
        holdout_cleared=None if holdout is None else holdout.gates.get(task.name),
    )


def _items(study: StudyView, candidate: Candidate, tasks: Sequence[TaskFacts], query: ItemsQuery) -> Items | None:
    own = study.scores(candidate_items(candidate.number), candidate) if candidate.scores else {}
    rivals = {task.name: parent for task in tasks if task.name in own and (parent := best_parent(task)) is not None}
    parents = {each.name: each for each in study.baselines()}
    kept = {name: study.scores(baseline_items(name), parents[name]) for name in sorted(set(rivals.values()))}
    pairs = {
        task: (own[task], kept[rival][task])
        for task, rival in rivals.items()
        if task in kept[rival] and set(own[task].doc_ids) <= set(kept[rival][task].doc_ids)
    }
    if not pairs:
        return None
    task = query.task if query.task in pairs else next(iter(pairs))
    outcomes = {name: _outcomes(mine, rival) for name, (mine, rival) in pairs.items()}
    chosen = sorted(doc_id for doc_id, outcome in outcomes[task].items() if outcome == query.outcome)
    pages = max(1, math.ceil(len(chosen) / ITEMS))
    page = min(query.page, pages)
    shown = chosen[(page - 1) * ITEMS : page * ITEMS]
    prompts = prompts_of(study.folder, task, shown)
    mine, rival = pairs[task]
    return Items(
        counts={name: _counts(each) for name, each in outcomes.items()},
        task=task,
        rival=rivals[task],
        outcome=query.outcome,
        likelihoods=_upwards(mine) != mine.higher_is_better,
        answers=mine.answers is not None or rival.answers is not None,
        page=page,
        pages=pages,
        size=ITEMS,
        rows=_rows(mine, rival, shown, prompts or {}),
        prompts=prompts is not None,
    )


def _outcomes(mine: TaskScores, rival: TaskScores) -> dict[int, Outcome]:
    """What became of each document of a candidate."""
    others, upwards = dict(zip(rival.doc_ids, rival.values, strict=True)), _upwards(mine)
    return {
        doc_id: _outcome(value, others[doc_id], upwards)
        for doc_id, value in zip(mine.doc_ids, mine.values, strict=True)
    }


def _rows(
    mine: TaskScores, rival: TaskScores, shown: Sequence[int], prompts: Mapping[int, Prompt]
) -> tuple[ItemRow, ...]:
    graded = mine.higher_is_better and _graded({*mine.values, *rival.values})
    own, others = _by_document(mine), _by_document(rival)
    return tuple(
        ItemRow(
            doc_id=doc_id,
            value=own[doc_id][0],
            rival=others[doc_id][0],
            answer=own[doc_id][1],
            rival_answer=others[doc_id][1],
            right=own[doc_id][0] == 1 if graded else None,
            rival_right=others[doc_id][0] == 1 if graded else None,
            prompt=prompts.get(doc_id),
        )
        for doc_id in shown
    )


def _by_document(scores: TaskScores) -> dict[int, tuple[float, str | None]]:
    answers = scores.answers or [None] * len(scores.doc_ids)
    return dict(zip(scores.doc_ids, zip(scores.values, answers, strict=True), strict=True))


def _graded(values: set[float]) -> bool:
    """Whether a document is right or wrong and nothing between; 0 for all may be a value that is not defined."""
    return 1 in values and values <= {0, 1}


def _upwards(scores: TaskScores) -> bool:
    """Whether a higher value is better for a document: what a perplexity keeps of each is its log-likelihood."""
    if scores.higher_is_better or not scores.values:
        return True
    return not math.isclose(scores.score, math.fsum(scores.values) / len(scores.values), rel_tol=1e-9, abs_tol=1e-12)


def _outcome(value: float, rival: float, upwards: bool) -> Outcome:
    if value == rival:
        return "level"
    return "won" if (value > rival) == upwards else "lost"


def _counts(outcomes: Mapping[int, Outcome]) -> dict[Outcome, int]:
    found = list(outcomes.values())
    kinds: tuple[Outcome, ...] = ("lost", "won", "level")
    return {kind: found.count(kind) for kind in kinds}
