"""From item scores to a result: intervals, gates against the references, and the objective."""

import math
from collections.abc import Collection

from evomerge.errors import ScoringError
from evomerge.search.outcome import Outcome, Split
from evomerge.study import Result
from fitness.estimates import objective_estimate, score_interval
from fitness.gates import GateResult, judge
from fitness.items import Scores
from fitness.suite import SuiteConfig


class Judge:
    """Judges outcomes of one suite. Relative gates refer to the base and the parents, scored on the same split."""

    def __init__(self, suite: SuiteConfig) -> None:
        self._suite = suite
        self._references: dict[Split, dict[str, Scores]] = {"dev": {}, "holdout": {}}

    def refer(self, model: str, split: Split, scores: Scores) -> None:
        """Make the scores of a model known, `base` or a parent's name, so that gates may be relative to it."""
        self._references[split][model] = scores

    def gates(self, scores: Scores, split: Split, *, partial: Collection[str] = ()) -> list[GateResult]:
        """How scores stand to their gates. Raises SuiteError and ScoringError: see `fitness.gates.judge`."""
        return judge(scores, self._suite, self._references[split], partial=partial)

    def __call__(self, outcome: Outcome, split: Split, *, partial: Collection[str] = ()) -> Result:
        """What an outcome is worth, as it is recorded; one that failed or cannot be judged keeps its reason.

        Args:
            outcome: over documents of the split.
            split: which documents.
            partial: the tasks of which more of them are to follow; see `fitness.gates.judge`.

        Raises:
            SuiteError: a gate refers to a model that was not scored, or asks for confidence where there never is an
                interval.
        """
        if outcome.reason is not None:
            return Result(reason=outcome.reason, timings=outcome.seconds)
        evaluations = outcome.item_evaluations
        intervals = {
            name: limits
            for name, task in outcome.scores.items()
            if (limits := score_interval(task, stated=self._suite.ranges[name])) is not None
        }
        try:
            objective = objective_estimate(outcome.scores, intervals, self._suite)
            gates = self.gates(outcome.scores, split, partial=partial)
        except ScoringError as error:
            timings = outcome.seconds
            return Result(scores=outcome.means, reason=str(error), timings=timings, item_evaluations=evaluations)
        confident = {task.name for task in self._suite.tasks if task.gate is not None and task.gate.confidence}
        held = {gate.task: gate.limit for gate in gates if gate.task in confident or gate.limit != gate.score}
        return Result(
            scores=outcome.means,
            intervals=intervals,
            violations={gate.task: gate.violation for gate in gates},
            limits=held,
            objective=objective.value,
            objective_interval=(objective.low, objective.high) if math.isfinite(objective.low) else None,
            timings=outcome.seconds,
            item_evaluations=evaluations,
        )
