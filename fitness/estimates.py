"""Estimates: scores and objectives with their confidence intervals, alone and against another model's."""

import math
from collections.abc import Mapping

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


def item_range(task: TaskScores, stated: Range | None = None) -> Range | None:
    """The range of a task's items when its score is their mean; None when nothing is certain of items not yet seen.

    Only with a range can `certain_to_miss` stop a candidate. The name of the metric alone is no proof, as a task may
    compute what it likes under it: ask for the scores of models that were scored in full, such as the baselines'.

    Args:
        task: scores.
        stated: the metric's range, as the suite has it.
    """
    if not _is_mean(task):
        return None
    if stated is None and task.metric in UNIT and all(0 <= value <= 1 for value in task.values):
        return 0.0, 1.0
    return stated


def score_interval(task: TaskScores, confidence: float = CONFIDENCE, *, stated: Range | None = None) -> Range | None:
    """A two-sided interval for a task's score, in the metric's unit.

    A mean over items has the interval of `confidence.interval`. A perplexity, or bits per byte, is a function of the
    log-likelihood per word or byte; its interval is Student's, by the delta method for a ratio of sums. Others, such as
    corpus BLEU or F1, have that of the jackknife, which may exceed the metric's range; where no document matters to it,
    as when all are right, that of as many equal items.

    Args:
        task: scores.
        confidence: in [0.5, 1).
        stated: the metric's range, as the suite has it.

    Returns:
        (low, high); None for an aggregation that can be told neither by its items nor by the jackknife, and where all
        documents say the same and no range is known: nothing is certain then, least of all the score.
    """
    items = _linear(task, task.weights)
    if items is not None:
        ends = interval(items, confidence, item_range(task, stated))
    elif task.jackknife is None:
        return None
    elif alike(task.jackknife):
        ends = interval([task.score] * len(task.doc_ids), confidence, stated or _corpus_range(task))
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
    stated: Range | None = None,
) -> Estimate | None:
    """A task's score minus factor x another model's, over the documents that both have scored, with its interval.

    Args:
        task: scores.
        other: the other model's.
        confidence: in [0.5, 1).
        factor: >= 0.
        stated: the metric's range, as the suite has it.

    Returns:
        In the metric's unit; None when they share no documents, where only all documents of both tell the score and
        these differ, and where all documents differ alike and no range is known.
    """
    if (pairs := _pairs(task, other)) is not None:
        within = item_range(task, stated) if item_range(other, stated) else None
        found = paired(pairs[0], pairs[1], confidence, within, factor)
    elif (without := _without(task, other)) is not None:
        value = task.score - factor * other.score
        found = jackknife.estimate(value, without[0] - factor * without[1], confidence)
    else:
        return None
    return found if math.isfinite(found.low) else None


def objective_estimate(
    scores: Mapping[str, TaskScores], intervals: Mapping[str, Range], suite: SuiteConfig
) -> Estimate:
    """The objective: the weighted mean of the tasks' utilities, with the interval that theirs add up to.

    See `ranking.utility` and `confidence.combine`.

    Args:
        scores: task -> its scores.
        intervals: task -> interval of its score; with a task that has none, the objective's is infinite.
        suite: gives the weights.

    Raises:
        ScoringError: a score where lower is better is negative.
    """
    estimates = {}
    for name, task in scores.items():
        value, ends = utility(name, task.score, task.higher_is_better), [-math.inf, math.inf]
        if name in intervals:
            ends = sorted(utility(name, limit, task.higher_is_better) for limit in intervals[name])
        estimates[name] = Estimate(value, *ends)
    return _weighted(estimates, suite)


def objective_difference(
    scores: Mapping[str, TaskScores],
    others: Mapping[str, TaskScores],
    suite: SuiteConfig,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The objective minus another model's, over the documents that both have scored, with its interval.

    With a task that has no interval, its own is infinite.

    Raises:
        ScoringError: a score where lower is better is negative.
    """
    estimates = {
        name: _utility_difference(task, others[name], confidence, suite.ranges[name]) for name, task in scores.items()
    }
    return _weighted(estimates, suite)


def _weighted(estimates: Mapping[str, Estimate], suite: SuiteConfig) -> Estimate:
    total = sum(task.weight for task in suite.tasks)
    value, low, high = combine((task.weight, estimates[task.name]) for task in suite.tasks)
    return Estimate(value / total, low / total, high / total)


def _utility_difference(task: TaskScores, other: TaskScores, confidence: float, stated: Range | None) -> Estimate:
    difference = None
    if task.higher_is_better:
        difference = score_difference(task, other, confidence, stated=stated)
    elif (pairs := _pairs(task, other)) is not None:
        # 1 / (1 + score) is not linear: its slope carries the items over
        scores = np.array([[task.score], [other.score]])
        utilities = 1 / (1 + scores) - (pairs - scores) / (1 + scores) ** 2
        difference = paired(utilities[0], utilities[1], confidence)
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
    # by chance others may equal the mean of their items, too, as F1 does with as many true positives as negatives
    if _is_mean(task) and (task.jackknife is None or task.metric in UNIT):
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


def _corpus_range(task: TaskScores) -> Range | None:
    low, high = _CORPUS.get(task.metric, (math.inf, math.inf))
    return (low, high) if low <= task.score <= high else None


def _is_mean(task: TaskScores) -> bool:
    return bool(task.values) and math.isclose(
        task.score, math.fsum(task.values) / len(task.values), rel_tol=1e-9, abs_tol=1e-12
    )
