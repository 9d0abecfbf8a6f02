import math
from dataclasses import replace

import numpy as np
import pytest

from fitness import jackknife
from fitness.confidence import interval
from fitness.errors import ScoringError
from fitness.estimates import (
    item_range,
    objective_difference,
    objective_estimate,
    presumed_range,
    presumed_ranges,
    range_advice,
    score_difference,
    score_interval,
    wants_range,
)
from fitness.items import TaskScores
from fitness.suite import SuiteConfig


def accuracy(*values: float, ids: tuple[int, ...] | None = None, metric: str = "acc") -> TaskScores:
    ids = tuple(range(len(values))) if ids is None else ids
    return TaskScores("qa", metric, ids, values, sum(values) / len(values), True)


def perplexity(rng, words, per_word=-3.0, spread=0.3, weights=True) -> TaskScores:
    """Documents of so many words, whose log-likelihood is that of the words, one of them more or less likely."""
    values = words * per_word + spread * np.sqrt(words) * rng.standard_normal(len(words))
    score = math.exp(-values.sum() / words.sum())
    ids, counted = tuple(range(len(words))), tuple(map(float, words)) if weights else None
    return TaskScores("prose", "word_perplexity", ids, tuple(values), score, False, counted)


SUITE = SuiteConfig(
    tasks=[{"name": "qa", "metric": "acc", "weight": 3}, {"name": "prose", "metric": "word_perplexity", "weight": 1}]
)


def test_only_a_mean_of_known_values_has_a_range():
    assert item_range(accuracy(1, 0, 1)) == (0, 1)
    assert item_range(accuracy(0.5, 100, 20)) is None  # a task of its own that counts in percent
    assert item_range(accuracy(1, 0, 1, metric="reward")) is None
    assert item_range(accuracy(1, 0, 1, metric="reward"), (0, 10)) == (0, 10)
    assert item_range(accuracy(0.5, 100, 20), (0, 100)) == (0, 100)
    assert item_range(TaskScores("qa", "points", (0, 1), (1.0, 0.0), 0.3, True), (0, 10)) is None
    assert item_range(TaskScores("qa", "acc", (0, 1), (1.0, 0.0), 0.3, True)) is None  # aggregated otherwise
    assert item_range(perplexity(np.random.default_rng(0), np.arange(5, 30))) is None


def test_the_interval_of_an_aggregate_that_nothing_tells_is_unknown():
    assert score_interval(TaskScores("qa", "f1", (0, 1, 2), (1.0, 0.0, 1.0), 0.61, True)) is None
    assert score_interval(TaskScores("qa", "bleu", (), (), 17.0, True)) is None


def test_equal_items_have_an_interval_where_their_range_is_known():
    graded = accuracy(*[10.0] * 20, metric="points")
    assert score_interval(graded) is None
    assert wants_range(graded)
    assert score_interval(graded, within=(0, 10)) == pytest.approx((8.389, 10.0), abs=1e-3)  # ten times Wilson's
    assert score_interval(accuracy(*[1.0] * 20)) == pytest.approx((0.8389, 1.0), abs=1e-4)
    base = accuracy(*[7.0] * 20, metric="points")
    assert score_difference(graded, base) == (score_difference(graded, base).value, -math.inf, math.inf)
    value, low, high = score_difference(graded, base, within=(0, 10))
    assert low < value == 3 < high
    assert not wants_range(TaskScores("qa", "f1", (0, 1), (1.0, 0.0), 0.7, True))


def corpus(score: float, *without: float, higher: bool = True, ids: tuple[int, ...] = (0, 1, 2, 3)) -> TaskScores:
    """A score that items do not tell, and what it is without each group."""
    return TaskScores("qa", "ter", ids, (0.0,) * len(ids), score, higher, jackknife=without)


def test_the_interval_of_a_jackknife_of_a_hand_worked_case():
    """3/4 x (1 + 1 + 1 + 1) = 3, and Student's quantile for 3 degrees of freedom is 3.1824."""
    reach = 3.1824 * math.sqrt(3)
    assert score_interval(corpus(20, 19, 21, 19, 21)) == pytest.approx((20 - reach, 20 + reach), abs=1e-3)
    assert score_interval(corpus(2, 1, 3, 1, 3)) == pytest.approx((2 - reach, 2 + reach), abs=1e-3)
    # an error rate is never negative, and one that is could not be ranked
    assert score_interval(corpus(2, 1, 3, 1, 3, higher=False)) == pytest.approx((0, 2 + reach), abs=1e-3)


