import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitness.errors import ScoringError
from fitness.ranking import Standing, objective, ranks
from fitness.suite import SuiteConfig

FAILED = Standing(objective=None)

SUITE = SuiteConfig(
    tasks=[{"name": "acc", "metric": "acc", "weight": 3}, {"name": "ppl", "metric": "word_perplexity", "weight": 1}]
)
DIRECTIONS = {"acc": True, "ppl": False}


def test_objective_of_a_hand_worked_case():
    # 3/4 x 0.8 + 1/4 x 1/(1 + 4)
    assert objective({"acc": 0.8, "ppl": 4.0}, SUITE, DIRECTIONS) == pytest.approx(0.65)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_lower_perplexity_never_lowers_the_objective(first, second):
    low, high = sorted((first, second))
    better, worse = (objective({"acc": 0.5, "ppl": value}, SUITE, DIRECTIONS) for value in (low, high))
    assert 0 <= worse <= better <= 1


def test_a_negative_score_where_lower_is_better_cannot_be_ranked():
    with pytest.raises(ScoringError, match=r"task ppl.*expected 0 or more, found -0.5"):
        objective({"acc": 0.5, "ppl": -0.5}, SUITE, DIRECTIONS)


def test_feasible_then_nearest_then_failed():
    standings = [
        FAILED,
        Standing(objective=0.99, violation=0.2),
        Standing(objective=0.5),
        Standing(objective=0.1, violation=0.1),
        Standing(objective=0.7),
        Standing(objective=0.5),
        FAILED,
    ]
    assert ranks(standings) == [5, 4, 1, 3, 0, 1, 5]


standing = st.one_of(
    st.just(FAILED), st.builds(Standing, st.sampled_from([0.1, 0.5, 0.9]), st.sampled_from([0.0, 0.1, 0.3]))
)


@given(st.lists(standing, max_size=12), st.randoms())
def test_ranks_do_not_depend_on_the_order(standings, random):
    order = list(range(len(standings)))
    random.shuffle(order)
    expected = ranks(standings)
    assert ranks([standings[index] for index in order]) == [expected[index] for index in order]
    assert min(expected, default=0) == 0
