"""Ranking: from scores and gates to an order of candidates.

Feasible candidates come first, by objective; then infeasible ones, by how far they miss their gates; then failed ones.
The objective ranks candidates, it never excuses a gate. These are the feasibility rules of Deb, "An efficient
constraint handling method for genetic algorithms" (2000), section 3.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fitness.errors import ScoringError
from fitness.suite import SuiteConfig


@dataclass(frozen=True)
class Standing:
    """What a candidate is ranked by.

    Attributes:
        objective: higher is better; None when the candidate failed.
        violation: total miss over its gates, >= 0; 0 is feasible.
    """

    objective: float | None
    violation: float = 0.0


def objective(scores: Mapping[str, float], suite: SuiteConfig, directions: Mapping[str, bool]) -> float:
    """The weighted mean of the tasks' scores, higher is better.

    A metric where lower is better enters as 1 / (1 + score). That is decreasing, needs no scale of its own and maps
    [0, inf), where perplexities, bits per byte and error rates live, onto (0, 1], where accuracies live. Metrics where
    higher is better enter as they are; one on another scale (BLEU: 0 to 100) wants a weight to match.

    Args:
        scores: task -> score.
        suite: gives the weights.
        directions: task -> whether higher is better.

    Raises:
        ScoringError: a score where lower is better is negative.
    """
    total = sum(task.weight for task in suite.tasks)
    return sum(task.weight * _utility(task.name, scores[task.name], directions) for task in suite.tasks) / total


def _utility(task: str, score: float, directions: Mapping[str, bool]) -> float:
    if directions[task]:
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


def _key(standing: Standing) -> tuple[int, float]:
    if standing.objective is None:
        return (2, 0.0)
    return (1, standing.violation) if standing.violation > 0 else (0, -standing.objective)
