"""Uniform random search."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from evomerge.optimize.optimizer import Told, Vector


class Random:
    """Draws every vector uniformly from [0,1]^d (an `Optimizer`)."""

    asynchronous = True

    def __init__(self, dimension: int, seed: int) -> None:
        self.dimension = dimension
        self._seed = seed
        self._asked = 0
        self._pending: Counter[bytes] = Counter()

    def ask(self) -> Vector:
        """See `Optimizer.ask`."""
        x = np.random.default_rng((self._seed, self._asked)).random(self.dimension)
        self.expect(x)
        return x[None]

    def tell(self, told: Sequence[Told]) -> None:
        """See `Optimizer.tell`."""
        for one in told:
            if not self._pending[one.x.tobytes()]:
                self.expect(one.x)
            self._pending[one.x.tobytes()] -= 1

    def expect(self, x: Vector) -> None:
        """See `Optimizer.expect`."""
        self._asked += 1
        self._pending[x.tobytes()] += 1

    @property
    def state(self) -> Mapping[str, float]:
        """How many vectors were asked."""
        return {"asked": self._asked}
