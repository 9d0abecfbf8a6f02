"""Estimates: scores and objectives with their confidence intervals, alone and against another model's."""

import math
from collections.abc import Collection, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from fitness import jackknife
from fitness.confidence import CONFIDENCE, Estimate, Range, alike, combine, interval, paired
from fitness.items import TaskScores
from fitness.ranking import utility
from fitness.suite import SuiteConfig

# lm-eval's own metrics (0.4.13, lm_eval/api/metrics.py): means over items in [0, 1], what only all documents together
# have, and functions of a mean of log-likelihoods per document, word or byte
UNIT = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
_CORPUS: dict[str, Range] = {"f1": (0, 1), "mcc": (-1, 1), "bleu": (0, 100), "chrf": (0, 100), "chrf++": (0, 100)}
_PERPLEXITIES = ("perplexity", "word_perplexity", "byte_perplexity")
_BITS = "bits_per_byte"
_UNIT_RANGE: Range = (0.0, 1.0)


def item_range(task: TaskScores, stated: Range | None = None) -> Range | None:
    """The range of a task's items when its score is their mean; None when nothing is certain of items not yet seen.

    Only with a range can `certain_to_miss` stop a candidate. The name of the metric alone is no proof, as a task may
    compute what it likes under it: ask for the scores of models that were scored in full, such as the baselines'.

    Args:
        task: scores.
        stated: the metric's range, as the suite has it.
    """
    known = stated or (_UNIT_RANGE if task.metric in UNIT else None)
    return known if known is not None and _is_mean(task) and _lie_in(task, known) else None


def presumed_range(scores: Collection[TaskScores], stated: Range | None = None) -> Range | None:
    """The range that intervals take the items of a task to lie in: where none is stated, [0, 1] if all of these do.

    What the best models to begin with have shown is no proof for others, so no candidate is stopped by it.

    Args:
        scores: of every model that the others are compared with.
        stated: the metric's range, as the suite has it.
    """
    if stated is None and scores and all(_is_item_mean(task) and _lie_in(task, _UNIT_RANGE) for task in scores):
        return _UNIT_RANGE
    return stated


def presumed_ranges(suite: SuiteConfig, references: Iterable[Mapping[str, TaskScores]]) -> dict[str, Range]:
    """Task -> `presumed_range` over the references; without those that have none."""
    each = list(references)
    found = {
        task.name: presumed_range([one[task.name] for one in each if task.name in one], task.range)
        for task in suite.tasks
    }
    return {task: known for task, known in found.items() if known is not None}


def range_advice(task: TaskScores, within: Range | None = None) -> str | None:
    """What the user should know of a score that is a mean over items of which no range is known; None if it is not.

    Args:
        task: scores of a model that the others are compared with.
        within: as `presumed_range` has it.
    """
    if not _is_item_mean(task) or (within or item_range(task)) is not None:
        return None
    what = f"task {task.name}: the range of {task.metric} is not known, so documents that all score alike give"
    return f"{what} no confidence interval: state its `range` in the suite, as in `range: [0, 10]`"


def score_interval(task: TaskScores, confidence: float = CONFIDENCE, *, within: Range | None = None) -> Range | None:
    """A two-sided interval for a task's score, in the metric's unit.

    A mean over items has the interval of `confidence.interval`. A perplexity, or bits per byte, is a function of the
    log-likelihood per word or byte; its interval is Student's, by the delta method for a ratio of sums. Others, such as
    corpus BLEU or F1, have that of the jackknife, which may exceed the metric's range; where no document matters to it,
    as when all are right, that of as many equal items.

    Args:
        task: scores.
        confidence: in [0.5, 1).
        within: the metric's range, as `presumed_range` has it; one that these scores leave counts for nothing.

    Returns:
        (low, high); None for an aggregation that can be told neither by its items nor by the jackknife, and where all
        documents say the same and no range is known: nothing is certain then, least of all the score.
    """
    items = _linear(task, task.weights)
    if items is not None:
        ends = interval(items, confidence, item_range(task, within))
    elif task.jackknife is None:
        return None
    elif alike(task.jackknife):
        ends = interval([task.score] * len(task.doc_ids), confidence, _score_range(task, within))
    else:
        ends = jackknife.estimate(task.score, task.jackknife, confidence)[1:]
    low, high = ends
    if math.isinf(high):
        return None
    # where lower is better nothing negative can be ranked
    return (low if task.higher_is_better else max(low, min(task.score, 0.0))), high


