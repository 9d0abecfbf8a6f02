import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitness.errors import SuiteError
from fitness.gates import judge
from fitness.items import Scores, TaskScores, race_order, split
from fitness.racing import Course, Race, joined, likelihood
from fitness.ranking import Standing, ranks
from fitness.suite import Holdout, SuiteConfig
from fitness.validation import validated


def scores(name: str, values: dict[int, float], metric: str = "acc", score: float | None = None) -> TaskScores:
    mean = sum(values.values()) / len(values)
    return TaskScores(name, metric, tuple(values), tuple(values.values()), mean if score is None else score, True)


def suite(*tasks: dict, **racing: object) -> SuiteConfig:
    data = {"tasks": [{"name": "a", "metric": "acc"} | task for task in tasks or ({},)], "racing": racing}
    return validated(SuiteConfig, data, "suite", SuiteError)


def race(
    sizes: dict[str, int], config: SuiteConfig, raceable: dict[str, bool] | None = None, **full: TaskScores
) -> Race:
    orders = {task: tuple(random.Random(task).sample(range(size), size)) for task, size in sizes.items()}
    whole = {task: scores(task, {item: item % 2 for item in range(size)}) for task, size in sizes.items()}
    means = {task: each.metric == "acc" for task, each in (whole | full).items()}
    return Race(config, Course(orders, dict.fromkeys(sizes, True) | (raceable or {}), means), whole | full)


def test_rungs_are_nested_and_have_the_same_share_of_every_task():
    contest = race({"a": 40, "b": 200, "few": 4}, suite(rungs=[0.1, 0.33, 1.0]))
    rungs, answered = contest.rungs, contest.answered
    assert [rung.seen for rung in rungs] == [
        {"a": 4, "b": 20, "few": 1},
        {"a": 13, "b": 66, "few": 1},
        {"a": 40, "b": 200, "few": 4},
    ]
    assert {task: len(ids) for task, ids in answered.items()} == {"a": 1, "b": 5, "few": 1}
    assert all(set(ids) <= set(rungs[0].items[task]) for task, ids in answered.items())
    # what a rung scores is new, and all of it is scored in the end
    assert [{task: len(ids) for task, ids in rung.items.items()} for rung in rungs] == [
        {"a": 4, "b": 20, "few": 1},
        {"a": 9, "b": 46},
        {"a": 27, "b": 134, "few": 3},
    ]
    for task, size in {"a": 40, "b": 200, "few": 4}.items():
        assert sorted(item for rung in rungs for item in rung.items.get(task, ())) == list(range(size))


def test_a_race_is_drawn_anew_from_its_key_alone():
    sizes = {"a": 40, "b": 200}
    contest = race(sizes, suite())
    again = contest.drawn(7, 3)
    assert again.rungs == contest.drawn(7, 3).rungs
    assert again.answered == contest.answered
    assert [rung.seen for rung in again.rungs] == [rung.seen for rung in contest.rungs]
    for task, size in sizes.items():
        assert sorted(item for rung in again.rungs for item in rung.items.get(task, ())) == list(range(size))
    firsts = [contest.drawn(*key).rungs[0].items["b"] for key in ((7, 3), (7, 4), (8, 3), (3, 7))]
    assert len({*firsts, contest.rungs[0].items["b"]}) == 5


@given(st.integers(1, 80), st.tuples(st.integers(0, 2**63), st.integers(0, 10**6)), st.sets(st.floats(0.01, 0.99)))
def test_whatever_is_drawn_the_rungs_together_hold_each_document_once(size, key, shares):
    contest = race({"a": size}, suite(rungs=[*sorted(shares), 1.0]))
    drawn = contest.drawn(*key)
    assert sorted(item for rung in drawn.rungs for item in rung.items["a"]) == list(range(size))
    assert [rung.seen for rung in drawn.rungs] == [rung.seen for rung in contest.rungs]


def test_every_document_is_as_likely_as_another_to_come_first():
    contest, count = race({"a": 40}, suite(rungs=[0.25, 1.0])), 2000
    first = Counter(item for number in range(count) for item in contest.drawn(0, number).rungs[0].items["a"])
    expected = count / 4
    # chi-squared of draws without replacement: scaled by (n - 1) / n / (1 - share) it has 39 degrees of freedom
    statistic = sum((first[item] - expected) ** 2 / expected for item in range(40)) * 39 / 40 / 0.75
    assert 16 < statistic < 73  # but for one in a thousand on either side


def test_tasks_over_the_same_documents_keep_the_same_order():
    course = Course({"a": (3, 1, 2, 0), "b": (3, 1, 2, 0)}, {"a": True, "b": True}, {"a": True, "b": True})
    orders = [course.shuffled(number).orders for number in range(20)]
    assert all(order["a"] == order["b"] for order in orders)
    assert len({order["a"] for order in orders}) > 10


