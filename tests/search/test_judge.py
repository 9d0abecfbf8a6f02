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


def test_a_gate_that_cannot_be_judged_for_the_base_is_the_suites_mistake():
    judge = Judge(SUITE)
    judge.refer("base", "dev", {"said": WITHOUT})
    with pytest.raises(SuiteError, match=r"found f1 over 3 documents; leave out `confidence`"):
        judge(Outcome(scores={"said": WITHOUT}), "dev")