def wants_range(task: TaskScores) -> bool:
    """Whether a score without an interval would have one if the suite stated the metric's range."""
    return _is_mean(task) or (task.jackknife is not None and _linear(task) is None)


def score_difference(
    task: TaskScores,
    other: TaskScores,
    confidence: float = CONFIDENCE,
    factor: float = 1.0,
    *,
    within: Range | None = None,
) -> Estimate | None:
    """A task's score minus factor x another model's, over the documents that both have scored, with its interval.

    Args:
        task: scores.
        other: the other model's.
        confidence: in [0.5, 1).
        factor: >= 0.
        within: the metric's range, as `presumed_range` has it; one that either's scores leave counts for nothing.

    Returns:
        In the metric's unit; None when they share no documents, and where only all documents of both tell the score and
        these differ. The limits are infinite where all documents differ alike and no range is known.
    """
    if (pairs := _pairs(task, other)) is not None:
        return paired(pairs[0], pairs[1], confidence, _common_range(task, other, within), factor)
    if (without := _without(task, other)) is not None:
        value = task.score - factor * other.score
        return jackknife.estimate(value, without[0] - factor * without[1], confidence)
    return None


def objective_estimate(
    scores: Mapping[str, TaskScores], intervals: Mapping[str, Range], suite: SuiteConfig
) -> Estimate:
    """The objective: the weighted mean of the tasks' utilities, with the interval that theirs add up to.

    See `ranking.utility` and `confidence.combine`.

    Args:
        scores: task -> its scores.
        intervals: task -> interval of its score; a task that has none is taken at its value.
        suite: gives the weights.

    Raises:
        ScoringError: a score where lower is better is negative.
    """
    estimates = {}
    for name, task in scores.items():
        limits = intervals.get(name, (task.score, task.score))
        ends = sorted(utility(name, limit, task.higher_is_better) for limit in limits)
        estimates[name] = Estimate(utility(name, task.score, task.higher_is_better), *ends)
    return _weighted(estimates, suite)


def objective_difference(
    scores: Mapping[str, TaskScores],
    others: Mapping[str, TaskScores],
    suite: SuiteConfig,
    confidence: float = CONFIDENCE,
    *,
    ranges: Mapping[str, Range] | None = None,
) -> Estimate:
    """The objective minus another model's, over the documents that both have scored, with its interval.

    With a task that has no interval, its own is infinite.

    Args:
        scores: task -> its scores.
        others: the other model's.
        suite: gives the weights.
        confidence: in [0.5, 1).
        ranges: as `presumed_ranges` has them; None: those that the suite states.

    Raises:
        ScoringError: a score where lower is better is negative.
    """
    ranges = presumed_ranges(suite, ()) if ranges is None else ranges
    estimates = {
        name: _utility_difference(task, others[name], confidence, ranges.get(name)) for name, task in scores.items()
    }
    return _weighted(estimates, suite)


def _weighted(estimates: Mapping[str, Estimate], suite: SuiteConfig) -> Estimate:
    total = sum(task.weight for task in suite.tasks)
    value, low, high = combine((task.weight, estimates[task.name]) for task in suite.tasks)
    return Estimate(value / total, low / total, high / total)


