"""`python -m evomerge.bench.racing`: the demo with racing and without, for the same number of item evaluations.

The budget of a seed is what the candidates of its search without racing take; baselines and finalists cost both
searches the same and are left out. The best of a search is what the search itself would take for it, by dev alone; its
holdout score chooses nothing.
"""

import argparse
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from evomerge.config import SearchConfig, search_config
from evomerge.optimize import make_optimizer
from evomerge.search.baselines import source_recipes
from evomerge.search.evaluator import Evaluator
from evomerge.search.judge import Judge
from evomerge.search.loop import Search
from evomerge.search.outcome import Job, Outcome, Split
from evomerge.search.progress import SearchProgress
from evomerge.search.space import genome_of
from evomerge.study import Candidate, Result, Study, StudyView, describe_environment
from evomerge.study.requests import Wish
from evomerge.study.results import ANSWERS
from evomerge.study.view import best_of
from fitness.racing import Course

RACING = "{rungs: [0.1, 0.25, 0.5, 1.0], keep: 0.34, alpha: 0.05}"
CANDIDATES = 120  # of the demo
_GENERATION = 10  # candidates of the demo that race each other, until the optimizer starts anew with more

_WIDTH = 110  # of the table with all columns
_SPLITS: tuple[Split, Split] = ("holdout", "dev")


@dataclass(frozen=True)
class Best:
    """The best candidate that a search has, from some moment on.

    Attributes:
        share: of the budget that was spent by then, in (0, 1].
        dev: its objective on dev.
        holdout: its objective on holdout.
    """

    share: float
    dev: float
    holdout: float


@dataclass(frozen=True)
class Stopped:
    """What became of candidates that a race stopped, had they been scored on all dev items.

    Attributes:
        passing: candidates of the race that clear every gate on all dev items.
        wronged: those of them that a gate stopped.
        outpaced: those of them that were stopped because others were better.
        hopeless: candidates stopped by the likelihood of the reference answers.
    """

    passing: int
    wronged: int
    outpaced: int
    hopeless: int


@dataclass(frozen=True)
class Comparison:
    """One seed.

    Attributes:
        off: what the search without racing had for the best, one after the other.
        on: the same of the search with racing, within as many item evaluations.
        candidates: that the race went through meanwhile.
        stopped: None if it was not asked for.
    """

    off: Sequence[Best]
    on: Sequence[Best]
    candidates: int
    stopped: Stopped | None


class _Pool:
    """Scores one job after the other in this process, and counts the documents.

    Attributes:
        spent: item evaluations of the candidates since `begin`, those of the sources' reference answers included.
    """

    def __init__(self, config: SearchConfig) -> None:
        self.evaluator = Evaluator(config.models, config.suite, config.workers)
        self.spent = 0
        self._waiting: list[Job] = []
        self._known: dict[str, Outcome] = {}  # recipes of no candidate are the same in every search

    @property
    def free(self) -> int:
        return 1 - self.busy

    @property
    def busy(self) -> int:
        return len(self._waiting)

    def begin(self) -> None:
        self.spent = 0

    def submit(self, job: Job) -> None:
        self._waiting.append(job)

    def wait(self, timeout: float) -> list[tuple[Job, Outcome]]:
        ended = [(job, self.score(job)) for job in self._waiting]
        self._waiting.clear()
        return ended

    def score(self, job: Job) -> Outcome:
        key = repr((job.recipe, job.split, job.answers))
        outcome = self._known.get(key) or self.evaluator.evaluate(job)
        if job.number is None:
            self._known[key] = outcome
        if job.number is not None or job.answers:
            self.spent += outcome.item_evaluations
        return outcome


class Bench:
    """Compares searches of the demo, seed by seed.

    Args:
        racing: as in a suite.
        candidates: without racing; with it there are as many as the same number of item evaluations allows.
        stopped: score what the race stopped in full, too.
    """

    def __init__(self, racing: str = RACING, candidates: int = CANDIDATES, *, stopped: bool = False) -> None:
        self._stopped = stopped
        self._off = search_config(["experiment=demo", "study=off", f"budget.candidates={candidates}"])
        # a race ends when its evaluations are used up, not its candidates
        words = ["experiment=demo", "study=on", f"budget.candidates={1000 * candidates}", f"suite.racing={racing}"]
        self._on = search_config(words)
        self._pool = _Pool(self._on)  # racing asks for an order of the documents and changes no score
        self._judge = Judge(self._off.suite)
        for split in _SPLITS:
            for name, recipe in source_recipes(self._off.models).items():
                self._judge.refer(name, split, self._pool.score(Job(name, recipe, split)).scores)

    def compare(self, seed: int) -> Comparison:
        """Search twice from one seed."""
        with tempfile.TemporaryDirectory() as folder:
            whole = self._search(self._off, seed, Path(folder))
            budget = self._pool.spent
            race = self._search(self._on, seed, Path(folder), budget)
            waited = list(_waited(_spent(race)))
            raced = [each for each, cost in zip(race.candidates(), waited, strict=True) if cost <= budget]
            return Comparison(
                off=tuple(self._bests(whole.candidates(), _spent(whole), budget)),
                on=tuple(self._bests(raced, waited, budget)),
                candidates=len(raced),
                stopped=self._passing(raced) if self._stopped else None,
            )

    def _search(self, config: SearchConfig, seed: int, folder: Path, budget: float = math.inf) -> StudyView:
        """Search until the candidates or the item evaluations are used up."""
        config = config.model_copy(update={"seed": seed, "runs_dir": folder})
        evaluator, pool = self._pool.evaluator, self._pool
        genome = genome_of(config, evaluator.checkpoints[config.models.base.ref])
        optimizer = make_optimizer(config.optimizer, initial=genome.initial, choices=genome.choices, seed=seed)
        harness = evaluator.harness
        course = Course(harness.orders, harness.raceable, harness.additive)
        document = config.model_dump(mode="json")
        with (
            Study.create(config.folder, document, describe_environment({}, {})) as study,
            SearchProgress(config.budget.candidates, 0) as progress,
        ):

            def wish() -> Wish | None:
                return "stop" if pool.spent >= budget else None

            pool.begin()
            Search(config, study, genome, optimizer, pool, progress, wish, course).run()
        return StudyView(config.folder)

    def _bests(self, candidates: Iterable[Candidate], costs: Iterable[int], budget: int) -> Iterator[Best]:
        best = None
        for candidate, cost in zip(candidates, costs, strict=False):
            if candidate.feasible and best_of(filter(None, (best, candidate))) is candidate:
                best = candidate
                holdout = self._whole(candidate, "holdout")
                yield Best(cost / budget, _objective(candidate), _objective(holdout))

    def _passing(self, raced: Sequence[Candidate]) -> Stopped:
        passing = [each for each in raced if each.stopped is not None and self._whole(each, "dev").feasible]
        wronged = sum("gate" in (each.stopped or "") for each in passing)
        return Stopped(
            passing=len(passing) + sum(each.feasible for each in raced),
            wronged=wronged,
            outpaced=len(passing) - wronged,
            hopeless=sum(each.rung == 0 for each in raced),
        )

    def _whole(self, candidate: Candidate, split: Split) -> Result:
        return self._judge(self._pool.score(Job("candidate", candidate.recipe, split)), split)


