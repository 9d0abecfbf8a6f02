"""What became of a candidate, of a baseline, of a finalist. Plain values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from fitness.ranking import Standing, violation

Range: TypeAlias = tuple[float, float]
State = Literal["running", "complete", "failed"]

ANSWERS = "answers"  # the note of what the sources make of the reference answers
BASELINES = "baselines"  # the note of their names, in order
CACHED = "cached"  # the phase of a result whose scores were known from an earlier one


@dataclass(frozen=True, kw_only=True)
class Result:
    """Scores and what they are worth.

    Attributes:
        scores: task -> score, in the task's own unit.
        intervals: task -> (low, high) of its score, with the confidence `fitness.confidence.CONFIDENCE`; a task whose
            metric has none is left out.
        violations: task -> how far its gate is missed; zero or less clears it.
        limits: task -> what was held against its gate in place of the score, where the gate asks for confidence or the
            score is over part of the items.
        objective: what the search maximizes, None when it failed.
        objective_interval: (low, high) of the objective, None when it failed or a task has no interval.
        objective_floor: the lower end of that interval, where a task without one is taken at its value; None when it
            failed.
        timings: phase -> seconds.
        reason: why it failed, None when it did not.
        stopped: why a race stopped it before it was scored on all items; it is never feasible then. None if none did.
        rung: how many rungs of a race it was scored on; None without a race.
        likelihood: of the reference answers, in nats per token; None where it was not asked for.
        item_evaluations: how many documents were scored for it, over all tasks.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Range] = field(default_factory=dict)
    violations: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    objective: float | None = None
    objective_interval: Range | None = None
    objective_floor: float | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    stopped: str | None = None
    rung: int | None = None
    likelihood: float | None = None
    item_evaluations: int = 0

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
        """Whether it was scored on all items and clears every gate."""
        return self.objective is not None and self.stopped is None and all(self.gates.values())

    @property
    def floor(self) -> float:
        """What winners are chosen by: `objective_floor`; minus infinite without an objective."""
        return floor(self.objective, self.objective_interval, self.objective_floor)

    @property
    def seconds(self) -> float | None:
        """Over all phases; None before any."""
        return sum(self.timings.values()) if self.timings else None

    @property
    def cached(self) -> bool:
        """Whether its scores were known, so that nothing was merged or scored."""
        return CACHED in self.timings

    @property
    def settled(self) -> "Result":
        """The same, as failed unless it can be ranked: a NaN would outrank everything."""
        # a race may stop what it has not scored at all
        ranked = self.stopped is not None if self.objective is None else math.isfinite(self.objective)
        if self.reason is None and ranked and not any(map(math.isnan, self.violations.values())):
            return self
        reason = self.reason or "the objective is not finite"
        return replace(self, objective=None, objective_interval=None, objective_floor=None, reason=reason)


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
        rungs: how it stood on each rung of a race but the last, with costs summed over the rungs below.
    """

    number: int
    state: State
    x: tuple[float, ...]
    genome: Mapping[str, float | str]
    recipe: str
    attempts: int = 1
    rungs: tuple[Result, ...] = ()


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


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a candidate is ahead of a baseline over the same documents.

    Attributes:
        candidate: its number.
        rival: name of the baseline.
        split: the documents.
        objective: (difference, low, high) of the objective.
        tasks: task -> (difference, low, high) of its score, in its unit; a task whose metric has no interval is left
            out.
    """

    candidate: int
    rival: str
    split: Literal["dev", "holdout"]
    objective: tuple[float, float, float]
    tasks: Mapping[str, tuple[float, float, float]]


def floor(objective: float | None, interval: Range | None, low: float | None) -> float:
    """See `Result.floor`."""
    # a study of an older evomerge has the interval alone
    known = (low, None if interval is None else interval[0], objective)
    return next((each for each in known if each is not None), -math.inf)


def standing(result: Result) -> Standing:
    """What a result is ranked by."""
    if result.reason is not None:
        return Standing(None)
    climbed = math.inf if result.stopped is None or result.rung is None else result.rung
    return Standing(result.objective, result.violation, climbed, result.likelihood or 0.0)


def rung_key(rung: int) -> str:
    """The attribute of a trial that holds how it stood on a rung."""
    return f"rung:{rung}"


def result_document(result: Result) -> dict[str, Any]:
    """The part of a result that is a `Result`, as JSON."""
    return {
        "scores": dict(result.scores),
        "intervals": dict(result.intervals),
        "violations": dict(result.violations),
        "limits": dict(result.limits),
        "objective": result.objective,
        "objective_interval": result.objective_interval,
        "objective_floor": result.objective_floor,
        "timings": dict(result.timings),
        "reason": result.reason,
        "stopped": result.stopped,
        "rung": result.rung,
        "likelihood": result.likelihood,
        "item_evaluations": result.item_evaluations,
    }
