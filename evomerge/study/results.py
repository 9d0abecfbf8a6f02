"""What became of a candidate, of a baseline, of a finalist. Plain values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from fitness.ranking import violation

State = Literal["running", "complete", "failed"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Scores and what they are worth.

    Attributes:
        scores: task -> score, in the task's own unit.
        violations: task -> how far its gate is missed; zero or less clears it.
        objective: what the search maximizes, None when it failed.
        timings: phase -> seconds.
        reason: why it failed, None when it did not.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    violations: Mapping[str, float] = field(default_factory=dict)
    objective: float | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None

    @property
    def gates(self) -> dict[str, bool]:
        """task -> whether its gate is cleared."""
        return {task: violation <= 0 for task, violation in self.violations.items()}

    @property
    def missed(self) -> tuple[str, ...]:
        """The tasks whose gate is not cleared."""
        return tuple(task for task, cleared in self.gates.items() if not cleared)

    @property
    def violation(self) -> float:
        """Total relative miss over the gates; 0 when all are cleared."""
        return violation(self.violations.values())

    @property
    def feasible(self) -> bool:
        """Whether it was scored and clears every gate."""
        return self.objective is not None and all(self.gates.values())

    @property
    def seconds(self) -> float | None:
        """Over all phases; None before any."""
        return sum(self.timings.values()) if self.timings else None

    @property
    def settled(self) -> "Result":
        """The same, as failed unless it can be ranked: a NaN would outrank everything."""
        ranked = self.objective is not None and math.isfinite(self.objective)
        if self.reason is None and ranked and not any(map(math.isnan, self.violations.values())):
            return self
        return replace(self, objective=None, reason=self.reason or "the objective is not finite")


@dataclass(frozen=True, kw_only=True)
class Candidate(Result):
    """One point of the genome.

    Attributes:
        number: place in the order of asking, from 0; the number of its Optuna trial.
        state: `running` until its result is known.
        x: (d,) in [0, 1], exactly as the optimizer asked it.
        genome: dimension -> value in its natural unit.
        recipe: the recipe as YAML.
        attempts: how often it was dispatched.
    """

    number: int
    state: State
    x: tuple[float, ...]
    genome: Mapping[str, float | str]
    recipe: str
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class Baseline(Result):
    """A recipe that the search has to beat, scored on the same documents."""

    name: str
    recipe: str


@dataclass(frozen=True, kw_only=True)
class Finalist(Result):
    """A candidate or a baseline on the holdout documents.

    Attributes:
        name: of the baseline, or the number of the candidate as text.
        number: of the candidate, None for a baseline.
    """

    name: str
    number: int | None


def result_document(result: Result) -> dict[str, Any]:
    """The part of a result that is a `Result`, as JSON."""
    return {
        "scores": dict(result.scores),
        "violations": dict(result.violations),
        "objective": result.objective,
        "timings": dict(result.timings),
        "reason": result.reason,
    }
