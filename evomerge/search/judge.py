"""From item scores to a result: gates against the references, and the objective."""

from collections.abc import Mapping

from evomerge.errors import ScoringError
from evomerge.search.outcome import Outcome, Split
from evomerge.study import Result
from fitness.gates import judge
from fitness.ranking import objective
from fitness.suite import SuiteConfig


class Judge:
    """Judges outcomes of one suite. Relative gates refer to the base and the parents, scored on the same split."""

    def __init__(self, suite: SuiteConfig) -> None:
        self._suite = suite
        self._references: dict[Split, dict[str, Mapping[str, float]]] = {"dev": {}, "holdout": {}}

    def refer(self, model: str, split: Split, scores: Mapping[str, float]) -> None:
        """Make the scores of a model known, `base` or a parent's name, so that gates may be relative to it."""
        self._references[split][model] = scores

    def __call__(self, outcome: Outcome, split: Split) -> Result:
        """What an outcome is worth, as it is recorded; one that failed or cannot be ranked keeps its reason.

        Raises:
            SuiteError: a gate refers to a model that was not scored.
        """
        scores, timings = outcome.means, outcome.seconds
        if outcome.reason is not None:
            return Result(reason=outcome.reason, timings=timings)
        directions = {task: items.higher_is_better for task, items in outcome.scores.items()}
        try:
            value = objective(scores, self._suite, directions)
        except ScoringError as error:
            return Result(scores=scores, reason=str(error), timings=timings)
        gates = judge(scores, self._suite, self._references[split])
        violations = {gate.task: gate.violation for gate in gates}
        return Result(scores=scores, violations=violations, objective=value, timings=timings)
