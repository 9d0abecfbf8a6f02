import numpy as np

from evomerge.optimize import RandomConfig, Told, TpeConfig, make_optimizer


def search(config, judge, asks, choices, seed=0):
    optimizer = make_optimizer(config, initial=np.full(len(choices), 0.9), choices=choices, seed=seed)
    history = []
    for _ in range(asks):
        (x,) = optimizer.ask()
        history.append(Told(x, 0.0, *judge(x)))
        optimizer.tell(history[-1:])
    return history


def test_the_first_vector_is_the_initial_one():
    (first,) = search(TpeConfig(), lambda x: (0.0, ()), 1, [0, 0, 3])
    np.testing.assert_array_equal(first.x, [0.9, 0.9, 2.5 / 3])


def test_finds_a_bowl_and_an_option_better_than_random_search():
    def judge(x):
        return -float(np.sum((x[:3] - 0.3) ** 2)) - (int(x[3] * 4) != 1), ()

    tpe, random = (
        np.mean([max(one.objective for one in search(config, judge, 80, [0, 0, 0, 4], seed)) for seed in range(3)])
        for config in (TpeConfig(), RandomConfig())
    )
    assert tpe > random / 2


def test_gates_pull_the_search_into_the_feasible_part():
    """The objective alone would lead away from it."""
    history = search(TpeConfig(), lambda x: (float(x.sum()), (x[0] - 0.2, x[1] - 0.2)), 100, [0, 0])
    feasible = [max(one.violations) <= 0 for one in history]
    assert sum(feasible[50:]) > 15  # 2 at random
    assert np.mean([one.x[0] for one in history[50:]]) < 0.3


def test_what_is_stopped_at_a_gate_still_leads_to_it():
    """Hardly any vector clears it; what misses it by far has no objective."""
    aim = np.linspace(0.15, 0.85, 6)

    def judge(x):
        missed = float(np.sqrt(np.mean((x - aim) ** 2))) / 0.15 - 1
        return None if missed > 0.3 else -missed, (missed,)

    history = search(TpeConfig(), judge, 80, [0] * 6)
    assert sum(one.violations[0] <= 0 for one in history[40:]) > 10  # 0 at random


def test_failures_push_the_search_away():
    history = search(TpeConfig(), lambda x: (None, ()) if x[0] > 0.5 else (1.0, ()), 80, [0, 0])
    assert sum(one.objective is None for one in history[40:]) < 14  # 20 at random
