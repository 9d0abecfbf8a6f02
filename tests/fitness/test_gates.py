import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitness.errors import ScoringError, SuiteError
from fitness.estimates import score_difference
from fitness.gates import bounds, judge
from fitness.items import TaskScores
from fitness.ranking import violation
from fitness.suite import SuiteConfig


def suite(**gates):
    return SuiteConfig(tasks=[{"name": name, "metric": "acc", "gate": gate} for name, gate in gates.items()])


def scored(**scores):
    """Scores of which no items are at hand."""
    return {name: TaskScores(name, "acc", (), (), score, True) for name, score in scores.items()}


def answers(right, n=200):
    """The first documents right, the others wrong."""
    values = (1.0,) * right + (0.0,) * (n - right)
    return {"acc": TaskScores("acc", "acc", tuple(range(n)), values, right / n, True)}


def test_a_good_mean_does_not_clear_a_gate():
    """92.4 / 82.1 / 87.0 against 90 / 85 / 84 has mean 87.2 and is not promoted."""
    config = suite(shipping={"at_least": 90}, refunds={"at_least": 85}, returns={"at_least": 84})
    results = judge(scored(shipping=92.4, refunds=82.1, returns=87.0), config, {})
    assert [result.cleared for result in results] == [True, False, True]
    assert results[1].violation == pytest.approx((85 - 82.1) / 85)
    assert violation(result.violation for result in results) == pytest.approx((85 - 82.1) / 85)


MEANS = {"base": {"acc": 0.3, "ppl": 20.0}, "a": {"acc": 0.8, "ppl": 30.0}, "b": {"acc": 0.5, "ppl": 10.0}}
REFERENCES = {model: scored(**means) for model, means in MEANS.items()}


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
    (result,) = judge(scored(**{task: 1.0}), config, REFERENCES)
    assert result.bound == pytest.approx(bound)
    assert bounds(config, MEANS)[task][0] == result.bound
    side = 1 if "at_least" in gate else -1
    for factor, cleared in ((1 + side * 1e-6, True), (1.0, True), (1 - side * 1e-6, False)):
        (result,) = judge(scored(**{task: result.bound * factor}), config, REFERENCES)
        assert result.cleared is cleared
        assert (result.violation <= 0) is cleared


def test_tasks_without_a_gate_are_not_judged():
    config = SuiteConfig(tasks=[{"name": "acc", "metric": "acc"}])
    assert judge(scored(acc=0.1), config, {}) == []
    assert violation([]) == 0.0


def test_a_bound_of_zero_measures_the_miss_in_the_metrics_own_units():
    (result,) = judge(scored(acc=0.25), suite(acc={"at_most": 0}), {})
    assert result.violation == 0.25


@pytest.mark.parametrize("references", [{}, {"base": {}}, {"b": {"other": 1.0}}])
def test_a_reference_that_was_never_scored(references):
    with pytest.raises(SuiteError, match=r"no reference score \(task acc\): expected a score of 'best_parent'"):
        judge(
            scored(acc=0.5),
            suite(acc={"at_least": 1, "of": "best_parent"}),
            {model: scored(**means) for model, means in references.items()},
        )


@pytest.mark.parametrize("gate", [{"at_least": 0.9, "of": "base"}, {"at_most": 1.1, "of": "best_parent"}])
def test_a_share_of_a_negative_score_is_refused(gate):
    references = {"base": scored(gain=-2.0), "a": scored(gain=-1.0), "b": scored(gain=3.0)}
    with pytest.raises(SuiteError, match=r"relative gate on a negative score \(task gain: .*found -[12].0; give"):
        judge(scored(gain=0.5), suite(gain=gate), references)
    (result,) = judge(scored(gain=0.5), suite(gain={"at_least": -2}), references)
    assert result.cleared


positive = st.floats(0.01, 100)


@given(positive, positive, st.floats(0.5, 2))
def test_a_better_score_never_misses_by_more(bound, score, step):
    better, worse = max(score, score * step), min(score, score * step)
    (high,), (low,) = (judge(scored(acc=value), suite(acc={"at_least": bound}), {}) for value in (better, worse))
    assert high.violation <= low.violation
    (high,), (low,) = (judge(scored(acc=value), suite(acc={"at_most": bound}), {}) for value in (worse, better))
    assert high.violation <= low.violation


@pytest.mark.parametrize("right, cleared", [(178, False), (179, False), (188, False), (189, True)])
def test_confidence_asks_more_than_the_mean(right, cleared):
    """Wilson's lower limit of 188/200 is 0.8981, that of 189/200 is 0.9042."""
    gate = {"at_least": 0.9, "confidence": 0.95}
    (result,) = judge(answers(right), suite(acc=gate), {})
    assert result.cleared is cleared
    assert (result.score, result.bound) == (right / 200, 0.9)
    assert result.violation == pytest.approx((0.9 - result.limit) / 0.9)
    if right == 188:
        assert result.limit == pytest.approx(0.8981, abs=5e-5)
    (plain,) = judge(answers(right), suite(acc={"at_least": 0.9}), {})
    assert (plain.cleared, plain.limit) == (right >= 180, right / 200)


