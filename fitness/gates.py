"""Gates: which tasks meet their bound, and by how much the others miss."""

from collections.abc import Mapping
from dataclasses import dataclass

from fitness.errors import SuiteError
from fitness.suite import BASE, BEST_PARENT, Gate, SuiteConfig

# Rounding in factor x score must not fail a score that meets its bound exactly.
_TOLERANCE = 1e-12


@dataclass(frozen=True)
class GateResult:
    """How one task stands to its gate.

    Attributes:
        task: the task.
        bound: the bound in the metric's own units, relative gates resolved.
        score: the score that was judged.
        violation: relative miss, (bound - score) / |bound| for `at_least` and its negative for `at_most`; <= 0 clears.
        cleared: whether the gate is cleared.
    """

    task: str
    bound: float
    score: float
    violation: float
    cleared: bool


def judge(
    scores: Mapping[str, float], suite: SuiteConfig, references: Mapping[str, Mapping[str, float]]
) -> list[GateResult]:
    """Hold each score against its gate.

    Args:
        scores: task -> score.
        suite: gives the gates.
        references: model -> task -> score, for the base (under `base`) and each parent (under its name), no others.

    Returns:
        One result per gate, in the suite's order; empty when the suite has none.

    Raises:
        SuiteError: a gate is relative to a model without a score, or to a negative one.
    """
    results = []
    for task in suite.tasks:
        if task.gate is None:
            continue
        bound = _bound(task.name, task.gate, references)
        score = scores[task.name]
        miss = (bound - score if task.gate.at_least is not None else score - bound) / (abs(bound) or 1.0)
        violation = 0.0 if abs(miss) < _TOLERANCE else miss
        results.append(GateResult(task.name, bound, score, violation, violation <= 0))
    return results


def _bound(task: str, gate: Gate, references: Mapping[str, Mapping[str, float]]) -> float:
    if gate.of is None:
        return gate.factor
    models = [name for name in references if name != BASE] if gate.of == BEST_PARENT else [gate.of]
    known = [references[model][task] for model in models if task in references.get(model, {})]
    if not known:
        raise SuiteError("gate has no reference score", where=f"task {task}", expected=f"a score of {gate.of!r}")
    # The best parent is the one that sets the stricter bound: the highest for at_least, the lowest for at_most.
    reference = max(known) if gate.at_least is not None else min(known)
    if reference < 0:  # 0.9 x -2 is better than -2
        raise SuiteError(
            "relative gate on a negative score",
            where=f"task {task}: {gate}",
            expected=f"a score of {gate.of!r} of zero or more",
            found=reference,
            remedy="give the bound itself, without `of`",
        )
    return gate.factor * reference
