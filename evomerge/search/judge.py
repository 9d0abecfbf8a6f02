"""From item scores to a result: intervals, gates against the references, and the objective."""

from collections.abc import Collection

from evomerge.errors import ScoringError
from evomerge.search.outcome import Outcome, Split
from evomerge.study import Result
from fitness.confidence import Range
from fitness.estimates import objective_estimate, presumed_ranges, range_advice, score_interval
from fitness.gates import GateResult, judge
from fitness.items import Scores
from fitness.suite import SuiteConfig


class Judge:
    """Judges outcomes of one suite. Relative gates refer to the base and the parents, scored on the same split."""

    def __init__(self, suite: SuiteConfig) -> None:
        self._suite = suite
        self._references: dict[Split, dict[str, Scores]] = {"dev": {}, "holdout": {}}
        self._ranges = presumed_ranges(suite, ())

    @property
    def ranges(self) -> dict[str, Range]:
        """The ranges that intervals go by: `fitness.estimates.presumed_ranges` over the references on dev."""
        return self._ranges

    @property
    def warnings(self) -> list[str]:
        """What the user should know of tasks whose range is not known."""
        found = (
            range_advice(scores, self._ranges.get(task))
            for reference in self._references["dev"].values()
            for task, scores in reference.items()
        )
        return list(dict.fromkeys(advice for advice in found if advice is not None))

    def refer(self, model: str, split: Split, scores: Scores) -> None:
        """Make the scores of a model known, `base` or a parent's name, so that gates may be relative to it."""
        self._references[split][model] = scores
        self._ranges = presumed_ranges(self._suite, self._references["dev"].values())

    def gates(self, scores: Scores, split: Split, *, partial: Collection[str] = ()) -> list[GateResult]:
        """How scores stand to their gates. Raises SuiteError and ScoringError: see `fitness.gates.judge`."""
        return judge(scores, self._suite, self._references[split], partial=partial, ranges=self._ranges)

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
            if (limits := score_interval(task, within=self._ranges.get(name))) is not None
        }
        try:
            objective = objective_estimate(outcome.scores, intervals, self._suite)
            gates = self.gates(outcome.scores, split, partial=partial)
        except ScoringError as error:
            timings = outcome.seconds
            return Result(scores=outcome.means, reason=str(error), timings=timings, item_evaluations=evaluations)
        confident = {task.name for task in self._suite.tasks if task.gate is not None and task.gate.confidence}
        held = {gate.task: gate.limit for gate in gates if gate.task in confident or gate.limit != gate.score}
        certain = intervals.keys() == outcome.scores.keys()
        return Result(
            scores=outcome.means,
            intervals=intervals,
            violations={gate.task: gate.violation for gate in gates},
            limits=held,
            objective=objective.value,
            objective_interval=(objective.low, objective.high) if certain else None,
            objective_floor=objective.low,
            timings=outcome.seconds,
            item_evaluations=evaluations,
        )
