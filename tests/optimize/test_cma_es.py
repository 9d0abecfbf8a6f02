import numpy as np
import pytest

from evomerge.optimize import CmaEsConfig, RandomConfig, Told, make_optimizer


def sphere(x):
    return -float(np.sum((x - 0.3) ** 2))


def rosenbrock(x):
    """Valley along a parabola, optimum 0 at (0.75, ..., 0.75)."""
    z = 4 * x - 2
    return -float(np.sum(100 * (z[1:] - z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2))


def on_the_edge(x):
    """Best where the odd coordinates lie on the upper bound."""
    return -float(np.sum((x - np.where(np.arange(x.size) % 2, 1.2, 0.2)) ** 2))


def generation(optimizer, function):
    vectors = optimizer.ask()
    values = [function(x) for x in vectors]
    places = np.argsort(np.argsort([-value for value in values]))
    told = [Told(x, float(rank), value, ()) for x, rank, value in zip(vectors, places, values, strict=True)]
    optimizer.tell(told)
    return told


def best(config, function, evaluations, dimension, choices=None, seed=0):
    choices = choices or [0] * dimension
    optimizer = make_optimizer(config, initial=np.full(dimension, 0.5), choices=choices, seed=seed)
    told = []
    while len(told) < evaluations:
        told += generation(optimizer, function)
    return max(one.objective for one in told)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("function", "dimension", "evaluations", "reached"),
    [(sphere, 9, 400, -2e-3), (rosenbrock, 5, 2500, -1e-2), (on_the_edge, 9, 400, -0.18), (sphere, 120, 2000, -0.5)],
)
def test_converges_where_random_search_does_not(function, dimension, evaluations, reached, seed):
    assert best(CmaEsConfig(), function, evaluations, dimension, seed=seed) > reached
    assert best(RandomConfig(), function, evaluations, dimension, seed=seed) < reached


@pytest.mark.parametrize("seed", range(3))
def test_finds_the_option_of_every_choice(seed):
    def matches(x):
        return float(sum(int(min(value * 4, 3)) == place % 4 for place, value in enumerate(x)))

    assert best(CmaEsConfig(population=12), matches, 1200, 8, [4] * 8, seed) == 8


def test_a_choice_keeps_being_varied_after_it_has_settled():
    optimizer = make_optimizer(CmaEsConfig(restarts=0), initial=np.array([0.1, 0.5]), choices=[5, 0], seed=0)
    for _ in range(100):
        generation(optimizer, lambda x: -(x[0] * 5 // 1) - (x[1] - 0.5) ** 2)
    options = {int(x[0] * 5) for _ in range(60) for x in (told.x for told in generation(optimizer, lambda x: -x[0]))}
    assert options >= {0, 1}


@pytest.mark.parametrize(("dimension", "population"), [(1, 4), (2, 6), (9, 10), (36, 14)])
def test_default_population(dimension, population):
    """4 + floor(3 ln d), Hansen, arXiv 1604.00772, table 1."""
    optimizer = make_optimizer(CmaEsConfig(), initial=np.full(dimension, 0.5), choices=[0] * dimension, seed=0)
    assert optimizer.ask().shape == (population, dimension)


def test_begins_at_the_initial_vector_with_the_given_step():
    initial = np.array([0.2, 0.5, 0.7])
    optimizer = make_optimizer(CmaEsConfig(sigma=0.02, population=2000), initial=initial, choices=[0] * 3, seed=0)
    vectors = optimizer.ask()
    np.testing.assert_allclose(vectors.mean(axis=0), initial, atol=0.002)
    np.testing.assert_allclose(vectors.std(axis=0), 0.02, rtol=0.1)


def test_restarts_elsewhere_with_twice_the_population_once_it_has_converged():
    config = CmaEsConfig(population=8, restarts=1)
    optimizer = make_optimizer(config, initial=np.full(3, 0.5), choices=[0] * 3, seed=0)
    while not optimizer.state["restarts"]:
        last = generation(optimizer, sphere)
    assert max(one.objective for one in last) > -1e-4
    assert optimizer.state["population"] == 16
    first = generation(optimizer, sphere)
    assert len(first) == 16
    assert np.std([one.x for one in first], axis=0).min() > 0.05
    for _ in range(150):
        generation(optimizer, sphere)
    assert optimizer.state["restarts"] == 1


def test_a_plateau_alone_is_no_reason_to_stop_early():
    optimizer = make_optimizer(CmaEsConfig(population=10), initial=np.full(9, 0.5), choices=[0] * 9, seed=0)
    for _ in range(30):
        vectors = optimizer.ask()
        optimizer.tell([Told(x, 0.0, 0.65, ()) for x in vectors])
    assert optimizer.state["restarts"] == 0


def test_choices_alone_are_given_time():
    """Their deviation is at its floor from the first generation on."""
    optimizer = make_optimizer(CmaEsConfig(sigma=0.02), initial=np.full(6, 0.5), choices=[3] * 6, seed=0)
    for _ in range(25):
        vectors = optimizer.ask()
        optimizer.tell([Told(x, 0.0, 0.65, ()) for x in vectors])
    assert optimizer.state["restarts"] == 0
