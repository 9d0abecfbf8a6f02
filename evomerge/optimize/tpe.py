"""The tree-structured Parzen estimator of Optuna, on a study of its own in memory."""

from collections.abc import Mapping, Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from evomerge.optimize.config import TpeConfig
from evomerge.optimize.optimizer import Told, Vector

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Tpe:
    """Multivariate TPE with constraints and a constant liar for what is under way (an `Optimizer`).

    Source: Bergstra et al., NeurIPS 2011; constraints as in c-TPE, Watanabe and Hutter, IJCAI 2023.
    """

    asynchronous = True

    def __init__(self, config: TpeConfig, initial: Vector, choices: Sequence[int], seed: int) -> None:
        self.dimension = initial.size
        self._config = config
        self._initial = initial
        self._choices = tuple(choices)
        self._seed = seed
        self._space: dict[str, BaseDistribution] = {
            str(i): CategoricalDistribution(range(count)) if count else FloatDistribution(0, 1)
            for i, count in enumerate(choices)
        }
        self._study = optuna.create_study(direction="maximize")
        self._asked = 0
        self._pending: dict[bytes, list[optuna.Trial]] = {}

    def ask(self) -> Vector:
        """See `Optimizer.ask`."""
        if self._asked == 0:
            self._study.enqueue_trial(self._parameters(self._initial))
        # A sampler keeps a generator that no replay can wind forward: each ask gets a fresh one.
        (seed,) = np.random.SeedSequence((self._seed, self._asked)).generate_state(1)
        self._study.sampler = optuna.samplers.TPESampler(n_startup_trials=self._config.startup, seed=int(seed))
        trial = self._study.ask(self._space)
        x = self._vector(trial.params)
        self._note(x, trial)
        return x[None]

    def tell(self, told: Sequence[Told]) -> None:
        """See `Optimizer.tell`."""
        for one in told:
            if not self._pending.get(one.x.tobytes()):
                self.expect(one.x)
            trial = self._pending[one.x.tobytes()].pop(0)
            # A FAIL is unknown to TPE; an infinite violation says how bad it was. Where a gate is missed, how far says
            # more: TPE orders what misses one by that alone.
            if one.objective is None and not any(violation > 0 for violation in one.violations):
                trial.set_constraint("failed", np.inf)
            for gate, violation in enumerate(one.violations):
                trial.set_constraint(f"gate_{gate}", violation)
            self._study.tell(trial, 0.0 if one.objective is None else one.objective)

    def expect(self, x: Vector) -> None:
        """See `Optimizer.expect`."""
        self._study.enqueue_trial(self._parameters(x))
        self._note(x, self._study.ask(self._space))

    @property
    def state(self) -> Mapping[str, float]:
        """How many vectors were asked."""
        return {"asked": self._asked}

    def _note(self, x: Vector, trial: optuna.Trial) -> None:
        self._asked += 1
        self._pending.setdefault(x.tobytes(), []).append(trial)

    def _parameters(self, x: Vector) -> dict[str, float | int]:
        return {
            str(i): min(int(value * count), count - 1) if count else float(value)
            for i, (value, count) in enumerate(zip(x, self._choices, strict=True))
        }

    def _vector(self, parameters: Mapping[str, float]) -> Vector:
        return np.array(
            [
                (parameters[str(i)] + 0.5) / count if count else parameters[str(i)]
                for i, count in enumerate(self._choices)
            ]
        )