def test_the_upper_limit_must_stay_below_an_at_most_gate():
    # errors: Wilson's upper limit of 12/200 is 0.1019
    (result,) = judge(answers(12), suite(acc={"at_most": 0.1, "confidence": 0.95}), {})
    assert result.limit == pytest.approx(0.1019, abs=5e-5)
    assert not result.cleared
    assert result.violation == pytest.approx(0.019, abs=5e-4)
    (result,) = judge(answers(12), suite(acc={"at_most": 0.1, "confidence": 0.8}), {})
    assert result.cleared


@pytest.mark.parametrize("confidence", [{}, {"confidence": 0.95}])
def test_over_part_of_the_documents_a_gate_is_missed_by_what_its_interval_misses(confidence):
    """Wilson's interval of 32/40 is [0.6524, 0.8950], that of 34/40 is [0.7093, 0.9294]."""

    def limit(right, bound):
        (result,) = judge(answers(right, 40), suite(acc=bound | confidence), {}, partial={"acc"})
        return result.limit, result.violation

    assert limit(32, {"at_least": 0.9}) == pytest.approx((0.8950, 0.0056), abs=5e-5)
    assert limit(34, {"at_least": 0.9}) == (0.9, 0.0)
    assert limit(38, {"at_least": 0.9}) == pytest.approx((0.95, -0.0556), abs=5e-5)
    assert limit(34, {"at_most": 0.7}) == pytest.approx((0.7093, 0.0133), abs=5e-5)
    assert limit(32, {"at_most": 0.7}) == (0.7, 0.0)
    # a relative gate goes by the difference over the same documents
    own, whole = answers(26, 40), answers(190, 200)
    gate = {"at_least": 0.9, "of": "a"} | confidence
    (paired,) = judge(own, suite(acc=gate), {"base": {}, "a": whole}, partial={"acc"})
    difference = score_difference(own["acc"], whole["acc"], 0.95, 0.9)
    assert difference is not None
    assert paired.limit == min(paired.bound, paired.bound + difference.high)
    assert paired.limit < paired.bound == pytest.approx(0.855)
    # without an interval nothing is certain
    for score, held in ((0.8, 0.9), (0.95, 0.95)):
        (bare,) = judge(scored(acc=score), suite(acc={"at_least": 0.9} | confidence), {}, partial={"acc"})
        assert (bare.limit, bare.cleared) == (held, True)


def test_beside_tasks_in_part_one_that_was_scored_in_full_is_judged_in_full():
    scores = answers(32, 40) | {"bleu": jackknifed(20.0, 18.0, 20.0, 22.0)}
    config = suite(acc={"at_least": 0.9}, bleu={"at_least": 21.0})
    part, full = judge(scores, config, {}, partial={"acc"})
    assert (part.limit > part.score, full.limit, full.cleared) == (True, 20.0, False)


def test_a_relative_gate_with_confidence_is_judged_by_the_same_documents():
    """Ten more of the same 200 right is certain; the two scores alone are too uncertain to say so."""
    config = suite(acc={"at_least": 1.0, "of": "a", "confidence": 0.95})
    (paired,) = judge(answers(160), config, {"base": {}, "a": answers(150)})
    assert paired.cleared
    assert paired.bound == 0.75
    (unpaired,) = judge(answers(160), config, {"base": {}, "a": scored(acc=0.75)})
    assert not unpaired.cleared
    assert unpaired.limit < paired.limit < paired.score == unpaired.score


F1 = TaskScores("acc", "f1", (0, 1, 2), (1.0, 0.0, 0.0), 0.6, True)


def suite_f1(gate):
    return SuiteConfig(tasks=[{"name": "acc", "metric": "f1", "gate": gate}])


def jackknifed(score, *without):
    return replace(F1, score=score, jackknife=without)


def test_confidence_in_a_score_of_all_documents_goes_by_the_jackknife():
    """Without each of three groups 0.59, 0.60, 0.61: 4.3027 x sqrt(2/3 x 0.0002) are 0.0497."""
    config = suite_f1({"at_least": 0.55, "confidence": 0.95})
    (result,) = judge({"acc": jackknifed(0.6, 0.59, 0.6, 0.61)}, config, {})
    assert (result.limit, result.cleared) == (pytest.approx(0.6 - 0.0497, abs=1e-4), True)
    (result,) = judge({"acc": jackknifed(0.6, 0.58, 0.6, 0.62)}, config, {})
    assert not result.cleared


def test_a_relative_gate_with_confidence_in_such_a_score_goes_by_the_same_groups():
    config = suite_f1({"at_least": 1.0, "of": "a", "confidence": 0.95})
    scores, reference = {"acc": jackknifed(0.6, 0.5, 0.6, 0.7)}, {"acc": jackknifed(0.5, 0.4, 0.49, 0.61)}
    (result,) = judge(scores, config, {"base": reference, "a": reference})
    # 0.10, 0.11, 0.09: 4.3027 x sqrt(2/3 x 0.0002) again
    assert (result.limit, result.cleared) == (pytest.approx(0.5 + 0.1 - 0.0497, abs=1e-4), True)


