"""The rungs that candidates climb in a race, and how they stand on them. Without a race there is one of all items."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from evomerge.search.judge import Judge
from evomerge.search.outcome import Job, Outcome
from evomerge.study import Candidate, Result, StudyView
from evomerge.study.items import candidate_items
from evomerge.study.results import CACHED, standing
from fitness.items import Scores
from fitness.racing import Race, joined, likelihood
from fitness.suite import SuiteConfig

_RACES = 64  # that are remembered: without generations each of the candidates under way has one


class Ladder:
    """What a candidate is to be scored on next, and what that comes to. All of it follows from what is recorded.

    Rung 0 is the likelihood of the reference answers, on items that are the same for all candidates. Those of the
    rungs above are drawn anew for every generation.

    Args:
        suite: gives gates and weights.
        study: what is recorded.
        judge: knows the sources' scores.
        race: None for no race.
        floor: a likelihood of the reference answers that no source falls below; None leaves rung 0 out.
        draw: a candidate's number -> what the order of the documents in its race is drawn from; see `Race.drawn`.
    """

    def __init__(
        self,
        suite: SuiteConfig,
        study: StudyView,
        judge: Judge,
        race: Race | None = None,
        floor: float | None = None,
        draw: Callable[[int], tuple[int, ...]] = lambda number: (number,),
    ) -> None:
        self._suite, self._study, self._judge = suite, study, judge
        self._race, self._floor, self._draw = race, floor, draw
        self._drawn = lru_cache(_RACES)(Race.drawn)
        self.top = 1 if race is None else len(race.rungs)

    def next_rung(self, candidate: Candidate) -> int:
        """The rung that a running candidate is to be scored on."""
        if candidate.rungs:
            return len(candidate.rungs) + (candidate.rungs[0].rung or 0)
        return 1 if self._floor is None else 0

    def job(self, candidate: Candidate) -> Job:
        """What scores a running candidate on its next rung: the items that the rungs below did not have."""
        job = Job(f"candidate {candidate.number}", candidate.recipe, number=candidate.number)
        if self._race is None:
            return job
        rung = self.next_rung(candidate)
        items = self._race_of(candidate).rungs[rung - 1].items if rung else self._race.answered
        return replace(job, items=items, answers=rung == 0)

    def result(self, candidate: Candidate, job: Job, outcome: Outcome) -> tuple[Result, Scores]:
        """A running candidate's result over its next rung and those below, and its scores; `stopped` if it ends there.

        Args:
            candidate: as it was when the job was made.
            job: its job.
            outcome: of the job.
        """
        if self._race is None:
            return self._judge(outcome, job.split), outcome.scores
        rung, below = self.next_rung(candidate), candidate.rungs[-1] if candidate.rungs else Result()
        costs: dict[str, Any] = {
            "rung": rung,
            "likelihood": below.likelihood,
            "timings": _added(below.timings, outcome.seconds),
            "item_evaluations": below.item_evaluations + outcome.item_evaluations,
        }
        if outcome.reason is not None:
            return Result(reason=outcome.reason, **costs), {}
        if job.answers:
            costs["likelihood"] = level = likelihood(outcome.scores, self._suite)
            hopeless = level is not None and self._floor is not None and level < self._floor
            stopped = "reference answers are less likely than with any source" if hopeless else None
            return Result(stopped=stopped, **costs), {}
        scores, stopped = outcome.scores, None
        if below.scores:
            scores = joined(self._study.scores(candidate_items(candidate.number), below), scores)
        outcome, race = replace(outcome, scores=scores), self._race_of(candidate)
        partial = race.partial(rung - 1)
        result = self._judge(outcome, job.split, partial=partial).settled
        if rung < self.top and result.reason is None:
            stopped = race.doomed(scores, self._judge.gates(scores, job.split, partial=partial), rung - 1)
            if stopped is not None:
                whole = self._judge(outcome, job.split).settled
                # what was scored of another task may be too little to judge its gate
                result = whole if whole.reason is None else result
        return replace(result, stopped=stopped, **costs), scores

    def losers(self, candidates: Sequence[Candidate], rung: int) -> Iterator[tuple[int, Result]]:
        """The running candidates of a generation that do not go on from a rung: number and result.

        Args:
            candidates: the generation; all that are still in the race have been scored on the rung.
            rung: not the last.
        """
        if self._race is None:
            return
        came = [(candidate, at) for candidate in candidates for at in candidate.rungs if at.rung == rung]
        survivors = self._race.survivors([None if at.stopped else standing(at) for _, at in came])
        for (candidate, at), survives in zip(came, survivors, strict=True):
            if candidate.state == "running" and at is candidate.rungs[-1] and not survives:
                outpaced = f"not among the best {sum(survivors)} of {len(came)} on rung {rung}"
                yield candidate.number, replace(at, stopped=at.stopped or outpaced)

    def _race_of(self, candidate: Candidate) -> Race:
        return self._drawn(self._race, *self._draw(candidate.number))


def _added(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    """Seconds of each phase. A result is known from an equal recipe only if all of its rungs are."""
    known = CACHED in second and (CACHED in first or not first)
    phases = [phase for phase in dict.fromkeys((*first, *second)) if known or phase != CACHED]
    return {phase: first.get(phase, 0.0) + second.get(phase, 0.0) for phase in phases}
