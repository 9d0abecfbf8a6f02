"""CMA-ES by pycma, made replayable: own draws, ranks only, restarts on real stagnation."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evomerge.optimize.config import CmaEsConfig
from evomerge.optimize.optimizer import Told, Vector

with warnings.catch_warnings():  # pycma warns where matplotlib is absent; nothing here plots
    warnings.simplefilter("ignore")
    import cma

_RESOLUTION = 1e-3  # of a dimension's range: below it two merges differ by less than bfloat16 can tell
_DIAGONAL_ABOVE = 100  # dimensions: a full covariance would take more evaluations to learn than a search has
_CHOICE_STD = 0.2  # in options, the least deviation of a choice: 2.5 of them span half an option
_SLACK = 1.01  # a deviation held at its floor hovers about it


class CmaEs:
    """CMA-ES with active covariance update and IPOP restarts (an `Optimizer`).

    Bounds are pycma's smooth BoundTransform, not resampling or clipping: with dozens of dimensions hardly a draw lies
    inside all of them, and clipping shrinks the step size at optima on a bound, where weights and densities often are.
    The transform has no exact inverse, so a replayed `tell` draws its generation again, which gives pycma the very
    genotypes it drew before.

    A choice of n options is a coordinate in options, from the middle of the first to the middle of the last, whose
    deviation keeps a floor: no option is ever out of reach. pycma's own integer handling is left off because it draws
    from numpy's global generator.

    Source: Hansen, arXiv 1604.00772; restarts: Auger and Hansen, CEC 2005; floor: Marty et al., PPSN 2024.
    """

    asynchronous = False

    def __init__(self, config: CmaEsConfig, initial: Vector, choices: Sequence[int], seed: int) -> None:
        self.dimension = initial.size
        self._config = config
        self._seed = seed
        self._choices = np.array(choices)
        if self.dimension == 1:  # pycma does not support one dimension: add a second that nobody sees
            self._choices = np.append(self._choices, 0)
        is_choice = self._choices > 0
        self._scale = np.maximum(self._choices, 1).astype(np.float64)
        self._low = np.where(is_choice, 0.5, 0.0)
        self._high = self._scale - self._low
        self._least = np.where(is_choice, _CHOICE_STD, 0.0)
        # Choices alone are soon at their floor and still improve: there, patience alone decides.
        self._converged = np.where(is_choice, _CHOICE_STD * _SLACK, _RESOLUTION) if not is_choice.all() else -1.0
        self._generation = self._restarts = 0
        self._asked: list[Vector] | None = None
        self._start(initial, config.population or 4 + int(3 * math.log(self.dimension)))

    def ask(self) -> Vector:
        """See `Optimizer.ask`."""
        if self._asked is not None:
            raise RuntimeError("ask: the generation asked last was not told yet")
        return self._sample()

    def tell(self, told: Sequence[Told]) -> None:
        """See `Optimizer.tell`."""
        asked = self._sample() if self._asked is None else self._vectors()
        if len(told) != len(asked) or not all(np.array_equal(one.x, x) for one, x in zip(told, asked, strict=True)):
            raise ValueError(f"tell: expected the generation of {len(asked)} vectors that was asked, in its order")
        # Ties are told in asked order, as distinct values: to pycma a plateau would be a reason to stop.
        order = np.argsort([one.rank for one in told], kind="stable")
        places = np.empty(len(told))
        places[order] = np.arange(len(told))
        self._strategy.tell(self._asked, places.tolist())
        self._asked = None
        self._generation += 1
        self._watch(told)

    def expect(self, x: Vector) -> None:
        """See `Optimizer.expect`."""

    @property
    def state(self) -> Mapping[str, float]:
        """Step size as a share of the range, generations told, restarts made, candidates in a generation."""
        return {
            "sigma": float(self._strategy.sigma),
            "generation": self._generation,
            "restarts": self._restarts,
            "population": self._population,
        }

    def _start(self, x: Vector, population: int) -> None:
        self._population = population
        self._best, self._since_best = (-math.inf, -math.inf), 0
        options: dict[str, Any] = {
            "bounds": [self._low.tolist(), self._high.tolist()],
            "minstd": self._least.tolist(),
            "CMA_stds": self._scale.tolist(),
            "CMA_diagonal": self.dimension > _DIAGONAL_ABOVE,
            "CMA_mirrors": 0,
            "popsize": population,
            "seed": math.nan,
            "randn": lambda *shape: self._draws.standard_normal(shape),
            "verbose": -10,
            # What is told are places within a generation: no criterion on function values means anything.
            "tolfun": 0,
            "tolfunhist": 0,
            "tolstagnation": 0,
            "tolx": 0,
            "maxiter": math.inf,
        }
        self._strategy = cma.CMAEvolutionStrategy(self._coordinates(x), self._config.sigma, options)

    def _sample(self) -> Vector:
        self._draws = np.random.default_rng((self._seed, self._generation))
        self._asked = [np.array(y) for y in self._strategy.ask()]
        return self._vectors()

    def _vectors(self) -> Vector:
        vectors: Vector = (np.array(self._asked) / self._scale)[:, : self.dimension]
        return vectors

    def _coordinates(self, x: Vector) -> Vector:
        padded = np.append(x, 0.5)[: self._scale.size]
        coordinates: Vector = np.clip(padded * self._scale, self._low, self._high)
        return coordinates

    def _watch(self, told: Sequence[Told]) -> None:
        best = max(map(_merit, told))
        self._since_best = 0 if best > self._best else self._since_best + 1
        self._best = max(best, self._best)
        collapsed = bool(np.all(self._strategy.stds <= self._converged))
        patience = 10 + math.ceil(30 * self.dimension / self._population)
        if self._restarts < self._config.restarts and (
            collapsed or self._since_best >= patience or self._strategy.stop()
        ):
            self._restarts += 1
            draws = np.random.default_rng((self._seed, self._generation, 1))
            self._start(draws.random(self.dimension), 2 * self._population)


def _merit(told: Told) -> tuple[float, float]:
    """Orders candidates across generations: infeasible by how far they miss, then feasible by objective."""
    if told.objective is None:
        return -math.inf, -math.inf
    missed = sum(max(violation, 0.0) for violation in told.violations)
    return (-missed, -math.inf) if missed else (0.0, told.objective)
