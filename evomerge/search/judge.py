"""From item scores to a verdict: gates against the references, feasibility, objective."""

from collections.abc import Mapping
from dataclasses import dataclass

from evomerge.search.outcome import Outcome, Split
from fitness.gates import GateResult, judge
from fitness.ranking import objective, violation
from fitness.suite import SuiteConfig


@dataclass(frozen=True)
class Verdict:
    """What a scored recipe is worth.

    Attributes:
        scores: task -> score, in the metric's own unit.
        gates: one result for each gate.
        objective: higher is better.
        violation: total relative miss over the gates; 0 is feasible.
    """

    scores: Mapping[str, float]
    gates: tuple[GateResult, ...]
    objective: float
    violation: float

    @property
    def feasible(self) -> bool:
        """Whether every gate is cleared."""
        return all(gate.cleared for gate in self.gates)


class Judge:
    """Judges outcomes of one suite. Relative gates refer to the base and the parents, scored on the same split."""

    def __init__(self, suite: SuiteConfig) -> None:
        self._suite = suite
        self._references: dict[Split, dict[str, Mapping[str, float]]] = {"dev": {}, "holdout": {}}

    def refer(self, model: str, split: Split, scores: Mapping[str, float]) -> None:
        """Make the scores of a model known, `base` or a parent's name, so that gates may be relative to it."""
        self._references[split][model] = scores

    def __call__(self, outcome: Outcome, split: Split) -> Verdict:
        """Judge an outcome that did not fail.

        Raises:
            ScoringError: a score cannot be ranked.
            SuiteError: a gate refers to a model that was not scored.
        """
        scores = outcome.means
        gates = judge(scores, self._suite, self._references[split])
        directions = {task: items.higher_is_better for task, items in outcome.scores.items()}
        return Verdict(scores, tuple(gates), objective(scores, self._suite, directions), violation(gates))