def test_a_score_that_no_group_changes_is_not_certain():
    """All of 50 documents are right, so F1 is 1 without any of them, too."""
    perfect = TaskScores("qa", "f1", tuple(range(50)), (1.0,) * 50, 1.0, True, jackknife=(1.0,) * 20)
    low, high = score_interval(perfect)
    assert (low, high) == pytest.approx((0.9287, 1.0), abs=1e-4)  # Wilson's of 50 of 50
    assert score_difference(perfect, perfect) == (0.0, -math.inf, math.inf)
    own = replace(perfect, metric="own")
    assert score_interval(own) is None
    assert wants_range(own)
    assert score_interval(own, within=(0, 1)) == (low, high)
    assert score_interval(replace(perfect, score=100.0, jackknife=(100.0,) * 20)) is None, "F1 in percent"


def test_a_mean_that_is_certain_of_nothing_below_zero_where_lower_is_better():
    low, high = score_interval(TaskScores("qa", "loss", (0, 1, 2), (0.1, 0.0, 3.0), 3.1 / 3, False))
    assert (low, high > 3.1 / 3) == (0, True)


def test_a_score_below_zero_lies_in_its_interval():
    loss = TaskScores("qa", "loss", (0, 1, 2), (-1.0, -2.0, -3.0), -2.0, False)
    low, high = score_interval(loss)
    assert low <= loss.score < high


def test_an_f1_that_equals_the_mean_of_its_items_is_none():
    """As many true positives as negatives: the spread of right and wrong is not that of F1."""
    items = (1.0, 1.0, 0.0, 1.0, 1.0)
    f1 = TaskScores("qa", "f1", tuple(range(5)), items, 0.8, True, jackknife=(0.8, 0.7, 1.0, 0.8, 0.7))
    assert score_interval(f1) == jackknife.estimate(0.8, f1.jackknife)[1:]
    # an accuracy with an aggregation of its own that is a mean keeps Wilson's doubt
    assert score_interval(replace(f1, metric="acc")) == interval(items)


def test_the_difference_of_two_jackknives_is_over_the_same_groups():
    """Groups that are hard for both do not count as doubt."""
    a, b = corpus(20, 15, 25, 14, 26), corpus(10, 5.5, 14.5, 4, 16)
    value, low, high = score_difference(a, b)
    reach = 3.1824 * math.sqrt(0.75 * (0.5**2 + 0.5**2))
    assert (value, low, high) == pytest.approx((10, 10 - reach, 10 + reach), abs=1e-3)
    value, low, high = score_difference(a, b, factor=2.0)
    reach = 3.1824 * math.sqrt(0.75 * (4**2 + 4**2 + 6**2 + 6**2))
    assert (value, low, high) == pytest.approx((0, -reach, reach), abs=1e-3)
    assert score_difference(a, corpus(10, 5.5, 14.5, 4, 16, ids=(0, 1, 2, 4))) is None
    assert score_difference(a, TaskScores("qa", "ter", a.doc_ids, a.values, 10.0, True)) is None
    suite = SuiteConfig(tasks=[{"name": "qa", "metric": "ter"}])
    assert objective_difference({"qa": a}, {"qa": b}, suite) == pytest.approx(score_difference(a, b))


def test_the_difference_of_two_jackknives_where_lower_is_better_is_one_of_utilities():
    suite = SuiteConfig(tasks=[{"name": "qa", "metric": "ter"}])
    a, b = corpus(1.0, 0.9, 1.1, 0.9, 1.1, higher=False), corpus(3.0, 2.9, 3.1, 2.9, 3.1, higher=False)
    found = objective_difference({"qa": a}, {"qa": b}, suite)
    per_group = [1 / 1.9 - 1 / 3.9, 1 / 2.1 - 1 / 4.1] * 2
    reach = 3.1824 * math.sqrt(3 * np.var(per_group))
    assert found == pytest.approx((0.25, 0.25 - reach, 0.25 + reach), abs=1e-4)


@pytest.mark.parametrize("weights", [True, False])
def test_the_interval_of_a_perplexity_holds_it(weights):
    """With the documents' lengths it is short; without them their spread counts as doubt, and it is too wide."""
    rng = np.random.default_rng(1)
    hits, widths = 0, []
    for _ in range(300):
        words = rng.integers(5, 60, 80)
        low, high = score_interval(perplexity(rng, words, weights=weights))
        hits += low <= math.exp(3) <= high
        widths.append(high - low)
    assert hits / 300 >= 0.92
    # the error of log perplexity is 0.3 / sqrt(80 documents x 32 words), so four of them times e^3 are 0.47
    assert bool(np.mean(widths) < 0.55) is weights


