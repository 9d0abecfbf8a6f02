"""Estimates: scores and objectives with their confidence intervals, alone and against another model's."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fitness import jackknife
from fitness.confidence import CONFIDENCE, Estimate, Range, combine, interval, paired
from fitness.items import TaskScores
from fitness.ranking import utility
from fitness.suite import SuiteConfig

# lm-eval's own metrics (0.4.13, lm_eval/api/metrics.py): means over items in [0, 1], and functions of a mean of
# log-likelihoods per document, word or byte
_UNIT = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
_PERPLEXITIES = ("perplexity", "word_perplexity", "byte_perplexity")
_BITS = "bits_per_byte"


def item_range(task: TaskScores) -> Range | None:
    """The range of a task's items when its score is their mean; None when nothing is certain of items not yet seen.

    Only with a range can `certain_to_miss` stop a candidate. The name of the metric alone is no proof, as a task may
    compute what it likes under it: ask for the scores of models that were scored in full, such as the baselines'.
    """
    if task.metric in _UNIT and _is_mean(task) and all(0 <= value <= 1 for value in task.values):
        return 0.0, 1.0
    return None


def score_interval(task: TaskScores, confidence: float = CONFIDENCE) -> Range | None:
    """A two-sided interval for a task's score, in the metric's unit.

    A mean over items has the interval of `confidence.interval`. A perplexity, or bits per byte, is a function of the
    log-likelihood per word or byte; its interval is Student's, by the delta method for a ratio of sums. Others, such as
    corpus BLEU or F1, have that of the jackknife, which may exceed the metric's range: nothing tells it for certain.

    Returns:
        (low, high); None for an aggregation that can be told neither by its items nor by the jackknife.
    """
    items = _linear(task, task.weights)
    if items is not None:
        low, high = interval(items, confidence, item_range(task))
    elif task.jackknife is not None:
        _, low, high = jackknife.estimate(task.score, task.jackknife, confidence)
    else:
        return None
    # where lower is better nothing negative can be ranked
    return (low if task.higher_is_better else max(low, min(task.score, 0.0))), high


def score_difference(
    task: TaskScores, other: TaskScores, confidence: float = CONFIDENCE, factor: float = 1.0
) -> Estimate | None:
    """A task's score minus factor x another model's, over the documents that both have scored, with its interval.

    Returns:
        In the metric's unit; None when they share no documents, or where only all documents of both tell the score and
        these differ.
    """
    if (pairs := _pairs(task, other)) is not None:
        within = item_range(task) if item_range(other) else None
        return paired(pairs[0], pairs[1], confidence, within, factor)
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
        intervals: task -> interval of its score; a task without one is taken as exact.
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
) -> Estimate:
    """The objective minus another model's, over the documents that both have scored, with its interval.

    A task without an interval is taken as exact.

    Raises:
        ScoringError: a score where lower is better is negative.
    """
    estimates = {name: _utility_difference(task, others[name], confidence) for name, task in scores.items()}
    return _weighted(estimates, suite)


def _weighted(estimates: Mapping[str, Estimate], suite: SuiteConfig) -> Estimate:
    total = sum(task.weight for task in suite.tasks)
    value, low, high = combine((task.weight, estimates[task.name]) for task in suite.tasks)
    return Estimate(value / total, low / total, high / total)


def _utility_difference(task: TaskScores, other: TaskScores, confidence: float) -> Estimate:
    difference = None
    if task.higher_is_better:
        difference = score_difference(task, other, confidence)
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
    return Estimate(first - second, first - second, first - second)


def _without(task: TaskScores, other: TaskScores) -> NDArray[np.float64] | None:
    """(2, G) of two models' scores without each group of the same documents."""
    if task.jackknife is None or other.jackknife is None or task.doc_ids != other.doc_ids:
        return None
    return np.array([task.jackknife, other.jackknife], dtype=np.float64)


def _pairs(task: TaskScores, other: TaskScores) -> NDArray[np.float64] | None:
    """(2, n) of the items of two models over their common documents, in ascending order."""
    # a long document is long for both, so lengths are left out
    first, second = _linear(task), _linear(other)
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
    if _is_mean(task) and (task.jackknife is None or task.metric in _UNIT):
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


def _is_mean(task: TaskScores) -> bool:
    return bool(task.values) and math.isclose(
        task.score, math.fsum(task.values) / len(task.values), rel_tol=1e-9, abs_tol=1e-12
    )
