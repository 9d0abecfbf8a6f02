"""The ask/tell contract that every optimizer keeps, and the way to make one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from evomerge.optimize.config import CmaEsConfig, OptimizerConfig, TpeConfig

Vector: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Told:
    """What became of one vector.

    Attributes:
        x: (d,) float64 in [0,1], as it was asked.
        rank: 0 is the best of its batch; ties share a rank; a failed one has the worst.
        objective: higher is better; None when the candidate failed, or was stopped before it could be compared with
            those of other batches.
        violations: one for each gate, <= 0 where it is cleared; () when the candidate failed, or was stopped before
            any gate was judged.
    """

    x: Vector
    rank: float
    objective: float | None
    violations: tuple[float, ...]


class Optimizer(Protocol):
    """Proposes vectors. Its state is a fold over what it was told: an optimizer of the same config and seed that is
    told the same, in the same order, asks the same next, bit for bit.

    A generation-based optimizer is rebuilt by telling it the recorded generations; an asynchronous one by `tell` for
    each finished vector and `expect` for each one still under way, in the order in which they were asked.
    """

    @property
    def dimension(self) -> int:
        """The length d of a vector."""

    @property
    def asynchronous(self) -> bool:
        """False: `ask` gives a generation, which must be told as a whole before the next `ask`."""

    def ask(self) -> Vector:
        """Propose vectors.

        Returns:
            (batch, d) float64 in [0,1]: the whole generation, or one vector when asynchronous.

        Raises:
            RuntimeError: generation-based, and the last generation was not told yet.
        """

    def tell(self, told: Sequence[Told]) -> None:
        """Take in what became of vectors.

        Args:
            told: the generation asked last, in asked order; or, asynchronous, any of the vectors under way. Without
                an `ask` before, it is a record of a former process.

        Raises:
            ValueError: generation-based, and these are not the vectors of the generation, bit for bit and in its order.
        """

    def expect(self, x: Vector) -> None:
        """Take in a vector, (d,) float64, that a former process asked and that is still under way. A generation-based
        optimizer needs no such word: it asks the whole generation again."""

    @property
    def state(self) -> Mapping[str, float]:
        """Numbers for progress and for the record."""


def make_optimizer(config: OptimizerConfig, *, initial: Vector, choices: Sequence[int], seed: int) -> Optimizer:
    """Make the optimizer that a config asks for.

    Args:
        config: its kind and settings.
        initial: (d,) float64 in [0,1], where the search begins; d >= 1.
        choices: (d,) how many options a dimension has, the i-th of n being the interval [i/n, (i+1)/n); 0 for a
            dimension that is continuous.
        seed: >= 0; draws of ask number g come from a generator seeded by (seed, g).

    Raises:
        ValueError: `initial` is not a vector in [0,1]^d, or `choices` does not fit it.
    """
    initial = np.array(initial, dtype=np.float64)
    if initial.ndim != 1 or not initial.size or not np.all((initial >= 0) & (initial <= 1)):
        raise ValueError(f"initial: expected (d,) numbers in [0,1] with d >= 1, found {initial!r}")
    if len(choices) != initial.size or any(count < 0 for count in choices):
        raise ValueError(f"choices: expected {initial.size} counts >= 0, found {list(choices)!r}")
    if isinstance(config, CmaEsConfig):
        from evomerge.optimize.cma_es import CmaEs

        return CmaEs(config, initial, choices, seed)
    if isinstance(config, TpeConfig):
        from evomerge.optimize.tpe import Tpe

        return Tpe(config, initial, choices, seed)
    from evomerge.optimize.random import Random

    return Random(initial.size, seed)