def test_a_score_that_is_no_mean_is_made_from_all_items_again():
    perplexity = scores("a", dict.fromkeys(range(40), -2.0), "word_perplexity", score=7.4)
    rungs = race({"a": 40}, suite(rungs=[0.1, 0.33, 1.0]), a=perplexity).rungs
    assert [len(rung.items["a"]) for rung in rungs] == [4, 13, 40]
    assert set(rungs[0].items["a"]) < set(rungs[1].items["a"])


def test_what_cannot_be_raced_is_scored_at_once_and_told_once():
    bleu = race({"a": 40, "b": 4}, suite({}, {"name": "b"}), {"a": False})
    assert [{task: len(ids) for task, ids in rung.items.items()} for rung in bleu.rungs] == [
        {"a": 40, "b": 1},
        {"b": 1},  # a quarter of four is still one: a rung without new documents is none
        {"b": 2},
    ]
    assert [bleu.partial(rung) for rung in range(3)] == [{"b"}, {"b"}, set()]
    assert bleu.notes == [
        "task a: acc has no value for each document, so it is scored in full and never raced",
        "task b: a rung of 0.1 of its 4 documents takes one",
    ]


def test_the_order_of_a_race_depends_on_content_and_seed_alone():
    documents = [{"text": f"number {number}"} for number in range(50)]
    order = race_order(documents, range(50), 0)
    turned = race_order(documents[::-1], range(50), 0)
    assert [49 - item for item in turned] == list(order)
    assert sorted(order) == list(range(50))
    assert race_order(documents, range(50), 1) != order
    # the first of a race are not those that lie next to the holdout
    dev, _ = split(documents, Holdout(fraction=0.5), "a")
    assert race_order(documents, dev, 0) == tuple(item for item in order if item in dev)


def test_scores_of_two_rungs_are_joined():
    before = {"a": scores("a", {2: 1.0, 7: 0.0}), "b": scores("b", {0: -3.0}, "word_perplexity", 9.0)}
    after = {"a": scores("a", {0: 1.0, 5: 1.0}), "b": scores("b", {0: -3.0, 1: -1.0}, "word_perplexity", 5.0)}
    whole = joined(before, after)
    assert (whole["a"].doc_ids, whole["a"].values, whole["a"].score) == ((0, 2, 5, 7), (1.0, 1.0, 1.0, 0.0), 0.75)
    assert whole["b"] == after["b"]
    assert joined(before, {"a": after["a"]})["b"] == before["b"]
    # an interrupted session may have scored them already
    assert joined(whole, after) == whole


def test_the_best_share_goes_on():
    four = race({"a": 10}, suite(keep=0.34))
    feasible = [Standing(0.5), Standing(0.9), Standing(0.7)]
    assert four.survivors([*feasible, Standing(0.99, violation=0.1)]) == [False, True, True, False]
    # what a gate has stopped takes no place and leaves none
    assert four.survivors([None, Standing(0.5), None, None]) == [False, True, False, False]
    assert four.survivors([None, None]) == [False, False]
    # where the metric cannot tell, the reference answers do, and then the order of asking
    zeros = [Standing(0.0, likelihood=-2.0), Standing(0.0, likelihood=-1.0), Standing(0.0, likelihood=-2.0)]
    assert four.survivors(zeros) == [True, True, False]


def test_who_climbed_higher_ranks_first():
    standings = [
        Standing(None),
        Standing(0.9, rung=1),
        Standing(0.2, violation=0.5),
        Standing(None, rung=0, likelihood=-5.0),
        Standing(0.3, violation=0.3, rung=2),
        Standing(0.4),
        Standing(None, rung=0, likelihood=-4.0),
        Standing(0.8, rung=1),
    ]
    assert ranks(standings) == [7, 3, 1, 6, 2, 0, 5, 4]


def test_gates_stop_at_most_alpha_of_those_that_would_pass():
    gate = {"gate": {"at_least": 0.8}}
    config = suite(gate, {"name": "b", "gate": {"at_least": 0.6}}, rungs=[0.05, 0.1, 0.33, 1.0], alpha=0.1)
    sizes, right = {"a": 200, "b": 100}, {"a": 160, "b": 60}  # they meet both bounds exactly, which is the hardest case
    contest, generator = race(sizes, config), random.Random(0)
    wronged, count = 0, 2000
    for _ in range(count):
        drawn: Scores = {}
        for task, size in sizes.items():
            values = [1.0] * right[task] + [0.0] * (size - right[task])
            generator.shuffle(values)
            drawn[task] = scores(task, dict(enumerate(values)))
        gates = judge(drawn, config, {})
        wronged += any(contest.doomed(drawn, gates, rung) for rung in range(3))
    assert 0 < wronged <= 0.1 * count


