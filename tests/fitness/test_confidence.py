"""Coverage and power by simulation; all draws are seeded."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitness.confidence import Estimate, certain_to_miss, combine, interval, paired

POPULATIONS = {
    "right or wrong": lambda rng, n: (rng.random(n) < rng.uniform(0.05, 0.95)).astype(float),
    "nearly all right": lambda rng, n: (rng.random(n) < 0.97).astype(float),
    "overlaps": lambda rng, n: rng.beta(2, 3, n),
    "close together": lambda rng, n: rng.normal(0.7, 0.03, n).clip(0, 1),
    "mostly whole": lambda rng, n: np.where(rng.random(n) < 0.8, 1.0, rng.random(n)),
}


@pytest.mark.parametrize("alpha, at_most", [(0.05, False), (0.3, True)])
def test_a_mean_that_meets_its_bound_is_rarely_stopped_however_often_one_looks(alpha, at_most):
    """2,000 tasks whose mean is exactly the bound, the hardest case, each looked at after every few items."""
    rng = np.random.default_rng(7)
    wrong = tasks = 0
    for (draw, n), _ in product(product(POPULATIONS.values(), (7, 30, 120, 400)), range(100)):
        items = draw(rng, n)
        looks = range(1, n + 1, max(1, n // 12))
        wrong += any(certain_to_miss(items[:k], n, items.mean(), alpha, at_most=at_most) for k in looks)
        tasks += 1
    assert tasks == 2000
    # three standard errors of 2,000 draws above what is allowed
    assert wrong / tasks <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / tasks)
    assert wrong > 0  # it does bet


def stops_after(items: np.ndarray, bound: float, alpha: float) -> int:
    n = len(items)
    return next((k for k in range(n) if certain_to_miss(items[:k], n, bound, alpha)), n)


@pytest.mark.parametrize(
    ("share", "bound", "most"),
    # share of right answers, bound, share of the items that it may take on average to see that it is hopeless
    [(0.1, 0.85, 0.05), (0.5, 0.85, 0.11), (0.7, 0.85, 0.25), (0.8, 0.9, 0.45), (0.86, 0.85, 1.0)],
)
def test_hopeless_candidates_are_stopped_early(share, bound, most):
    rng = np.random.default_rng(3)
    items = np.arange(200) < round(200 * share)
    mean = np.mean([stops_after(rng.permutation(items).astype(float), bound, 0.05) for _ in range(40)]) / 200
    assert mean <= most
    if share > bound:
        assert mean >= 0.95  # hardly any of those that pass is stopped


def test_values_that_do_not_scatter_need_few_items():
    items = np.full(200, 0.6)
    assert stops_after(items, 0.8, 0.05) < stops_after(np.arange(200) % 5 < 3, 0.8, 0.05) / 2


def test_arithmetic_alone_is_certain_in_both_directions():
    # three of ten are wrong, so 0.8 is out of reach; after eight right ones it is reached
    assert certain_to_miss([0, 0, 0], 10, 0.8, 1e-9)
    assert not certain_to_miss([0, 0], 10, 0.8, 1e-9)
    assert not certain_to_miss([1] * 8, 10, 0.8, 0.5)
    assert not certain_to_miss([0, 0, *[1] * 8], 10, 0.8, 0.5)
    assert certain_to_miss([], 10, 1.01, 0.01)
    assert not certain_to_miss([], 10, 0.0, 0.5)


share = st.integers(0, 64).map(lambda each: each / 64)  # exact in every unit below


@given(st.lists(share, min_size=1, max_size=30), share, st.sampled_from([(-2, 4), (0, 128), (-1, 2), (1, 0.5)]))
def test_units_and_sides_make_no_difference(values, bound, unit):
    low, scale = unit
    n, alpha = 2 * len(values), 0.1
    plain = certain_to_miss(values, n, bound, alpha)
    mirrored = certain_to_miss([1 - value for value in values], n, 1 - bound, alpha, at_most=True)
    scaled = [low + scale * value for value in values]
    assert mirrored == plain
    assert certain_to_miss(scaled, n, low + scale * bound, alpha, low, low + scale) == plain


@pytest.mark.parametrize("values, n, alpha", [([1.5], 4, 0.1), ([-0.1], 4, 0.1), ([1, 1], 1, 0.1), ([1], 4, 0.0)])
def test_what_is_no_sample_of_the_range_is_refused(values, n, alpha):
    with pytest.raises(ValueError, match=r"values in \[0.0, 1.0\]"):
        certain_to_miss(values, n, 0.5, alpha)


def test_wilson_of_a_case_from_the_literature():
    # Newcombe (1998), table I: 81 of 263 has 0.2553 to 0.3662, 0 of 20 has 0 to 0.1611, 1 of 29 has 0.0061 to 0.1718
    for right, n, low, high in ((81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        assert interval([1] * right + [0] * (n - right), within=(0, 1)) == pytest.approx((low, high), abs=5e-5)


def test_student_of_a_hand_worked_case():
    # mean 3, variance 5/2 over five values, quantile 2.776 with four degrees of freedom
    reach = 2.776445 * math.sqrt(2.5 / 5)
    assert interval([1, 2, 3, 4, 5]) == pytest.approx((3 - reach, 3 + reach), abs=1e-5)
    assert interval([7.0]) == (-math.inf, math.inf)


@pytest.mark.parametrize("value", [0.0, 1.0, 3.0])
def test_equal_values_are_certain_of_nothing_unless_their_range_is_known(value):
    """Twenty documents of a metric from 0 to 10 may all have 0: what else it might have, only its range tells."""
    assert interval([value] * 20) == (-math.inf, math.inf)
    assert paired([value] * 20, [1.0] * 20) == (value - 1, -math.inf, math.inf)
    low, high = interval([value] * 20, within=(0, 10))
    assert low <= value < high
    assert high - low > 1
    # rounding is no spread
    assert interval([0.1 + 0.2, 0.3, 0.3]) == (-math.inf, math.inf)


def test_zeros_and_ones_are_a_proportion_when_both_occur():
    values = [1.0] * 12 + [0.0] * 8
    assert interval(values) == interval(values, within=(0, 1))
    assert interval(values, within=(0, 10)) != interval(values)


def test_the_paired_interval_of_a_hand_worked_case():
    # 100 items: 12 only a gets right, 4 only b. One more of either: 13 and 5 of 102, difference 8/102
    a, b = [1] * 12 + [0] * 4 + [1] * 84, [0] * 12 + [1] * 4 + [1] * 84
    middle = 8 / 102
    spread = math.sqrt((18 - 102 * middle**2) / 101)
    reach = 1.983731 * spread / math.sqrt(102)
    assert paired(a, b, within=(0, 1)) == pytest.approx((0.08, middle - reach, middle + reach), abs=1e-6)


def test_equal_answers_are_no_proof_of_equality():
    value, low, high = paired([1] * 30, [1] * 30, within=(0, 1))
    assert value == 0
    assert low == -high < -0.05


def test_pairing_is_worth_it_when_the_same_items_are_hard():
    rng = np.random.default_rng(0)
    hard = rng.random(400)
    a, b = (hard < 0.7).astype(float), ((hard < 0.65) | (hard > 0.99)).astype(float)
    low, high = interval(a)
    difference = paired(a, b, within=(0, 1))
    assert difference.high - difference.low < (high - low) / 1.5
    assert difference.low > 0


@pytest.mark.parametrize(
    ("draw", "mean", "least"),
    [
        (lambda rng, n: (rng.random(n) < 0.8).astype(float), 0.8, 0.93),
        # 18 or more of 20 have probability 0.9245: what is whole cannot keep every level
        (lambda rng, n: (rng.random(n) < 0.95).astype(float), 0.95, 0.90),
        (lambda rng, n: rng.beta(2, 3, n), 0.4, 0.93),
        (lambda rng, n: np.where(rng.random(n) < 0.9, 1.0, rng.random(n)), 0.95, 0.93),
        (lambda rng, n: np.where(rng.random(n) < 0.95, 0.5, 1.0), 0.525, 0.93),
    ],
)
@pytest.mark.parametrize("n", [20, 80, 300])
def test_intervals_hold_the_mean_as_often_as_they_say(draw, mean, least, n):
    rng = np.random.default_rng(n)
    hits = 0
    for _ in range(500):
        low, high = interval(draw(rng, n), 0.95, (0, 1))
        hits += low <= mean <= high
    assert hits / 500 >= least


@pytest.mark.parametrize("factor", [1.0, 0.9])
def test_paired_intervals_hold_the_difference_as_often_as_they_say(factor):
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(600):
        hard = rng.random(60)
        a, b = (hard < 0.8).astype(float), ((hard < 0.7) | (hard > 0.95)).astype(float)
        _, low, high = paired(a, b, 0.95, (0, 1), factor)
        hits += low <= 0.8 - factor * 0.75 <= high
    assert hits / 600 >= 0.93


values = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@given(values, st.floats(0.5, 0.99), st.sampled_from([None, (0.0, 1.0)]))
def test_an_interval_holds_its_mean_and_grows_with_confidence(values, confidence, within):
    mean = float(np.mean(values))
    low, high = interval(values, confidence, within)
    assert low - 1e-12 <= mean <= high + 1e-12
    wider = interval(values, 0.995, within)
    assert wider[0] <= low + 1e-12
    assert high - 1e-12 <= wider[1]
    if within is not None:
        assert low + 1e-12 >= 0
        assert high - 1e-12 <= 1


@pytest.mark.parametrize("values, confidence", [([], 0.95), ([1.0], 1.0), ([1.0], 0.4)])
def test_nothing_is_said_of_nothing(values, confidence):
    with pytest.raises(ValueError, match="at least one value"):
        interval(values, confidence)
    with pytest.raises(ValueError):
        paired(values, values, confidence)


def test_independent_doubts_add_up_in_squares():
    # 0.5 x 6 and 0.5 x 8 below, nothing above
    parts = [(0.5, Estimate(10, 4, 10)), (0.5, Estimate(20, 12, 20))]
    assert combine(parts) == pytest.approx((15, 10, 15))
    assert combine([(1, Estimate(0.7, 0.6, 0.9))]) == pytest.approx((0.7, 0.6, 0.9))


def test_the_combined_interval_holds_a_weighted_mean_of_tasks():
    """Three tasks, one of them nearly always right: the standard error of its items is often zero."""
    rng = np.random.default_rng(11)
    truth, sizes, weights = (0.98, 0.8, 0.6), (40, 60, 100), (0.5, 0.25, 0.25)
    mean = sum(weight * share for weight, share in zip(weights, truth, strict=True))
    hits = 0
    for _ in range(600):
        parts = []
        for share, n, weight in zip(truth, sizes, weights, strict=True):
            items = (rng.random(n) < share).astype(float)
            parts.append((weight, Estimate(float(items.mean()), *interval(items, within=(0, 1)))))
        _, low, high = combine(parts)
        hits += low <= mean <= high
    assert hits / 600 >= 0.93
