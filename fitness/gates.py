"""Gates: which tasks meet their bound, and by how much the others miss."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fitness.confidence import CONFIDENCE, Estimate, Range
from fitness.errors import ScoringError, SuiteError
from fitness.estimates import presumed_ranges, score_difference, score_interval, wants_range
from fitness.items import TaskScores, summary
from fitness.suite import BASE, BEST_PARENT, Gate, SuiteConfig

# Rounding in factor x score must not fail a score that meets its bound exactly.
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class GateResult:
    """How one task stands to its gate.

    Attributes:
        task: the task.
        bound: the bound in the metric's own units, relative gates resolved.
        score: the task's score.
        limit: what must meet the bound: the score; with `confidence` the end of its interval that is nearer to a miss;
            over part of the documents, what in its interval is nearest to the bound, unless the score meets it.
        violation: relative miss, (bound - limit) / |bound| for `at_least` and its negative for `at_most`; <= 0 clears.
        cleared: whether the gate is cleared.
    """

    task: str
    bound: float
    score: float
    limit: float
    violation: float
    cleared: bool


def judge(
    scores: Mapping[str, TaskScores],
    suite: SuiteConfig,
    references: Mapping[str, Mapping[str, TaskScores]],
    *,
    partial: Collection[str] = (),
    ranges: Mapping[str, Range] | None = None,
) -> list[GateResult]:
    """Hold each score against its gate.

    A relative gate with `confidence` is judged by the difference to the reference over the documents that both have
    scored, which is far less uncertain than either score; without such documents, by the reference's score. Where two
    or more of them all differ alike and no range of the metric is known, that difference is taken for what it is, as if
    they differed all but alike. See `fitness.estimates` for the intervals.

    Args:
        scores: task -> its scores.
        suite: gives the gates.
        references: model -> task -> its scores, for the base (under `base`) and each parent (under its name), no
            others.
        partial: the tasks of which more documents are to follow: their gates are only missed by as much as the whole
            interval misses them, and without one not at all. A few documents miss many a gate by chance.
        ranges: as `fitness.estimates.presumed_ranges` has them; None: those that the suite states.

    Returns:
        One result per gate, in the suite's order; empty when the suite has none.

    Raises:
        SuiteError: a gate is relative to a model without a score, or to a negative one; or it asks for confidence in a
            score that has no interval with any model.
        ScoringError: a score has no interval, though those of the references do.
    """
    resolved = bounds(suite, {model: summary(each) for model, each in references.items()})
    ranges = presumed_ranges(suite, ()) if ranges is None else ranges
    results = []
    for task in suite.tasks:
        if task.gate is None:
            continue
        bound, model = resolved[task.name]
        own = scores[task.name]
        reference = None if model is None else references[model][task.name]
        within = ranges.get(task.name)
        limit = _limit(task.gate, own, bound, reference, within, partial=task.name in partial)
        if limit is None:
            others = [each[task.name] for each in references.values() if task.name in each]
            have = any(score_interval(other, within=within) is not None for other in others)
            raise _no_interval(task.gate, own, have)
        miss = (bound - limit if task.gate.at_least is not None else limit - bound) / (abs(bound) or 1.0)
        violation = 0.0 if abs(miss) < _TOLERANCE else miss
        results.append(GateResult(task.name, bound, own.score, limit, violation, violation <= 0))
    return results


def bounds(suite: SuiteConfig, references: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[float, str | None]]:
    """The bounds of the gates.

    Args:
        suite: gives the gates.
        references: model -> task -> score, of the models that `judge` takes.

    Returns:
        Task -> (the bound in the metric's own units, the model that a relative one refers to).

    Raises:
        SuiteError: a gate is relative to a model without a score, or to a negative one.
    """
    return {task.name: _bound(task.name, task.gate, references) for task in suite.tasks if task.gate is not None}


def _bound(task: str, gate: Gate, references: Mapping[str, Mapping[str, float]]) -> tuple[float, str | None]:
    if gate.of is None:
        return gate.factor, None
    models = [name for name in references if name != BASE] if gate.of == BEST_PARENT else [gate.of]
    known = {model: references[model][task] for model in models if task in references.get(model, {})}
    if not known:
        raise SuiteError("gate has no reference score", where=f"task {task}", expected=f"a score of {gate.of!r}")
    # The best parent is the one that sets the stricter bound: the highest for at_least, the lowest for at_most.
    model = (max if gate.at_least is not None else min)(known, key=known.__getitem__)
    if known[model] < 0:  # 0.9 x -2 is better than -2
        raise SuiteError(
            "relative gate on a negative score",
            where=f"task {task}: {gate}",
            expected=f"a score of {gate.of!r} of zero or more",
            found=known[model],
            remedy="give the bound itself, without `of`",
        )
    return gate.factor * known[model], model


def _limit(
    gate: Gate, task: TaskScores, bound: float, reference: TaskScores | None, within: Range | None, *, partial: bool
) -> float | None:
    if gate.confidence is None and not partial:
        return task.score
    value, low, high = _estimate(gate, task, bound, reference, within, partial=partial)
    if partial:
        return max(value, min(bound, high)) if gate.at_least is not None else min(value, max(bound, low))
    limit = low if gate.at_least is not None else high
    return limit if math.isfinite(limit) else None


def _estimate(
    gate: Gate, task: TaskScores, bound: float, reference: TaskScores | None, within: Range | None, *, partial: bool
) -> Estimate:
    confidence, difference = gate.confidence or CONFIDENCE, None
    if reference is not None:
        difference = score_difference(task, reference, confidence, gate.factor, within=within)
    if reference is None or difference is None:
        return Estimate(task.score, *(score_interval(task, confidence, within=within) or (-math.inf, math.inf)))
    if math.isinf(difference.low) and not partial and len(set(task.doc_ids).intersection(reference.doc_ids)) > 1:
        difference = Estimate(*[difference.value] * 3)
    return Estimate(*(bound + end for end in difference))


def _no_interval(gate: Gate, task: TaskScores, others_have: bool) -> SuiteError | ScoringError:
    what, where = "gate asks for confidence in a score that has no interval", f"task {task.name}: {gate}"
    kind = ScoringError if others_have else SuiteError
    if wants_range(task):
        return kind(
            what,
            where=where,
            expected="documents that differ, or a metric whose range is known",
            found=f"{task.metric} that none of {len(task.doc_ids)} documents changes",
            remedy="state the metric's `range` in the suite",
        )
    if others_have:
        return kind(what, where=where, found=f"{task.metric} that is not defined without some of the documents")
    return kind(
        what,
        where=where,
        expected="two documents or more, and a metric that is defined without some of them",
        found=f"{task.metric} over {len(task.doc_ids)} documents",
        remedy="leave out `confidence`",
    )
