from dataclasses import replace

import pytest

from evomerge.errors import SuiteError
from evomerge.search.judge import Judge
from evomerge.search.outcome import Outcome
from fitness.items import TaskScores
from fitness.suite import SuiteConfig

SUITE = SuiteConfig(tasks=[{"name": "said", "metric": "f1", "gate": {"at_least": 0.1, "confidence": 0.9}}])
SCORES = TaskScores("said", "f1", (0, 1, 2), (1.0, 0.0, 0.0), 0.6, True, jackknife=(0.59, 0.6, 0.61))
WITHOUT = replace(SCORES, jackknife=None)


def test_a_candidate_whose_gate_cannot_be_judged_fails_with_the_reason():
    judge = Judge(SUITE)
    judge.refer("base", "dev", {"said": SCORES})
    sound = judge(Outcome(scores={"said": SCORES}), "dev")
    assert (sound.reason, sound.violations["said"] < 0) == (None, True)
    assert sound.intervals["said"][0] < sound.limits["said"] < 0.6, "95 and 90 % confidence"
    failed = judge(Outcome(scores={"said": WITHOUT}), "dev")
    assert "asks for confidence in a score that has no interval (task said" in failed.reason
    assert (failed.scores, failed.item_evaluations) == ({"said": 0.6}, 3)


def test_with_a_score_that_nothing_is_certain_of_the_objective_has_no_interval():
    """All documents of a metric of unknown range have the same value; its range would say what others may have."""
    scores = {"said": TaskScores("said", "points", (0, 1, 2, 3), (7.0,) * 4, 7.0, True)}
    for stated, certain in ((None, False), ((0, 10), True)):
        suite = SuiteConfig(tasks=[{"name": "said", "metric": "points", "range": stated}])
        result = Judge(suite)(Outcome(scores=scores), "dev")
        assert result.objective == 7
        assert (list(result.intervals) == ["said"]) is (result.objective_interval is not None) is certain
        assert (result.floor == 7) is not certain, "without an interval the task is taken at its value"


def scored(**values):
    metrics = {"easy": "em", "hard": "acc"}
    return {
        task: TaskScores(task, metrics[task], tuple(range(len(each))), tuple(each), sum(each) / len(each), True)
        for task, each in values.items()
    }


@pytest.mark.parametrize("levels", [(0.0, 1.0), (3.0, 5.0), None])
def test_a_perfect_score_does_not_lose_to_a_poor_one(levels):
    """All documents of one task are right, and what its metric is nobody has said: the others decide."""
    judge = Judge(SuiteConfig(tasks=[{"name": "easy", "metric": "em"}, {"name": "hard", "metric": "acc"}]))
    if levels is not None:
        for model in ("base", "parent"):
            judge.refer(model, "dev", scored(easy=levels * 100, hard=[1.0, 0.0] * 100))
    perfect = judge(Outcome(scored(easy=[1.0] * 200, hard=[1.0] * 180 + [0.0] * 20)), "dev")
    poor = judge(Outcome(scored(easy=[1.0] * 199 + [0.0], hard=[1.0] * 60 + [0.0] * 140)), "dev")
    assert perfect.floor > poor.floor
    assert (perfect.objective_interval is not None) is (levels == (0.0, 1.0))
    assert bool(judge.warnings) is (levels == (3.0, 5.0))


def test_the_references_on_dev_tell_a_range_on_holdout_too():
    judge = Judge(SuiteConfig(tasks=[{"name": "easy", "metric": "em"}]))
    right = Outcome(scored(easy=[1.0] * 20))
    judge.refer("base", "holdout", right.scores)
    assert judge(right, "holdout").intervals == {}
    judge.refer("base", "dev", scored(easy=[0.0, 1.0]))
    assert judge(right, "holdout").intervals["easy"] == pytest.approx((0.8389, 1.0), abs=1e-4)  # Wilson's
    judge.refer("parent", "dev", scored(easy=[0.0, 100.0]))
    assert judge(right, "holdout").intervals == judge.ranges == {}
    assert [each.split(",")[0] for each in judge.warnings] == ["task easy: the range of em is not known"]


def test_a_gate_that_cannot_be_judged_for_the_base_is_the_suites_mistake():
    judge = Judge(SUITE)
    judge.refer("base", "dev", {"said": WITHOUT})
    with pytest.raises(SuiteError, match=r"found f1 over 3 documents; leave out `confidence`"):
        judge(Outcome(scores={"said": WITHOUT}), "dev")
