import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitness.errors import ScoringError
from fitness.ranking import Standing, ranks, utility

FAILED = Standing(objective=None)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_a_lower_perplexity_never_has_less_utility(first, second):
    low, high = sorted((first, second))
    assert 0 < utility("prose", high, False) <= utility("prose", low, False) <= 1
    assert utility("prose", 4.0, False) == 0.2
    assert utility("qa", 0.8, True) == 0.8


def test_a_negative_score_where_lower_is_better_cannot_be_ranked():
    with pytest.raises(ScoringError, match=r"task prose.*expected 0 or more, found -0.5"):
        utility("prose", -0.5, False)
    assert utility("gain", -0.5, True) == -0.5


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