def _utility_difference(task: TaskScores, other: TaskScores, confidence: float, within: Range | None) -> Estimate:
    difference = None
    if task.higher_is_better:
        difference = score_difference(task, other, confidence, within=within)
    elif (pairs := _pairs(task, other)) is not None:
        # 1 / (1 + score) is not linear: its slope carries the items over
        scores = np.array([[task.score], [other.score]])
        utilities = 1 / (1 + scores) - (pairs - scores) / (1 + scores) ** 2
        if (within := _common_range(task, other, within)) is not None:
            ends = 1 / (1 + scores) - (np.array(within) - scores) / (1 + scores) ** 2
            within = float(ends.min()), float(ends.max())
        difference = paired(utilities[0], utilities[1], confidence, within)
    elif (without := _without(task, other)) is not None:
        utilities = 1 / (1 + without)
        value = 1 / (1 + task.score) - 1 / (1 + other.score)
        difference = jackknife.estimate(value, utilities[0] - utilities[1], confidence)
    if difference is not None:
        return difference
    first, second = (utility(each.name, each.score, each.higher_is_better) for each in (task, other))
    return Estimate(first - second, -math.inf, math.inf)


def _without(task: TaskScores, other: TaskScores) -> NDArray[np.float64] | None:
    """(2, G) of two models' scores without each group of the same documents."""
    if task.jackknife is None or other.jackknife is None or task.doc_ids != other.doc_ids:
        return None
    return np.array([task.jackknife, other.jackknife], dtype=np.float64)


def _pairs(task: TaskScores, other: TaskScores) -> NDArray[np.float64] | None:
    """(2, n) of the items of two models over their common documents, in ascending order."""
    # lengths that only one has, as of two versions of evomerge, would be doubt that the other does not share
    known = task.weights is not None and other.weights is not None
    first, second = (_linear(each, each.weights if known else None) for each in (task, other))
    if first is None or second is None:
        return None
    places = dict(zip(other.doc_ids, second, strict=True))
    common = [(value, places[each]) for each, value in zip(task.doc_ids, first, strict=True) if each in places]
    return np.array(common, dtype=np.float64).T if common else None


def _linear(task: TaskScores, weights: tuple[float, ...] | None = None) -> NDArray[np.float64] | None:
    """(n,) numbers whose mean is the score, and whose spread tells its error: the items or their first-order share.

    Args:
        task: scores.
        weights: what each document counts for, in words or bytes; None: all the same.
    """
    values = np.array(task.values, dtype=np.float64)
    if _is_item_mean(task):
        return values
    if not task.values:
        return None
    # log-likelihood per unit, in nats, and the slope of the score over it
    if task.metric == _BITS and task.score > 0:
        per_unit, slope = -task.score * math.log(2), -1 / math.log(2)
    elif task.metric in _PERPLEXITIES and task.score > 1:
        per_unit, slope = -math.log(task.score), -task.score
    else:
        return None
    units = values.mean() / per_unit
    expected = per_unit * (units if weights is None else np.array(weights, dtype=np.float64))
    shares: NDArray[np.float64] = task.score + slope * (values - expected) / units
    return shares


def _common_range(task: TaskScores, other: TaskScores, within: Range | None) -> Range | None:
    return item_range(task, within) if item_range(other, within) else None


def _score_range(task: TaskScores, within: Range | None) -> Range | None:
    low, high = within or _CORPUS.get(task.metric, (math.inf, math.inf))
    return (low, high) if low <= task.score <= high else None


def _lie_in(task: TaskScores, within: Range) -> bool:
    return all(within[0] <= value <= within[1] for value in task.values)


def _is_item_mean(task: TaskScores) -> bool:
    # by chance others may equal the mean of their items, too, as F1 does with as many true positives as negatives
    return _is_mean(task) and (task.jackknife is None or task.metric in UNIT)


def _is_mean(task: TaskScores) -> bool:
    return bool(task.values) and math.isclose(
        task.score, math.fsum(task.values) / len(task.values), rel_tol=1e-9, abs_tol=1e-12
    )
