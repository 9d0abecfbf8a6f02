"""The comparison of racing with no racing."""

import math

import pytest
import torch

from evomerge.bench.racing import Bench, Best, _waited, reached, score

ON = (Best(0.1, 0.80, 0.85), Best(0.3, 0.90, 0.83))
SLOW = (Best(0.5, 0.91, 0.90),)


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_search_has_the_score_of_its_best_on_dev():
    assert [score(ON, "dev", share) for share in (0.05, 0.1, 0.29, 0.3)] == [-math.inf, 0.8, 0.8, 0.9]
    assert score(ON, "holdout") == 0.83  # though the one before was better there
    assert score((), "dev") == -math.inf


def test_the_median_of_searches_is_what_reaches_a_score():
    assert reached([ON], "dev", 0.85) == 0.3
    assert reached([ON], "holdout", 0.85) == 0.1
    assert reached([ON, SLOW, SLOW], "dev", 0.9) == 0.5
    assert reached([ON, ON, SLOW], "dev", 0.9) == 0.3
    # a search that never finds anything counts, too
    assert reached([ON, (), ()], "dev", 0.1) == math.inf
    assert reached([ON], "dev", 0.95) == math.inf


def test_candidates_of_a_generation_wait_for_each_other():
    spent = list(range(1, 24))
    assert list(_waited(spent)) == [10] * 10 + [20] * 10 + [23] * 3


@pytest.mark.soak
def test_with_the_same_evaluations_a_race_goes_through_more_candidates():
    first = Bench(candidates=10, stopped=True).compare(3)
    assert 10 < first.candidates < 100
    assert first.stopped is not None
    assert 0 <= first.stopped.wronged <= first.stopped.passing <= first.candidates
    for bests in (first.off, first.on):
        assert all(0 < best.share <= 1 and best.dev > 0 and best.holdout > 0 for best in bests)
        assert list(bests) == sorted(bests, key=lambda best: best.share)
