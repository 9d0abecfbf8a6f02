import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitness.errors import SuiteError
from fitness.items import TaskScores, split, summary
from fitness.suite import Holdout


def numbered(count):
    return [{"number": number} for number in range(count)]


@given(st.integers(20, 400), st.floats(0.1, 0.9), st.integers(0, 5))
def test_every_document_is_in_exactly_one_split(count, fraction, seed):
    dev, holdout = split(numbered(count), Holdout(fraction=fraction, seed=seed), "refunds")
    assert sorted(dev + holdout) == list(range(count))
    assert list(dev) == sorted(dev)
    assert list(holdout) == sorted(holdout)
    assert abs(len(holdout) - fraction * count) <= 0.5


def test_the_split_is_the_same_on_every_machine():
    # The three smallest digests of `printf '7/{"number": N}' | sha256sum` for N in 0..9.
    dev, holdout = split(numbered(10), Holdout(fraction=0.3, seed=7), "refunds")
    expected = (5, 6, 8)
    assert holdout == expected
    assert dev == tuple(number for number in range(10) if number not in expected)


def test_the_seed_chooses_other_documents_and_the_task_does_not():
    splits = [
        split(numbered(200), Holdout(fraction=0.5, seed=seed), task)[1]
        for seed in (0, 1)
        for task in ("refunds", "shipping")
    ]
    assert splits[0] == splits[1] != splits[2] == splits[3]


repeated = st.lists(st.integers(0, 30), min_size=20, max_size=80).filter(lambda values: len(set(values)) > 10)


@given(repeated, st.randoms(use_true_random=False))
def test_a_document_lies_on_the_same_side_in_every_task_over_the_same_documents(values, random):
    sides = []
    for order in (values, random.sample(values, len(values))):
        documents = [{"id": value, "text": f"Grüße {value}"} for value in order]
        dev, holdout = split(documents, Holdout(fraction=0.5), f"task {len(sides)}")
        sides.append([{order[number] for number in side} for side in (dev, holdout)])
    assert sides[0] == sides[1]
    assert not sides[0][0] & sides[0][1]


@given(repeated, st.floats(0.4, 0.9))
def test_equal_documents_cost_the_holdout_less_than_one_group(values, fraction):
    dev, holdout = split([{"id": value} for value in values], Holdout(fraction=fraction), "refunds")
    short = round(fraction * len(values)) - len(holdout)
    assert 0 <= short < min(values.count(values[number]) for number in dev)


def test_the_order_of_the_columns_is_no_part_of_a_document():
    documents = [{"prompt": "a", "answer": "b"}, {"answer": "b", "prompt": "a"}, {"prompt": "c", "answer": "d"}]
    dev, holdout = split(documents, Holdout(fraction=0.4), "refunds")
    assert (dev, holdout) == ((0, 1), (2,))


def test_without_a_fraction_all_documents_are_dev():
    assert split(numbered(3), Holdout(fraction=0), "refunds") == ((0, 1, 2), ())


@pytest.mark.parametrize("count, fraction", [(0, 0.0), (0, 0.3), (1, 0.3), (1, 0.9), (10, 0.04), (10, 0.96)])
def test_an_empty_split_is_refused(count, fraction):
    with pytest.raises(SuiteError, match=rf"split is empty \(task refunds\).*found {count} documents"):
        split(numbered(count), Holdout(fraction=fraction), "refunds")


def test_one_document_repeated_cannot_be_split():
    with pytest.raises(SuiteError, match="found 10 documents, 1 of them distinct"):
        split([{"number": 1}] * 10, Holdout(fraction=0.5), "refunds")


def test_scores_travel_between_processes():
    scores = {"refunds": TaskScores("refunds", "acc", (0, 2), (1.0, 0.0), 0.5, True)}
    assert pickle.loads(pickle.dumps(scores)) == scores
    assert summary(scores) == {"refunds": 0.5}
