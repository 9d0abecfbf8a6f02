"""What every optimizer owes the search. A new optimizer joins by subclassing one of the two contracts."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from evomerge.optimize import CmaEsConfig, Optimizer, OptimizerConfig, RandomConfig, Told, TpeConfig, make_optimizer

Judge = Callable[[np.ndarray], tuple[float | None, tuple[float, ...]]]


def bowl(x):
    return -float(np.sum((x - 0.3) ** 2)), ()


def gated(x):
    """Fails in a corner, misses a gate in half of the space, by far without an objective; else it is a staircase."""
    if x.sum() > 0.75 * x.size:
        return None, ()
    return None if x[0] < 0.2 else round(bowl(x)[0], 1), (0.4 - x[0], x[-1] - 0.9)


def told(vectors: Sequence[np.ndarray], judge: Judge) -> list[Told]:
    """Ranks as the search gives them: feasible by objective, infeasible by how far they miss, failed last."""
    outcomes = [judge(x) for x in vectors]
    keys = [
        (2, 0.0) if objective is None else (1, missed) if (missed := sum(max(v, 0) for v in gates)) else (0, -objective)
        for objective, gates in outcomes
    ]
    order = sorted(set(keys))
    return [
        Told(x, float(order.index(key)), objective, gates)
        for x, key, (objective, gates) in zip(vectors, keys, outcomes, strict=True)
    ]


def run(optimizer: Optimizer, judge: Judge, asks: int) -> list[list[Told]]:
    history = []
    for _ in range(asks):
        history.append(told(optimizer.ask(), judge))
        optimizer.tell(history[-1])
    return history


class OptimizerContract:
    config: OptimizerConfig
    asks = 25  # enough to leave the start-up of any optimizer behind

    def make(self, choices=(0, 0, 0, 0), seed=7, initial=0.5) -> Optimizer:
        return make_optimizer(self.config, initial=np.full(len(choices), initial), choices=choices, seed=seed)

    def test_asks_vectors_in_the_unit_cube(self):
        optimizer = self.make()
        for one in run(optimizer, bowl, self.asks):
            vectors = np.array([t.x for t in one])
            assert vectors.shape == (1 if optimizer.asynchronous else len(one), optimizer.dimension)
            assert vectors.dtype == np.float64
            assert np.all((vectors >= 0) & (vectors <= 1))

    def test_same_seed_same_asks(self):
        first, second = (run(self.make(), gated, self.asks) for _ in range(2))
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal([t.x for t in a], [t.x for t in b])

    def test_other_seed_other_asks(self):
        first, second = (run(self.make(seed=seed), bowl, 3)[-1] for seed in (1, 2))
        assert not np.array_equal([t.x for t in first], [t.x for t in second])

    @pytest.mark.parametrize("choices", [(0, 0, 0, 0), (0, 3, 0, 2)])
    def test_a_replay_asks_the_same_next_bit_for_bit(self, choices):
        original = self.make(choices)
        history = run(original, gated, self.asks)
        np.random.seed(99)  # what an evaluator in the same process does
        replayed = self.make(choices)
        for one in history:
            np.random.random(3)
            replayed.tell(one)
        assert dict(replayed.state) == dict(original.state)
        for _ in range(3):
            expected = original.ask()
            np.testing.assert_array_equal(replayed.ask(), expected)
            original.tell(told(expected, gated))
            replayed.tell(told(expected, gated))

    def test_leaves_the_global_generators_alone(self):
        before = np.random.get_state()[1].copy(), random.getstate()
        run(self.make((0, 3, 0)), gated, self.asks)
        np.testing.assert_array_equal(np.random.get_state()[1], before[0])
        assert random.getstate() == before[1]

    def test_only_the_order_of_candidates_counts(self):
        def squeezed(x):
            objective, gates = gated(x)
            return (None if objective is None else math.exp(9 * objective)), tuple(8 * gate for gate in gates)

        plain, other = run(self.make(), gated, self.asks), run(self.make(), squeezed, self.asks)
        np.testing.assert_array_equal([t.x for t in plain[-1]], [t.x for t in other[-1]])

    @pytest.mark.parametrize("judge", [lambda x: (None, ()), lambda x: (0.5, (0.0,))], ids=["all fail", "all tie"])
    def test_goes_on_where_nothing_tells_candidates_apart(self, judge):
        vectors = np.array([t.x for one in run(self.make(), judge, self.asks) for t in one])
        assert len(np.unique(vectors, axis=0)) == len(vectors)

    def test_one_dimension_is_enough(self):
        best = max(t.objective for one in run(self.make((0,)), bowl, self.asks) for t in one)
        assert best > -(0.1**2)

    def test_every_option_of_a_choice_is_tried(self):
        history = run(self.make((3, 3)), lambda x: (1.0, ()), self.asks)
        cells = {tuple(np.minimum(t.x * 3, 2).astype(int)) for one in history for t in one}
        assert {first for first, _ in cells} == {second for _, second in cells} == {0, 1, 2}

    def test_state_is_numbers(self):
        optimizer = self.make()
        run(optimizer, bowl, 2)
        assert optimizer.state
        assert all(isinstance(value, int | float) for value in optimizer.state.values())

    @pytest.mark.parametrize("initial", [np.zeros((2, 2)), np.array([]), np.array([0.5, 1.5]), np.array([math.nan, 0])])
    def test_refuses_an_initial_that_is_no_vector(self, initial):
        with pytest.raises(ValueError, match="initial"):
            make_optimizer(self.config, initial=initial, choices=[0] * len(initial), seed=0)

    @pytest.mark.parametrize("choices", [[0], [0, 0, 0], [0, -1]])
    def test_refuses_choices_that_do_not_fit(self, choices):
        with pytest.raises(ValueError, match="choices"):
            make_optimizer(self.config, initial=np.array([0.5, 0.5]), choices=choices, seed=0)


class GenerationContract(OptimizerContract):
    """An optimizer that asks whole generations."""

    def test_asks_no_second_generation_before_the_first_is_told(self):
        optimizer = self.make()
        optimizer.ask()
        with pytest.raises(RuntimeError, match="not told"):
            optimizer.ask()

    @pytest.mark.parametrize(
        "spoil",
        [lambda told: told[:-1], lambda told: told[::-1], lambda told: [replace(one, x=one.x / 2) for one in told]],
        ids=["a part", "another order", "other vectors"],
    )
    def test_refuses_what_is_not_the_generation(self, spoil):
        optimizer = self.make()
        with pytest.raises(ValueError, match="generation"):
            optimizer.tell(spoil(told(optimizer.ask(), bowl)))

    def test_a_generation_lost_half_way_is_asked_again(self):
        original, resumed = self.make(), self.make()
        history = run(original, gated, 4)
        lost = original.ask()
        for one in history:
            resumed.tell(one)
        for x in lost[:2]:
            resumed.expect(x)
        np.testing.assert_array_equal(resumed.ask(), lost)


class AsynchronousContract(OptimizerContract):
    """An optimizer that asks one vector at a time."""

    asks = 40

    def test_told_in_any_order(self):
        """Ten vectors under way at a time, told last first; a resume, in asked order, asks the same."""
        original, resumed = self.make((0, 0, 3)), self.make((0, 0, 3))
        asked = []
        for _ in range(4):
            batch = [original.ask()[0] for _ in range(10)]
            for x in batch[::-1]:
                original.tell(told([x], gated))
            asked += batch
        under_way = [original.ask()[0] for _ in range(3)]
        original.tell(told(under_way[1:2], gated))
        for x in asked:
            resumed.tell(told([x], gated))
        resumed.expect(under_way[0])
        resumed.tell(told(under_way[1:2], gated))
        resumed.expect(under_way[2])
        np.testing.assert_array_equal(resumed.ask(), original.ask())
        resumed.tell(told(under_way[:1], gated))
        original.tell(told(under_way[:1], gated))
        np.testing.assert_array_equal(resumed.ask(), original.ask())

    def test_vectors_under_way_are_not_asked_again(self):
        optimizer = self.make()
        vectors = np.array([optimizer.ask()[0] for _ in range(self.asks)])
        assert len(np.unique(vectors, axis=0)) == self.asks


class TestCmaEs(GenerationContract):
    config = CmaEsConfig()


class TestCmaEsThatRestarts(GenerationContract):
    config = CmaEsConfig(population=4, sigma=0.02)
    asks = 90

    def test_it_does_restart(self):
        optimizer = self.make()
        run(optimizer, bowl, self.asks)
        assert optimizer.state["restarts"] >= 1


class TestTpe(AsynchronousContract):
    config = TpeConfig()


class TestRandom(AsynchronousContract):
    config = RandomConfig()
