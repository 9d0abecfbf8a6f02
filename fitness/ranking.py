"""Ranking: from scores and gates to an order of candidates.

Feasible candidates come first, by objective; then infeasible ones, by how far they miss their gates; then failed ones.
Candidates that a race stopped come between the last two, those that climbed higher first and otherwise in this order.
The objective ranks candidates, it never excuses a gate. These are the feasibility rules of Deb, "An efficient
constraint handling method for genetic algorithms" (2000), section 3.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fitness.errors import ScoringError


@dataclass(frozen=True)
class Standing:
    """What a candidate is ranked by.

    Attributes:
        objective: higher is better; None when the candidate has none.
        violation: total miss over its gates, >= 0; 0 is feasible.
        rung: how many rungs it was scored on before a race stopped it; infinite when it was not stopped.
        likelihood: of the reference answers; it orders what nothing else can tell apart.
    """

    objective: float | None
    violation: float = 0.0
    rung: float = math.inf
    likelihood: float = 0.0


def utility(task: str, score: float, higher_is_better: bool) -> float:
    """How a score enters the objective, which is the weighted mean over the tasks; higher is better.

    A metric where lower is better enters as 1 / (1 + score). That is decreasing, needs no scale of its own and maps
    [0, inf), where perplexities, bits per byte and error rates live, onto (0, 1], where accuracies live. Metrics where
    higher is better enter as they are; one on another scale (BLEU: 0 to 100) wants a weight to match.

    Args:
        task: for the message of an error only.
        score: in the metric's unit.
        higher_is_better: the metric's direction.

    Raises:
        ScoringError: a score where lower is better is negative.
    """
    if higher_is_better:
        return score
    if score < 0:
        raise ScoringError("score cannot be ranked", where=f"task {task}", expected="0 or more", found=score)
    return 1 / (1 + score)


def violation(misses: Iterable[float]) -> float:
    """The sum of the relative misses of the gates that are not cleared, as `GateResult` has them; 0 when all are."""
    return sum(max(0.0, miss) for miss in misses)


def ranks(standings: Sequence[Standing]) -> list[float]:
    """Rank candidates against each other.

    Args:
        standings: one per candidate.

    Returns:
        For each, how many of the others are strictly better: 0 is best, ties share a rank, failures share the worst.
    """
    keys = [_key(standing) for standing in standings]
    return [float(sum(other < key for other in keys)) for key in keys]


def _key(standing: Standing) -> tuple[bool, float, float, float, float]:
    """Whether it failed, how high it climbed, its violation, its objective, its likelihood: less is better."""
    failed = standing.objective is None and standing.rung > 0
    merit = standing.objective or 0.0 if standing.violation <= 0 else 0.0
    return failed, -standing.rung, standing.violation, -merit, -standing.likelihood