def test_confidence_in_a_score_that_never_has_an_interval_is_refused():
    config = suite_f1({"at_least": 0.5, "confidence": 0.9})
    for references in ({}, {"base": {"acc": F1}}):
        with pytest.raises(SuiteError, match=r"no interval \(task acc: >= 0.5 with confidence 0.9\).*found f1 over 3"):
            judge({"acc": F1}, config, references)


def test_a_model_alone_without_an_interval_is_no_mistake_of_the_suite():
    config = suite_f1({"at_least": 0.5, "confidence": 0.9})
    with pytest.raises(ScoringError, match=r"no interval \(task acc: .*found f1 that is not defined without some"):
        judge({"acc": F1}, config, {"base": {"acc": jackknifed(0.6, 0.5, 0.6, 0.7)}})


def graded(*values):
    return {"acc": TaskScores("acc", "points", tuple(range(len(values))), values, sum(values) / len(values), True)}


def test_equal_values_of_an_unknown_range_clear_no_gate_with_confidence():
    gate, spread = {"at_least": 0.5, "confidence": 0.95}, graded(*[9.0, 10.0] * 10)
    with pytest.raises(SuiteError, match=r"found points that none of 20 documents changes; state the metric's `range`"):
        judge(graded(*[1.0] * 20), suite(acc=gate), {"base": graded(*[1.0] * 20)})
    with pytest.raises(ScoringError, match=r"found points that none of 20 documents changes; state the metric's"):
        judge(graded(*[1.0] * 20), suite(acc=gate), {"base": spread})
    config = SuiteConfig(tasks=[{"name": "acc", "metric": "points", "gate": gate, "range": [0, 10]}])
    (result,) = judge(graded(*[1.0] * 20), config, {"base": spread})
    assert result.limit == pytest.approx(0.5, abs=0.1)
    assert result.score == 1.0


@pytest.mark.parametrize("gain", [0.0, 1.0, 0.3, -0.2])
def test_a_relative_gate_does_not_jump_where_all_documents_differ_alike(gain):
    values = np.random.default_rng(0).integers(0, 9, 100).astype(float)
    config = suite(acc={"at_least": 1.0, "of": "base", "confidence": 0.95})
    base, moved = graded(*values), values + gain
    (alike,) = judge(graded(*moved), config, {"base": base})
    assert (alike.limit, alike.cleared) == (pytest.approx(alike.score), gain >= 0)
    (nearly,) = judge(graded(*moved[:-1], moved[-1] + 0.01), config, {"base": base})
    assert nearly.limit == pytest.approx(alike.limit, abs=1e-3)
    # of part of the documents that is no proof, nor of a single one
    (part,) = judge(graded(*moved), config, {"base": base}, partial={"acc"})
    assert part.cleared
    with pytest.raises(SuiteError, match=r"state the metric's `range`"):
        judge(graded(7.0), config, {"base": graded(7.0)})


def test_a_presumed_range_gives_an_equal_gain_its_doubt():
    gate = {"at_least": 1.0, "of": "base", "confidence": 0.95}
    config, right = suite(acc=gate), graded(*[1.0] * 20)
    (plain,) = judge(right, config, {"base": right})
    (ranged,) = judge(right, config, {"base": right}, ranges={"acc": (0, 1)})
    (known,) = judge(answers(20, 20), config, {"base": answers(20, 20)})
    assert known.limit == ranged.limit < plain.limit == 1.0


def test_a_perplexity_half_as_large_clears_a_gate_with_confidence():
    """Documents differ in length, and each is as hard for both but for 2 %."""
    rng = np.random.default_rng(0)
    config = SuiteConfig(
        tasks=[
            {"name": "p", "metric": "word_perplexity", "gate": {"at_most": 1.05, "of": "base", "confidence": 0.95}},
        ]
    )
    for _ in range(30):
        words = np.maximum(5, np.round(rng.lognormal(5.5, 0.8, 100)))
        hard = rng.normal(0, 0.1, 100)
        half, base = (-(math.log(level) + hard + rng.normal(0, 0.02, 100)) * words for level in (10, 20))
        scores = [
            {"p": TaskScores("p", "word_perplexity", tuple(range(100)), tuple(nats), ppl, False, tuple(words))}
            for nats in (half, base)
            for ppl in (math.exp(-nats.sum() / words.sum()),)
        ]
        (result,) = judge(scores[0], config, {"base": scores[1]})
        assert result.cleared


@pytest.mark.parametrize("confidence", [0.4, 1.0, 95, "high"])
def test_a_confidence_that_is_none_is_refused(confidence):
    with pytest.raises(ValueError, match="confidence"):
        suite(acc={"at_least": 0.5, "confidence": confidence})
