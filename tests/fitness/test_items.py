import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitness.errors import SuiteError
from fitness.items import TaskScores, split, summary
from fitness.suite import Holdout


@given(st.integers(20, 400), st.floats(0.1, 0.9), st.integers(0, 5))
def test_every_document_is_in_exactly_one_split(count, fraction, seed):
    dev, holdout = split(count, Holdout(fraction=fraction, seed=seed), "refunds")
    assert sorted(dev + holdout) == list(range(count))
    assert list(dev) == sorted(dev)
    assert list(holdout) == sorted(holdout)
    assert abs(len(holdout) - fraction * count) <= 0.5


def test_the_split_is_the_same_on_every_machine():
    # The three smallest digests of `printf 7/refunds/N | sha256sum` for N in 0..9.
    dev, holdout = split(10, Holdout(fraction=0.3, seed=7), "refunds")
    expected = (0, 1, 9)
    assert holdout == expected
    assert dev == tuple(number for number in range(10) if number not in expected)


def test_seed_and_task_choose_other_documents():
    splits = {
        split(200, Holdout(fraction=0.5, seed=seed), task)[1] for seed in (0, 1) for task in ("refunds", "shipping")
    }
    assert len(splits) == 4


def test_without_a_fraction_all_documents_are_dev():
    assert split(3, Holdout(fraction=0), "refunds") == ((0, 1, 2), ())


@pytest.mark.parametrize("count, fraction", [(0, 0.0), (0, 0.3), (1, 0.3), (1, 0.9), (10, 0.04), (10, 0.96)])
def test_an_empty_split_is_refused(count, fraction):
    with pytest.raises(SuiteError, match=rf"split is empty \(task refunds\).*found {count} documents"):
        split(count, Holdout(fraction=fraction), "refunds")


def test_scores_travel_between_processes():
    scores = {"refunds": TaskScores("refunds", "acc", (0, 2), (1.0, 0.0), 0.5, True)}
    assert pickle.loads(pickle.dumps(scores)) == scores
    assert summary(scores) == {"refunds": 0.5}
