"""The loop of a search: baselines, then what the optimizer asks, told back as ranks.

The optimizer's state is a fold over the study. A resumed search walks the same way from the start; what the study
already holds is told at once and not scored again.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count

import numpy as np

from evomerge.config import BudgetConfig, SearchConfig
from evomerge.errors import ModelError, StudyError
from evomerge.genome import Genome
from evomerge.optimize import Optimizer, Told
from evomerge.optimize.optimizer import Vector
from evomerge.search.baselines import source_recipes, uniform_recipes
from evomerge.search.judge import Judge
from evomerge.search.ladder import Ladder
from evomerge.search.outcome import Job, Outcome
from evomerge.search.progress import SearchProgress
from evomerge.search.recall import Pool
from evomerge.study import MAX_ATTEMPTS, Candidate, Study
from evomerge.study.items import baseline_items
from evomerge.study.requests import Wish
from evomerge.study.results import ANSWERS, BASELINES, standing
from fitness.racing import Course, Race, likelihood
from fitness.ranking import ranks
from fitness.suite import BASE

TICK = 0.5  # seconds between looks at the clock and at what the user asks
_ORDER = "generation"  # of documents, drawn anew for each: in the record, as older versions had one for all
_FEASIBLE = "told feasible"  # the note that somebody was told of the first that clears every gate
MAX_FAILURES = 20  # in a row and for one reason, before the search ends instead of spending its budget


class Search:
    """One session of a study.

    Args:
        config: the study's config.
        study: where everything is recorded.
        genome: turns vectors into recipes.
        optimizer: fresh; it is rebuilt from the study.
        pool: the workers.
        progress: what the user sees.
        wish: what the user asks of the search; once it is something, nothing new is started.
        course: what candidates race over, if the suite asks for a race.
        cleared: called when a candidate is the first in the study to clear every gate; once more if the search was
            killed before it could record that.
        budget: changes the budget as the user asks meanwhile.
    """

    def __init__(
        self,
        config: SearchConfig,
        study: Study,
        genome: Genome,
        optimizer: Optimizer,
        pool: Pool,
        progress: SearchProgress,
        wish: Callable[[], Wish | None],
        course: Course,
        cleared: Callable[[Candidate], None] | None = None,
        budget: Callable[[BudgetConfig], BudgetConfig] = lambda budget: budget,
    ) -> None:
        self.config, self.study, self.progress, self.wish = config, study, progress, wish
        self.judge = Judge(config.suite)
        self.sources = source_recipes(config.models)
        self.uniform = uniform_recipes(config.models)
        self._genome, self._optimizer, self._pool = genome, optimizer, pool
        self._asked_budget = budget
        self._proposing = True
        self._course = course
        self._first = 0  # candidate of the generation that is being scored
        self._ladder = Ladder(config.suite, study, self.judge)
        self._dispatched: set[int] = set()  # candidates that this session has given to a worker
        self._failures = 0
        self._failing: str | None = None  # how many of the last candidates failed for which reason
        self._warned: set[str] = set()
        self._said_draining = False
        self._cleared = None if _FEASIBLE in study.notes() else cleared

    @property
    def draining(self) -> bool:
        """Whether nothing new is to be started."""
        return self.wish() is not None

    @property
    def spent(self) -> bool:
        """Whether the budget is used up."""
        return self._out_of_time or self.study.tally.done >= self.config.budget.candidates

    def run(self) -> None:
        """Score the baselines, then candidates until the budget is used up or the user stops the search.

        Raises:
            ModelError: the base or a parent cannot be scored.
            StudyError: the study cannot be written, or its record is not what the optimizer asks.
        """
        self._score_baselines()
        if not self.draining and self._prepare_race():
            self._tell_best()
            self._tell_cleared()
            self.progress.begin()
            (self._one_by_one if self._optimizer.asynchronous else self._generations)()
        self._proposing = False

    def take_budget(self) -> None:
        """Go on under the budget that the user asks for, recorded as a resume would; what has begun is done anyway.

        Raises:
            StudyError: the study cannot be written.
        """
        budget = self._asked_budget(self.config.budget)
        if budget == self.config.budget:
            return
        candidates = max(budget.candidates, self.study.tally.candidates)
        config = self.config.model_copy(update={"budget": budget.model_copy(update={"candidates": candidates})})
        if config == self.config:
            return
        self.config = config
        self.study.change_config(config.model_dump(mode="json"))
        self.progress.budget(candidates)
        late = "; no more candidates are proposed by now, a resume goes on with the rest"
        self.progress.say(f"the budget is now {config.budget}{'' if self._proposing else late}")

    def evaluate(
        self,
        jobs: Iterable[Job | None],
        done: Callable[[Job, Outcome], Job | None],
        *,
        stopping: Callable[[], bool] | None = None,
    ) -> bool:
        """Keep every worker busy with jobs until there are none left or nothing new is to be started.

        Args:
            jobs: in order; one is pulled only when a worker is free for it. None: there is no other at the moment.
            done: called with each job and its outcome, as they end; what it returns is the next job, before all others.
            stopping: when to start nothing new; by default when the user asked for it.

        Returns:
            Whether all jobs have ended; False when some were not started.
        """
        stopping = stopping or (lambda: self.draining)
        waiting, again, lost = iter(jobs), list[Job](), Counter[str]()
        exhausted = False
        while True:
            self.take_budget()
            while self._pool.free and not stopping():
                if again:
                    job: Job | None = again.pop()
                else:
                    job = next(waiting, None)
                    exhausted = job is None
                if job is None:
                    break
                if job.number is None or not lost[job.name] or self.study.retry(job.number):
                    self._pool.submit(job)
                else:
                    self._settled(self.study.candidate(job.number))
            if not self._pool.busy and (stopping() or (exhausted and not again)):
                return exhausted and not again
            self._say_draining()
            self.progress.tick()
            for job, outcome in self._pool.wait(TICK):
                self._say_warnings(outcome.warnings)
                lost[job.name] += outcome.lost
                if outcome.lost and lost[job.name] < MAX_ATTEMPTS:
                    self.progress.say(f"{job.name}: {outcome.reason}; once more")
                    again.append(job)
                else:
                    del lost[job.name]
                    self.progress.scored()
                    following = done(job, outcome)
                    again += [] if following is None else [following]

    def evaluate_all(self, jobs: Sequence[Job]) -> dict[str, Outcome] | None:
        """Score these jobs: name -> outcome; None when the user stopped the search first."""
        outcomes: dict[str, Outcome] = {}
        self.evaluate(jobs, lambda job, outcome: outcomes.update({job.name: outcome}))
        return outcomes if len(outcomes) == len(jobs) else None

    def _score_baselines(self) -> None:
        if BASELINES not in self.study.notes():
            self.study.note(BASELINES, [*self.sources, *self.uniform])
        for baseline in self.study.baselines():
            if baseline.name in self.sources and baseline.reason is None:
                self.judge.refer(baseline.name, "dev", self.study.scores(baseline_items(baseline.name), baseline))
        known = {baseline.name for baseline in self.study.baselines() if baseline.reason is None}
        sources = [Job(name, recipe) for name, recipe in self.sources.items() if name not in known]
        uniform = [Job(name, recipe) for name, recipe in self.uniform.items() if name not in known]
        if sources or uniform:
            self.progress.phase("baselines", len(sources) + len(uniform))
            self.progress.say(f"baselines: {', '.join(job.name for job in [*sources, *uniform])}")

        def done(job: Job, outcome: Outcome) -> None:
            self.study.add_baseline(job.name, job.recipe, self.judge(outcome, job.split), outcome.scores)

        # gates may refer to any source, so nothing is judged before all sources are scored
        outcomes = self.evaluate_all(sources)
        if outcomes is not None:
            self.refer(sources, outcomes)
            self._say_warnings(self.judge.warnings)
            for job in sources:
                done(job, outcomes[job.name])
            self.evaluate(uniform, done)

    def refer(self, sources: Sequence[Job], outcomes: Mapping[str, Outcome]) -> None:
        """Let gates be relative to these models. Raises ModelError when one of them could not be scored."""
        self._refuse_failure(sources, outcomes)
        for job in sources:
            self.judge.refer(job.name, job.split, outcomes[job.name].scores)

    def _refuse_failure(self, jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> None:
        for job in jobs:
            reason = outcomes[job.name].reason
            if reason is not None:
                raise ModelError("model cannot be scored", where=job.name, found=reason)

    def _prepare_race(self) -> bool:
        """Find what the race goes by, from the record where it is known; False when the user stopped the search."""
        if self.config.suite.racing is None:
            return True
        base = next(baseline for baseline in self.study.baselines() if baseline.name == BASE)
        race = Race(self.config.suite, self._course, self.study.scores(baseline_items(BASE), base))
        for note in race.notes:
            self.progress.say(note)
        if self._optimizer.asynchronous and not race.gated:
            self.progress.say("no race: this optimizer's candidates race against gates only, and no gate can stop one")
            return True
        answers = self.study.notes().get(ANSWERS)
        if answers is not None and answers.get("order") != _ORDER:
            raise StudyError(
                "the candidates of this study raced over another order of the documents",
                where=self.study.folder.path,
                expected=f"an order for each {_ORDER}",
                found="one order for all",
                remedy="resume with the evomerge that began it, or start a new study",
            )
        if answers is None:
            jobs = [
                Job(f"answers of {name}", recipe, items=race.answered, answers=True)
                for name, recipe in self.sources.items()
            ]
            self.progress.phase("baselines", len(jobs))
            outcomes = self.evaluate_all(jobs)
            if outcomes is None:
                return False
            self._refuse_failure(jobs, outcomes)
            levels = [likelihood(outcome.scores, self.config.suite) for outcome in outcomes.values()]
            floor = min((level for level in levels if level is not None), default=None)
            evaluations = sum(outcome.item_evaluations for outcome in outcomes.values())
            answers = {"floor": floor, "item_evaluations": evaluations, "order": _ORDER}
            self.study.note(ANSWERS, answers)
        self._ladder = Ladder(self.config.suite, self.study, self.judge, race, answers["floor"], self._draw)
        return True

    def _draw(self, number: int) -> tuple[int, int]:
        """What the order of the documents in a candidate's race is drawn from: the same for all of a generation."""
        return self.config.seed, number if self._optimizer.asynchronous else self._first

    def _generations(self) -> None:
        first = 0
        while first < self.config.budget.candidates:
            generation, done = self._optimizer.ask(), 0
            while done < len(generation):
                due = list(generation[: self.config.budget.candidates - first])
                if len(due) <= done:
                    return
                if self._score(first, due):
                    recorded = self.study.candidates()[first : first + len(generation)]
                    done = sum(candidate.state != "running" for candidate in recorded)
                elif self._stopping():
                    return
            self._optimizer.tell(_told_generation(self.study.candidates()[first : first + len(generation)]))
            first += len(generation)

    def _score(self, first: int, due: Sequence[Vector]) -> bool:
        """Score candidates from number `first` on, rung by rung; whether all of them have their result."""
        self._first = first
        for rung in range(1, self._ladder.top + 1):
            self.evaluate(self._due(first, due, rung), self._finish, stopping=self._stopping)
            due = due[: self.config.budget.candidates - first]
            candidates = self.study.candidates()[first : first + len(due)]
            running = [candidate for candidate in candidates if candidate.state == "running"]
            if len(candidates) < len(due) or any(self._ladder.next_rung(candidate) <= rung for candidate in running):
                return False
            for number, result in self._ladder.losers(candidates, rung) if rung < self._ladder.top else ():
                self._settled(self.study.finish(number, result))
        return True

    def _one_by_one(self) -> None:
        recorded = self.study.candidates()
        for candidate in recorded:
            if candidate.state == "running":
                self._optimizer.expect(np.array(candidate.x))
            else:
                self._optimizer.tell([_told(candidate)])

        def jobs() -> Iterator[Job | None]:
            for candidate in recorded:
                yield from self._due(candidate.number, [np.array(candidate.x)], self._ladder.top)
            for number in count(len(recorded)):
                while number >= self.config.budget.candidates:
                    yield None  # until the budget is raised
                yield from self._due(number, self._optimizer.ask(), self._ladder.top)

        self.evaluate(jobs(), self._finish, stopping=self._stopping)

    def _due(self, first: int, vectors: Iterable[Vector], rung: int) -> Iterator[Job]:
        """The next jobs, up to a rung, of the vectors from number `first` on; each is recorded as it is pulled."""
        for number, x in enumerate(vectors, first):
            recorded = self.study.candidates()
            if number < len(recorded):
                candidate = recorded[number]
                if candidate.x != tuple(x):
                    raise StudyError(
                        "the optimizer asks for another candidate than the study holds",
                        where=f"candidate {number}",
                        remedy="resume with the versions in environment.json, or start a new study",
                    )
                if candidate.state != "running" or self._ladder.next_rung(candidate) > rung:
                    continue
            elif number >= self.config.budget.candidates:  # lowered meanwhile
                return
            else:
                recipe = self._genome.recipe(x).to_yaml()
                self.study.start(x.tolist(), self._genome.values(x), self._genome.space, recipe)
                self._dispatched.add(number)
            job = self._next(number)
            if job is not None:
                yield job

    def _next(self, number: int) -> Job | None:
        """The next job of a running candidate; None for one that is stopped, or was interrupted too often."""
        candidate = self.study.candidate(number)
        if candidate.rungs and candidate.rungs[-1].stopped is not None:
            self._settled(self.study.finish(number, candidate.rungs[-1]))
            return None
        cut_off = number not in self._dispatched and self.study.interrupted
        if cut_off and not self.study.retry(number):
            self._settled(self.study.candidate(number))
            return None
        self._dispatched.add(number)
        return self._ladder.job(candidate)

    def _finish(self, job: Job, outcome: Outcome) -> Job | None:
        """Record an outcome; the candidate's next job, unless it has its result or has to wait for its generation."""
        assert job.number is not None
        candidate = self.study.candidate(job.number)
        rung = self._ladder.next_rung(candidate)
        result, scores = self._ladder.result(candidate, job, outcome)
        if rung == self._ladder.top or result.reason is not None:
            self._settled(self.study.finish(job.number, result, scores))
            return None
        self.study.climb(job.number, result, scores)
        waiting = rung > 0 and result.stopped is None and not self._optimizer.asynchronous
        return None if waiting else self._next(job.number)

    def _settled(self, candidate: Candidate) -> None:
        """A candidate has its result."""
        if self._optimizer.asynchronous:
            self._optimizer.tell([_told(candidate)])
        if candidate.reason is not None:
            self.progress.say(f"candidate {candidate.number} failed: {candidate.reason}")
        self._refuse_endless_failure(candidate)
        self._tell_best()
        self._tell_cleared()
        limit = self.config.budget.hours
        self.progress.candidate_done(None if limit is None else 3600 * (limit - self.study.hours), candidate.cached)

    def _refuse_endless_failure(self, candidate: Candidate) -> None:
        """Something that fails every candidate is not theirs: a disk is gone, or the space makes no sense."""
        kind = None if candidate.reason is None else candidate.reason.split(" (")[0]
        self._failures = self._failures + 1 if kind is not None and kind == self._failing else 1
        self._failing = kind
        if kind is not None and self._failures >= MAX_FAILURES:
            raise ModelError(
                f"{MAX_FAILURES} candidates in a row failed for the same reason",
                where=self.study.folder.path,
                found=candidate.reason,
                remedy=f"mend that, then evomerge resume {self.study.folder.path}",
            )

    def _say_draining(self) -> None:
        wish = self.wish()
        if wish is not None and not self._said_draining:
            self._said_draining = True
            doing = {"pause": "pausing", "stop": "stopping"}[wish]
            jobs = "the running job is" if self._pool.busy == 1 else f"{self._pool.busy} running jobs are"
            self.progress.say(f"{doing} once {jobs} done; Ctrl-C again ends it at once")

    def _say_warnings(self, warnings: Iterable[str]) -> None:
        for warning in warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self.progress.say(f"warning: {warning}")

    def _tell_best(self) -> None:
        tally = self.study.tally
        if tally.best is not None:
            self.progress.best(f"best {tally.best.objective:.4f} (#{tally.best.number}), gates {_cleared(tally.best)}")
        elif tally.nearest is not None:
            self.progress.best(f"none feasible, #{tally.nearest.number} clears {_cleared(tally.nearest)} gates")

    def _tell_cleared(self) -> None:
        if self._cleared is not None and (best := self.study.best) is not None:
            self._cleared(best)
            self._cleared = None
            self.study.note(_FEASIBLE, best.number)

    def _stopping(self) -> bool:
        return self.draining or self._out_of_time

    @property
    def _out_of_time(self) -> bool:
        limit = self.config.budget.hours
        return limit is not None and self.study.hours >= limit


def _cleared(candidate: Candidate) -> str:
    return f"{sum(candidate.gates.values())}/{len(candidate.gates)}"


def _told(candidate: Candidate, rank: float = 0.0) -> Told:
    # part of the items makes a rank among those that had the same, but no objective to compare with those of others
    objective = candidate.objective if candidate.stopped is None else None
    violations = candidate.violations.values() if candidate.reason is None else ()
    return Told(np.array(candidate.x), rank, objective, tuple(violations))


def _told_generation(candidates: Sequence[Candidate]) -> list[Told]:
    return list(map(_told, candidates, ranks([standing(candidate) for candidate in candidates])))