def test_bits_per_byte_is_a_perplexity_in_other_units():
    prose = perplexity(np.random.default_rng(2), np.arange(5, 45))
    bits = math.log2(prose.score)
    low, high = score_interval(TaskScores("prose", "bits_per_byte", *prose_fields(prose), bits, False, prose.weights))
    expected = [prose.score * (1 + (end - bits) * math.log(2)) for end in (low, high)]
    assert score_interval(prose) == pytest.approx(expected)


def prose_fields(task: TaskScores):
    return task.doc_ids, task.values


def test_differences_are_over_common_documents():
    a, b = accuracy(1, 1, 0, 1, 1, ids=(0, 2, 4, 6, 8)), accuracy(0, 1, 1, 0, ids=(2, 6, 8, 9))
    assert score_difference(a, b).value == pytest.approx(1 / 3)  # 2: +1, 6: 0, 8: 0
    assert score_difference(a, accuracy(1, ids=(5,))) is None
    assert score_difference(a, TaskScores("qa", "acc", (), (), 0.5, True)) is None


def test_the_difference_of_two_perplexities():
    """Documents that are hard for both do not count as doubt, nor do long ones."""
    rng = np.random.default_rng(3)
    words = rng.integers(5, 60, 60)
    a = perplexity(rng, words)
    values = tuple(value - 0.1 * count for value, count in zip(a.values, words, strict=True))
    b = replace(a, values=values, score=a.score * math.exp(0.1))
    value, low, high = score_difference(a, b)
    assert value == pytest.approx(a.score - b.score)
    assert low < value < high < 0
    interval = score_interval(a)
    assert high - low < (interval[1] - interval[0]) / 2
    # a study of an older evomerge has no lengths
    bare = replace(a, weights=None), replace(b, weights=None)
    assert score_difference(a, bare[1]) == score_difference(bare[0], b) == score_difference(*bare)
    assert score_difference(*bare).low < low


def test_two_perplexities_that_differ_much_are_no_less_sure():
    """Documents differ by their lengths alone but for 1 %: log perplexity is 1 off, so nothing else is in doubt."""
    rng = np.random.default_rng(4)
    words = np.maximum(5, np.round(rng.lognormal(5.4, 0.8, 100)))
    a, b = (prose(words, level + 0.01 * rng.standard_normal(100)) for level in (math.log(10), math.log(20)))
    value, low, high = score_difference(a, b, 0.95, 1.05)
    assert value == pytest.approx(10 - 21, abs=0.1)
    assert high - low < 0.2
    suite = SuiteConfig(tasks=[{"name": "prose", "metric": "word_perplexity"}])
    lead = objective_difference({"prose": a}, {"prose": b}, suite)
    assert lead.value == pytest.approx(1 / 11 - 1 / 21, abs=1e-3)
    assert lead.high - lead.low < 1e-3


def test_the_difference_of_two_perplexities_is_held_as_often_as_it_says():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        words = np.maximum(5, np.round(rng.lognormal(5.4, 0.8, 80)))
        hard = rng.normal(0, 0.1, 80)
        a, b = (prose(words, math.log(level) + hard + rng.normal(0, 0.02, 80)) for level in (12, 10))
        _, low, high = score_difference(a, b, 0.95, 1.05)
        hits += low <= 12 - 1.05 * 10 <= high
    assert 0.91 <= hits / 400 <= 0.98


def prose(words, nats) -> TaskScores:
    """Documents of so many words that take so many nats each."""
    score = math.exp(float((words * nats).sum() / words.sum()))
    ids, values = tuple(range(len(words))), tuple(map(float, -words * nats))
    return TaskScores("prose", "word_perplexity", ids, values, score, False, tuple(map(float, words)))


def test_the_objective_of_a_hand_worked_case():
    """3/4 x 0.75 + 1/4 x 1/(1 + 4), with 0.55 to 0.9 and a perplexity of 3 to 7."""
    prose = TaskScores("prose", "word_perplexity", (0,), (-1.0,), 4.0, False)
    scores = {"qa": accuracy(1, 1, 1, 0), "prose": prose}
    found = objective_estimate(scores, {"qa": (0.55, 0.9), "prose": (3.0, 7.0)}, SUITE)
    down, up = math.hypot(0.75 * 0.2, 0.25 * (0.2 - 0.125)), math.hypot(0.75 * 0.15, 0.25 * (0.25 - 0.2))
    assert found == pytest.approx((0.6125, 0.6125 - down, 0.6125 + up))
    # a task without an interval is taken at its value
    found = objective_estimate(scores, {"qa": (0.55, 0.9)}, SUITE)
    assert found == pytest.approx((0.6125, 0.6125 - 0.15, 0.6125 + 0.1125))
    negative = {**scores, "prose": TaskScores("prose", "loss", (0,), (-1.0,), -1.0, False)}
    with pytest.raises(ScoringError, match="cannot be ranked"):
        objective_estimate(negative, {}, SUITE)