def test_gates_stop_a_candidate_wrongly_in_at_most_alpha_of_the_races_that_are_drawn():
    config = suite({"gate": {"at_least": 0.8}}, rungs=[0.05, 0.1, 0.33, 1.0], alpha=0.1)
    contest, count = race({"a": 200}, config), 2000
    exact = {"a": scores("a", {item: float(item % 5 > 0) for item in range(200)})}  # as even as orders never are
    gates = judge(exact, config, {})
    wronged = 0
    for number in range(count):
        drawn = contest.drawn(0, number)
        wronged += any(drawn.doomed(exact, gates, rung) for rung in range(3))
    assert 0 < wronged <= 0.1 * count


def test_a_gate_that_is_certain_to_be_missed_stops_on_the_first_rung():
    config = suite({"gate": {"at_least": 0.9}}, {"name": "b"})
    contest = race({"a": 400, "b": 400}, config)
    order = {item: place for place, item in enumerate(contest.rungs[0].items["a"])}
    for share, stopped in ((0.3, "certain to miss the gate of a"), (0.9, None)):
        values = {item: float(place < share * len(order)) for item, place in order.items()}
        drawn = {"a": scores("a", values), "b": scores("b", dict.fromkeys(order, 0.0))}
        assert contest.doomed(drawn, judge(drawn, config, {}), 0) == stopped


def test_a_metric_without_a_known_range_allows_no_certainty():
    config = suite({"gate": {"at_least": 0.9}, "metric": "points"})
    contest = race({"a": 400}, config, a=scores("a", dict.fromkeys(range(400), 1.0), "points"))
    drawn = {"a": scores("a", dict.fromkeys(contest.rungs[0].items["a"], 0.0), "points")}
    assert not contest.gated
    assert contest.doomed(drawn, judge(drawn, config, {}), 0) is None


def test_a_range_that_the_suite_states_allows_certainty():
    config = suite({"gate": {"at_least": 9.0}, "metric": "acc", "range": [0, 10]})
    contest = race({"a": 400}, config, a=scores("a", dict.fromkeys(range(400), 10.0)))
    for value, told in ((9.5, None), (2.0, "certain to miss the gate of a")):
        drawn = {"a": scores("a", dict.fromkeys(contest.rungs[0].items["a"], value))}
        assert contest.doomed(drawn, judge(drawn, config, {}), 0) == told


def test_what_lacks_a_value_for_some_documents_is_never_certain_to_miss():
    config = suite({"gate": {"at_least": 0.9}})
    contest = race({"a": 400}, config, a=scores("a", dict.fromkeys(range(399), 1.0)))
    assert not contest.gated


def test_a_candidate_without_a_value_for_a_document_is_not_certain_to_miss():
    config = suite({"gate": {"at_least": 0.9}})
    contest = race({"a": 400}, config, a=scores("a", dict.fromkeys(range(400), 1.0)))
    values = dict.fromkeys(contest.rungs[0].items["a"], 0.0)
    for left_out, told in ((0, "certain to miss the gate of a"), (1, None)):
        drawn = {"a": scores("a", dict([*values.items()][left_out:]))}
        assert contest.doomed(drawn, judge(drawn, config, {}), 0) == told


def test_the_likelihood_of_answers_is_weighted_as_the_objective_is():
    config = suite({"weight": 3.0}, {"name": "b"}, {"name": "without answers"})
    answers = {"a": scores("a", {0: -1.0}, "likelihood"), "b": scores("b", {0: -2.0}, "likelihood")}
    assert math.isclose(likelihood(answers, config), -1.25)
    assert likelihood({}, config) is None


@pytest.mark.parametrize(
    "racing, message",
    [
        ({"rungs": [0.5, 0.2, 1.0]}, "(racing.rungs): expected increasing shares of the items, the last of them 1.0"),
        ({"rungs": [0.1, 0.1, 1.0]}, "found [0.1, 0.1, 1.0]"),
        ({"rungs": [0.1, 0.5]}, "found [0.1, 0.5]"),
        ({"rungs": []}, "at least 1 item"),
        ({"rungs": [0.0, 1.0]}, "racing.rungs.0): expected greater than 0, found 0.0"),
        ({"alpha": 0}, "racing.alpha): expected greater than 0, found 0"),
        ({"alpha": 0.51}, "racing.alpha): expected less than or equal to 0.5, found 0.51"),
        ({"keep": 0}, "racing.keep): expected greater than 0, found 0"),
        ({"keep": 1.5}, "racing.keep): expected less than or equal to 1, found 1.5"),
        ({"rung": [1.0]}, "unknown key (suite: racing.rung); did you mean 'rungs'?"),
    ],
)
def test_mistakes_are_told_in_one_line(racing, message):
    with pytest.raises(SuiteError) as error:
        suite(**racing)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_none_switches_it_off():
    data = {"tasks": [{"name": "a", "metric": "acc"}]}
    off = [SuiteConfig(**data), SuiteConfig(**data, racing="none"), SuiteConfig(**data, racing=None)]
    assert [config.racing for config in off] == [None] * 3
    raced = SuiteConfig(**data, racing={})
    assert SuiteConfig(**raced.model_dump(mode="json")) == raced
