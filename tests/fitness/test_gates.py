import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitness.errors import SuiteError
from fitness.gates import judge
from fitness.ranking import violation
from fitness.suite import SuiteConfig


def suite(**gates):
    return SuiteConfig(tasks=[{"name": name, "metric": "acc", "gate": gate} for name, gate in gates.items()])


def test_a_good_mean_does_not_clear_a_gate():
    """92.4 / 82.1 / 87.0 against 90 / 85 / 84 has mean 87.2 and is not promoted."""
    config = suite(shipping={"at_least": 90}, refunds={"at_least": 85}, returns={"at_least": 84})
    results = judge({"shipping": 92.4, "refunds": 82.1, "returns": 87.0}, config, {})
    assert [result.cleared for result in results] == [True, False, True]
    assert results[1].violation == pytest.approx((85 - 82.1) / 85)
    assert violation(result.violation for result in results) == pytest.approx((85 - 82.1) / 85)


REFERENCES = {"base": {"acc": 0.3, "ppl": 20.0}, "a": {"acc": 0.8, "ppl": 30.0}, "b": {"acc": 0.5, "ppl": 10.0}}


@pytest.mark.parametrize(
    "task, gate, bound",
    [
        ("acc", {"at_least": 0.98, "of": "best_parent"}, 0.784),
        ("acc", {"at_least": 0.5, "of": "b"}, 0.25),
        ("acc", {"at_least": 1.1, "of": "base"}, 0.33),
        ("acc", {"at_most": 0.9}, 0.9),
        ("ppl", {"at_most": 1.05, "of": "base"}, 21.0),
        ("ppl", {"at_most": 1.05, "of": "best_parent"}, 10.5),
    ],
)
def test_bounds_relative_to_a_model(task, gate, bound):
    config = suite(**{task: gate})
    (result,) = judge({task: 1.0}, config, REFERENCES)
    assert result.bound == pytest.approx(bound)
    side = 1 if "at_least" in gate else -1
    for factor, cleared in ((1 + side * 1e-6, True), (1.0, True), (1 - side * 1e-6, False)):
        (result,) = judge({task: result.bound * factor}, config, REFERENCES)
        assert result.cleared is cleared
        assert (result.violation <= 0) is cleared


def test_tasks_without_a_gate_are_not_judged():
    config = SuiteConfig(tasks=[{"name": "acc", "metric": "acc"}])
    assert judge({"acc": 0.1}, config, {}) == []
    assert violation([]) == 0.0


def test_a_bound_of_zero_measures_the_miss_in_the_metrics_own_units():
    (result,) = judge({"acc": 0.25}, suite(acc={"at_most": 0}), {})
    assert result.violation == 0.25


@pytest.mark.parametrize("references", [{}, {"base": {}}, {"b": {"other": 1.0}}])
def test_a_reference_that_was_never_scored(references):
    with pytest.raises(SuiteError, match=r"no reference score \(task acc\): expected a score of 'best_parent'"):
        judge({"acc": 0.5}, suite(acc={"at_least": 1, "of": "best_parent"}), references)


@pytest.mark.parametrize("gate", [{"at_least": 0.9, "of": "base"}, {"at_most": 1.1, "of": "best_parent"}])
def test_a_share_of_a_negative_score_is_refused(gate):
    references = {"base": {"gain": -2.0}, "a": {"gain": -1.0}, "b": {"gain": 3.0}}
    with pytest.raises(SuiteError, match=r"relative gate on a negative score \(task gain: .*found -[12].0; give"):
        judge({"gain": 0.5}, suite(gain=gate), references)
    (result,) = judge({"gain": 0.5}, suite(gain={"at_least": -2}), references)
    assert result.cleared


positive = st.floats(0.01, 100)


@given(positive, positive, st.floats(0.5, 2))
def test_a_better_score_never_misses_by_more(bound, score, step):
    better, worse = max(score, score * step), min(score, score * step)
    (high,), (low,) = (judge({"acc": value}, suite(acc={"at_least": bound}), {}) for value in (better, worse))
    assert high.violation <= low.violation
    (high,), (low,) = (judge({"acc": value}, suite(acc={"at_most": bound}), {}) for value in (worse, better))
    assert high.violation <= low.violation
