"""The study page: one typed view model, which the dashboard, its API and the report share."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field

from evomerge.errors import UsageError, nearest
from evomerge.study.document import (
    BaselineDocument,
    CandidateDocument,
    DifferenceDocument,
    FinalistDocument,
    ResultDocument,
    StudyDocument,
    Triple,
    candidate_budget,
)
from evomerge.study.facts import StudyFacts, study_facts
from evomerge.study.figures import FigureFacts, figure_facts
from evomerge.study.log import tail
from evomerge.study.provenance import Environment
from evomerge.study.results import Range
from evomerge.study.status import Status, read_status
from evomerge.study.tasks import TaskFacts
from evomerge.study.verdict import Kind, evidence, verdict
from evomerge.study.view import StudyState, StudyView

MATRIX = 30  # candidates in the gate matrix
LOG = 50  # lines of the log
_NAMED = 12  # what failed for one reason, by name

Filter: TypeAlias = Literal["all", "feasible", "infeasible", "stopped", "failed", "running"]


class _Page(BaseModel):
    # JSON has no infinity: pydantic writes null
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="null")


class CandidateQuery(_Page):
    """Which candidates the table shows.

    Attributes:
        page: from 1; one past the end is the last.
        size: rows of a page.
        sort: rank, number, objective, seconds or task:NAME, ascending; a minus before it turns it around. Rank is the
            order in which winners are chosen. What has no value comes last either way.
        filter: one kind of candidates, or all.
    """

    model_config = ConfigDict(extra="ignore")  # an address may carry what else a page is told

    page: int = Field(default=1, ge=1)
    size: int = Field(default=25, ge=1, le=200)
    sort: str = "rank"
    filter: Filter = "all"


class CandidateRow(ResultDocument):
    """A candidate as a row of a table.

    Attributes:
        number: of the candidate.
        kind: feasible, infeasible, stopped by a race, failed or running.
        rank: from 1, in the order in which winners are chosen; null for one that has none.
    """

    number: int
    kind: Kind
    rank: int | None


class CandidateTable(_Page):
    """One page of the candidates.

    Attributes:
        page: the one that is shown, from 1.
        pages: how many there are, at least one.
        found: candidates that the filter lets through.
        sort: as it was asked.
        filter: as it was asked.
    """

    page: int
    pages: int
    size: int
    found: int
    sort: str
    filter: Filter
    rows: tuple[CandidateRow, ...]


class Optimism(_Page):
    """What dev promised of a finalist, and what holdout says.

    Attributes:
        candidate: its number.
        dev: its objective there.
        dev_interval: (low, high) of that, with 95 % confidence; null without one.
        holdout: its objective there, null if it failed.
        holdout_interval: (low, high) of that.
        optimism: (dev minus holdout, low, high), null if it is not known.
    """

    candidate: int
    dev: float | None
    dev_interval: Range | None
    holdout: float | None
    holdout_interval: Range | None
    optimism: Triple | None


class Failure(_Page):
    """What failed for one reason.

    Attributes:
        count: how many did.
        names: the first of them, such as "candidate 3".
    """

    reason: str
    count: int
    names: tuple[str, ...]


class StudyPage(_Page):
    """A study at a glance.

    Attributes:
        done: candidates that have their result.
        total: the budget of candidates.
        hours: of search, over all sessions.
        leader: the candidate to export, else the one that comes nearest; null before any was scored.
        best: the number of the candidate to export, null if there is none.
        recipe: of `best`, as YAML.
        verdict: whether the search was worth it, in sentences.
        good: the candidate to export beats every baseline that clears the gates.
        evidence: how sure that is, in sentences.
        counts: how many candidates of each kind there are, and of all.
        table: one page of the candidates.
        matrix: the candidates that rank highest, for their margins to the gates.
        failures: by reason, the most frequent first.
        status: what the search does at the moment, null if none is running.
        log: the last lines of its log.
        figures: what can be drawn.
    """

    study: str
    state: StudyState
    done: int
    total: int | None
    hours: float
    leader: CandidateRow | None
    best: int | None
    recipe: str | None
    verdict: str
    good: bool
    evidence: tuple[str, ...]
    benchmarks: tuple[str, ...]
    item_evaluations: int
    counts: dict[Filter, int]
    tasks: tuple[TaskFacts, ...]
    table: CandidateTable
    matrix: tuple[CandidateRow, ...]
    baselines: tuple[BaselineDocument, ...]
    finalists: tuple[FinalistDocument, ...]
    optimism: tuple[Optimism, ...]
    differences: tuple[DifferenceDocument, ...]
    failures: tuple[Failure, ...]
    status: Status | None
    log: tuple[str, ...]
    environment: Environment
    figures: tuple[FigureFacts, ...]


def study_page(study: StudyView, document: StudyDocument, query: CandidateQuery | None = None) -> StudyPage:
    """The page of a study.

    Args:
        study: to show.
        document: of the study, as it is now.
        query: which candidates the table shows; None: the first page of all, by rank.

    Raises:
        StudyError: the study is damaged.
        UsageError: the query sorts by what the study does not have.
    """
    facts = study_facts(study, document)
    leader = document.best if document.best is not None else next(iter(facts.order), None)
    counts = Counter(facts.kinds)
    opinion = verdict(document)
    return StudyPage(
        study=document.study,
        state=document.state,
        done=len(facts.kinds) - counts["running"],
        total=candidate_budget(study),
        hours=document.hours,
        leader=None if leader is None else _row(leader, facts),
        best=None if document.best is None else document.best.number,
        recipe=facts.recipe,
        verdict=opinion.text,
        good=opinion.good,
        evidence=tuple(evidence(document)),
        benchmarks=document.benchmarks,
        item_evaluations=document.item_evaluations,
        counts={"all": len(facts.kinds), **{kind: counts[kind] for kind in get_args(Kind)}},
        tasks=facts.tasks,
        table=candidate_table(facts, query or CandidateQuery()),
        matrix=tuple(_row(each, facts) for each in facts.order[:MATRIX]),
        baselines=document.baselines,
        finalists=document.finalists,
        optimism=_optimism(document),
        differences=document.differences,
        failures=failures(document),
        status=read_status(study.folder),
        log=log_tail(study, LOG),
        environment=study.environment,
        figures=figure_facts(facts),
    )


def candidate_table(facts: StudyFacts, query: CandidateQuery) -> CandidateTable:
    """One page of the candidates.

    Raises:
        UsageError: the query sorts by what the study does not have.
    """
    pairs = zip(facts.document.candidates, facts.kinds, strict=True)
    found = [each for each, kind in pairs if query.filter in ("all", kind)]
    values = _values(query.sort.removeprefix("-"), facts)
    known = [each for each in found if each.number in values]
    known.sort(key=lambda each: values[each.number], reverse=query.sort.startswith("-"))
    ordered = known + [each for each in found if each.number not in values]
    pages = max(1, math.ceil(len(ordered) / query.size))
    page = min(query.page, pages)
    shown = ordered[(page - 1) * query.size : page * query.size]
    return CandidateTable(
        page=page,
        pages=pages,
        size=query.size,
        found=len(found),
        sort=query.sort,
        filter=query.filter,
        rows=tuple(_row(each, facts) for each in shown),
    )


def failures(study: StudyDocument) -> tuple[Failure, ...]:
    """What failed, by reason, the most frequent first."""
    rows: list[tuple[str, ResultDocument]] = [(f"candidate {each.number}", each) for each in study.candidates]
    rows += [(f"baseline {each.name}", each) for each in study.baselines]
    rows += [(f"{each.name} on holdout", each) for each in study.finalists]
    by_reason: dict[str, list[str]] = {}
    for name, result in rows:
        if result.reason is not None:
            by_reason.setdefault(result.reason, []).append(name)
    return tuple(
        Failure(reason=reason, count=len(names), names=tuple(names[:_NAMED]))
        for reason, names in sorted(by_reason.items(), key=lambda each: -len(each[1]))
    )


def log_tail(study: StudyView, lines: int) -> tuple[str, ...]:
    """The last lines of the search's log; none where it cannot be read."""
    return tail(study.folder.path / "search.log", lines)