def _spent(study: StudyView) -> list[int]:
    """Item evaluations of each candidate and all before it, those of the sources' reference answers included."""
    before = study.notes().get(ANSWERS, {"item_evaluations": 0})["item_evaluations"]
    candidates = [(each, *each.rungs)[-1 if each.state == "running" else 0] for each in study.candidates()]
    return list(accumulate((each.item_evaluations for each in candidates), initial=before))[1:]


def _waited(spent: Sequence[int]) -> Iterator[int]:
    """A candidate of a race is done with when its generation is."""
    for number in range(len(spent)):
        yield spent[min(number - number % _GENERATION + _GENERATION, len(spent)) - 1]


def _objective(result: Result) -> float:
    return math.nan if result.objective is None else result.objective


def score(bests: Sequence[Best], split: Split, share: float = 1.0) -> float:
    """The score of the best that a search has after a share of its budget; minus infinite while it has none."""
    values: list[float] = [getattr(best, split) for best in bests if best.share <= share]
    return values[-1] if values else -math.inf


def reached(searches: Sequence[Sequence[Best]], split: Split, target: float) -> float:
    """The share of the budget after which the median score of these searches is the target or more; infinite: never."""
    moments = sorted({best.share for bests in searches for best in bests})
    scores = ((share, median(score(bests, split, share) for bests in searches)) for share in moments)
    return next((share for share, middle in scores if middle >= target), math.inf)


def _print(console: Console, comparisons: dict[int, Comparison]) -> None:
    table = Table(box=None, pad_edge=False)
    titles = ("seed", "holdout\noff", "\non", "dev\noff", "\non", "equal\noff", "after\non", "raced\n")
    audited = all(each.stopped is not None for each in comparisons.values())
    for title in (*titles, *(("would\npass", "wronged\n", "outpaced\n", "hopeless\n") if audited else ())):
        table.add_column(title, justify="right", no_wrap=True)
    rows = {str(seed): _row(each) for seed, each in comparisons.items()}
    rows["median"] = [median(column) for column in zip(*rows.values(), strict=True)]
    for title, row in rows.items():
        scores, shares, counts = row[:4], row[4:6], row[6:]
        table.add_row(title, *(f"{each:.4f}" for each in scores), *map(_percent, shares), *(f"{n:g}" for n in counts))
    console.print(table)
    off, on = ([getattr(each, which) for each in comparisons.values()] for which in ("off", "on"))
    for split in _SPLITS:
        target = median(score(bests, split) for bests in off)
        with_it, without = (_percent(reached(searches, split, target)) for searches in (on, off))
        console.print(
            f"median {split} score without racing, {target:.4f}: with racing after {with_it} of the item evaluations, "
            f"without after {without}"
        )


def _row(comparison: Comparison) -> list[float]:
    searches, target = (comparison.off, comparison.on), score(comparison.off, "dev")
    scores = [score(bests, split) for split in _SPLITS for bests in searches]
    shares = [reached([bests], "dev", target) for bests in searches]
    counts = [] if comparison.stopped is None else vars(comparison.stopped).values()
    return [*scores, *shares, comparison.candidates, *counts]


def _percent(share: float) -> str:
    return f"{share:.0%}" if math.isfinite(share) else "never"


def main() -> None:
    """Run the comparison and print its table after each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--racing", default=RACING, help=f"as in a suite (default: {RACING})")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help="without racing")
    parser.add_argument("--stopped", action="store_true", help="score in full what was stopped, and count who passes")
    options = parser.parse_args()
    bench = Bench(options.racing, options.candidates, stopped=options.stopped)
    comparisons = {}
    for seed in range(options.first, options.first + options.seeds):
        comparisons[seed] = bench.compare(seed)
        _print(Console(width=_WIDTH), comparisons)


if __name__ == "__main__":
    main()
