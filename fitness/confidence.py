"""Confidence: what a few items say of all of them, for decisions that stop early and for scores that people read.

A decision that is taken again after every item needs a bound that holds at all of these times at once: the betting
confidence sequence of Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (2024,
arXiv 2010.09686). A score that is shown once needs an interval of the usual meaning: another sample of as many items
gives one that holds the true mean with the named probability. Both know nothing of tasks and metrics.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

CONFIDENCE = 0.95  # of the intervals that are shown

Range: TypeAlias = tuple[float, float]
Values: TypeAlias = Sequence[float] | NDArray[np.float64]

# Shares of the largest bet that cannot ruin; small ones win slowly against a bound just above the mean.
_BETS = np.geomspace(0.05, 0.9, 8)[:, None]
# Rounding in sums must not make an item decide.
_TOLERANCE = 1e-9


class Estimate(NamedTuple):
    """A number and its interval: low <= value <= high."""

    value: float
    low: float
    high: float


def certain_to_miss(
    values: Values,
    n: int,
    bound: float,
    alpha: float,
    low: float = 0.0,
    high: float = 1.0,
    *,
    at_most: bool = False,
) -> bool:
    """Whether the mean over all n items is as good as certain to miss a bound, from the first of them.

    One bets that each next item falls short of what the remaining ones need on average to reach the bound. If the mean
    reaches it, the capital is a nonnegative supermartingale that starts at 1, so that by Ville's inequality it ever
    exceeds 1 / alpha with probability at most alpha: section 5 of arXiv 2010.09686, one-sided, with the capital divided
    over a grid of bets (dKelly, appendix B there). An answer of False may thus be asked for again after any item; once
    True, more items leave it True unless they prove the contrary.

    Args:
        values: (k,) of the first k items, in an order drawn at random from all orders of the n items, k <= n.
        n: number of items that the mean is over.
        bound: in the unit of the values; a mean that equals it meets it.
        alpha: probability of a wrong True over all k together, in (0, 1). Several gates share it.
        low: no value can be lower. A metric without a known range allows no certainty; see
            `fitness.estimates.item_range`.
        high: no value can be higher.
        at_most: the bound is met from below, not from above.

    Raises:
        ValueError: more than n values, one outside of [low, high], or alpha outside of (0, 1).
    """
    x = (np.asarray(values, dtype=np.float64) - low) / (high - low)
    if len(x) > n or not 0 < alpha < 1 or ((x < 0) | (x > 1)).any():
        raise ValueError(f"expected at most {n} values in [{low}, {high}] and alpha in (0, 1)")
    target = n * (bound - low) / (high - low)
    if at_most:
        x, target = 1 - x, n - target
    needed = target - np.concatenate(([0.0], np.cumsum(x)))
    left = n - np.arange(len(x) + 1)
    slack = _TOLERANCE * n
    if needed[-1] <= slack or needed[-1] > left[-1] + slack:
        return bool(needed[-1] > slack)
    # the bound asks each next item to be `mean` on average; the shortfall of an item is then 1 on average, or less
    mean = needed[:-1] / left[:-1]
    shortfall = (1 - x) / np.maximum(1 - mean, _TOLERANCE)
    capital = np.cumsum(np.log1p(_BETS * (shortfall - 1)), axis=1)
    return bool((np.logaddexp.reduce(capital, axis=0) - math.log(len(_BETS)) >= -math.log(alpha)).any())


def interval(values: Values, confidence: float = CONFIDENCE, within: Range | None = None) -> Range:
    """A two-sided interval for the mean of the population that items were drawn from.

    Values that are all at the ends of their range, such as right or wrong, have Wilson's score interval (1927), as
    recommended by Brown, Cai and DasGupta, "Interval estimation for a binomial proportion" (2001). Others with a known
    range have Student's interval with one more observation at either end of it, which is the adjustment of Agresti and
    Coull (1998) for what is not binary: without it a few equal values would claim to be certain. Both keep their level
    on average, not for every distribution; stopping rules use `certain_to_miss`. Without a range it is Student's alone,
    which says nothing of equal values.

    Args:
        values: (n,), n >= 1.
        confidence: in [0.5, 1).
        within: (low, high) that all values, seen or not, lie in; None if not known. Zeros and ones are taken for a
            proportion without it as long as both occur.

    Returns:
        (low, high) with the mean between them; infinite for a single value, or equal ones, without a range.

    Raises:
        ValueError: no values, or a confidence outside of [0.5, 1).
    """
    x = _checked(values, confidence)
    ends = within or (0.0, 1.0)
    if np.isin(x, ends).all() and (within is not None or not alike(x)):
        low, high = ends
        bottom, top = _wilson(float((x == high).mean()), len(x), confidence)
        return low + bottom * (high - low), low + top * (high - low)
    _, bottom, top = _student(x, confidence, within)
    return bottom, top


def paired(
    a: Values,
    b: Values,
    confidence: float = CONFIDENCE,
    within: Range | None = None,
    factor: float = 1.0,
) -> Estimate:
    """The mean of a - factor x b over the same items, with a two-sided interval.

    For right and wrong and a factor of 1 it is the interval of Bonett and Price, "Adjusted Wald confidence interval
    for a difference of binomial proportions based on paired data" (2012), with Student's quantile: one more item that
    only a gets right, and one that only b does. Other values with a known range are treated alike; see `interval`.

    Args:
        a: (n,), n >= 1.
        b: (n,), of the same items in the same order.
        confidence: in [0.5, 1).
        within: (low, high) that all values lie in; None if not known.
        factor: >= 0.

    Returns:
        The limits are infinite for a single difference, or equal ones, without a range.

    Raises:
        ValueError: no values, not as many in b as in a, or a confidence outside of [0.5, 1).
    """
    x, y = _checked(a, confidence), _checked(b, confidence)
    ends = None if within is None else (within[0] - factor * within[1], within[1] - factor * within[0])
    return _student(x - factor * y, confidence, ends)


def combine(parts: Iterable[tuple[float, Estimate]]) -> Estimate:
    """The weighted sum of independent estimates, with its interval.

    The distances from the estimates to their limits add up in squares, as standard errors do, each side for itself:
    Zou and Donner, "Construction of confidence limits about effect measures" (2008), equations 6 and 7. So a task whose
    items are all right still counts with Wilson's doubt, where its standard error would be zero. Estimates over the
    same items, as of two metrics of one data set, are not independent: the interval is then too short.

    Args:
        parts: (weight >= 0, estimate) for each, at a common confidence.
    """
    value = down = up = 0.0
    for weight, (estimate, low, high) in parts:
        value += weight * estimate
        down = math.hypot(down, weight * (estimate - low))
        up = math.hypot(up, weight * (high - estimate))
    return Estimate(value, value - down, value + up)


def alike(values: Values) -> bool:
    """Whether values are equal but for rounding, so that their spread tells nothing of others; so is a single one."""
    x = np.asarray(values, dtype=np.float64)
    return bool(np.ptp(x) <= _TOLERANCE * np.abs(x).max())


def _checked(values: Values, confidence: float) -> NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if not len(x) or not 0.5 <= confidence < 1:
        raise ValueError(f"expected at least one value and a confidence in [0.5, 1), found {confidence}")
    return x


def _wilson(share: float, n: int, confidence: float) -> Range:
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    reach = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # exact at the ends, where rounding would leave 1e-17
    return (0.0 if share == 0 else middle - reach), (1.0 if share == 1 else middle + reach)


def _student(x: NDArray[np.float64], confidence: float, within: Range | None) -> Estimate:
    mean = float(x.mean())
    if within is not None:
        x = np.append(x, within)
    elif alike(x):
        return Estimate(mean, -math.inf, math.inf)
    reach = float(stdtrit(len(x) - 1, (1 + confidence) / 2) * x.std(ddof=1)) / math.sqrt(len(x))
    low, high = float(x.mean()) - reach, float(x.mean()) + reach
    if within is not None:
        low, high = max(low, within[0]), min(high, within[1])
    return Estimate(mean, min(low, mean), max(high, mean))