def _row(candidate: CandidateDocument, facts: StudyFacts) -> CandidateRow:
    fields = {name: getattr(candidate, name) for name in ResultDocument.model_fields}
    number = candidate.number
    return CandidateRow(**fields, number=number, kind=facts.kinds[number], rank=facts.places.get(number))


def _values(column: str, facts: StudyFacts) -> Mapping[int, float]:
    """The number of each candidate that has a value in a column -> the value.

    Raises:
        UsageError: there is no such column.
    """
    tasks = {f"task:{task.name}": task.name for task in facts.tasks}
    candidates = facts.document.candidates
    if column == "rank":
        return facts.places
    if column == "number":
        return {each.number: each.number for each in candidates}
    if column == "objective":
        return {each.number: each.objective for each in candidates if each.objective is not None}
    if column == "seconds":
        return {each.number: each.seconds for each in candidates if each.seconds is not None}
    if column in tasks:
        return {each.number: each.scores[tasks[column]] for each in candidates if tasks[column] in each.scores}
    known = ["rank", "number", "objective", "seconds", *tasks]
    raise UsageError("candidates cannot be sorted by that", where="sort", found=column, remedy=nearest(column, known))


def _optimism(study: StudyDocument) -> tuple[Optimism, ...]:
    return tuple(
        Optimism(
            candidate=each.number,
            dev=study.candidates[each.number].objective,
            dev_interval=study.candidates[each.number].objective_interval,
            holdout=each.objective,
            holdout_interval=each.objective_interval,
            optimism=each.optimism,
        )
        for each in study.finalists
        if each.number is not None
    )