def test_the_difference_of_two_objectives_is_that_of_their_values():
    rng = np.random.default_rng(4)
    words = rng.integers(5, 60, 60)
    first, second = perplexity(rng, words), perplexity(rng, words, per_word=-3.02)
    a = {"qa": accuracy(*[1.0] * 50, *[0.0] * 10), "prose": first}
    b = {"qa": accuracy(*[1.0] * 45, *[0.0] * 15), "prose": second}
    found = objective_difference(a, b, SUITE)
    expected = 0.75 * 5 / 60 + 0.25 * (1 / (1 + first.score) - 1 / (1 + second.score))
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high
    back = objective_difference(b, a, SUITE)
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_what_all_references_keep_to_is_presumed_of_others():
    unit, beyond = accuracy(0.2, 1, 0, metric="em"), accuracy(0.2, 3, 0, metric="em")
    assert presumed_range([unit, accuracy(1, 1, metric="em")]) == (0, 1)
    assert presumed_range([unit, beyond]) is presumed_range([]) is None
    assert presumed_range([unit, beyond], (0, 5)) == (0, 5)
    f1 = TaskScores("qa", "f1", (0, 1), (1.0, 0.0), 0.5, True, jackknife=(0.4, 0.6))
    assert presumed_range([f1]) is None, "the mean by chance"
    suite = SuiteConfig(tasks=[{"name": "qa", "metric": "em"}, {"name": "prose", "metric": "word_perplexity"}])
    scores = {"qa": unit, "prose": perplexity(np.random.default_rng(0), np.arange(5, 30))}
    assert presumed_ranges(suite, [scores, scores]) == {"qa": (0, 1)}
    assert presumed_ranges(suite, []) == {}


def test_a_presumed_range_holds_as_long_as_the_scores_keep_to_it():
    right, acc = accuracy(*[1.0] * 20, metric="em"), accuracy(*[1.0] * 20)
    assert score_interval(right, within=(0, 1)) == score_interval(acc)
    assert score_interval(accuracy(*[2.0] * 20, metric="em"), within=(0, 1)) is None
    assert score_difference(right, right, within=(0, 1)) == score_difference(acc, acc)
    over = accuracy(*[2.0] * 20, metric="em")
    assert math.isinf(score_difference(over, right, within=(0, 1)).low)
    assert item_range(over, (0, 1)) is None


def test_an_unknown_range_is_told_of_means_alone():
    points = accuracy(7, 8, 9, metric="points")
    assert range_advice(points).startswith("task qa: the range of points is not known")
    assert range_advice(points, (0, 10)) is range_advice(accuracy(1, 0)) is None
    assert range_advice(perplexity(np.random.default_rng(0), np.arange(5, 30))) is None
    assert range_advice(TaskScores("qa", "f1", (0, 1), (1.0, 0.0), 0.7, True)) is None


def test_equal_errors_have_a_difference_of_utilities():
    """All of both wrong: an error rate of 1 is a utility of 1/2, whose slope is -1/4."""
    suite = SuiteConfig(tasks=[{"name": "qa", "metric": "error"}])
    wrong = {"qa": replace(accuracy(*[1.0] * 20, metric="error"), higher_is_better=False)}
    assert math.isinf(objective_difference(wrong, wrong, suite).low)
    value, low, high = objective_difference(wrong, wrong, suite, ranges={"qa": (0, 1)})
    _, _, certain = score_difference(wrong["qa"], wrong["qa"], within=(0, 1))
    assert (value, low, high) == pytest.approx((0, -certain / 4, certain / 4))


def test_with_a_task_without_an_interval_a_difference_is_not_certain():
    f1 = {"qa": TaskScores("qa", "f1", (0, 1), (1.0, 0.0), 0.7, True)}
    other = {"qa": TaskScores("qa", "f1", (0, 1), (1.0, 1.0), 0.9, True)}
    suite = SuiteConfig(tasks=[{"name": "qa", "metric": "f1"}])
    assert objective_difference(f1, other, suite) == (pytest.approx(-0.2), -math.inf, math.inf)
    graded = [{"qa": accuracy(value, value, value, metric="points")} for value in (8.0, 7.0)]
    for stated, certain in ((None, False), ((0, 10), True)):
        suite = SuiteConfig(tasks=[{"name": "qa", "metric": "points", "range": stated}])
        found = objective_difference(*graded, suite)
        assert (found.value, math.isfinite(found.low)) == (1.0, certain)
