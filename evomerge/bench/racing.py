"""`python -m evomerge.bench.racing`: the demo with racing and without, for the same number of item evaluations."""

import argparse
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from evomerge.config import SearchConfig, search_config
from evomerge.search.baselines import source_recipes
from evomerge.search.evaluator import Evaluator
from evomerge.search.judge import Judge
from evomerge.search.launch import launch, resume
from evomerge.search.outcome import Job, Split
from evomerge.study import Candidate, Result, StudyView
from evomerge.study.results import ANSWERS
from evomerge.study.view import best_of

RACING = "suite.racing={rungs: [0.1, 0.33, 1.0], keep: 0.34, alpha: 0.05}"
CANDIDATES = 120  # of the demo


@dataclass(frozen=True)
class Comparison:
    """One seed.

    Attributes:
        off: objective on holdout of the best candidate without racing; NaN if none is feasible.
        on: the same with racing, after as many item evaluations.
        candidates: that the race went through meanwhile.
        share: of those evaluations after which the race has a candidate as good on dev as the best without; infinite
            when it never has.
        passing: candidates of the race that clear every gate on all dev items.
        wronged: those of them that a gate stopped.
        outpaced: those of them that were stopped because others were better.
        hopeless: candidates stopped by the likelihood of the reference answers.
    """

    off: float
    on: float
    candidates: int
    share: float
    passing: int
    wronged: int
    outpaced: int
    hopeless: int


class _Referee:
    """Scores recipes in full in this process, for what no search has scored."""

    def __init__(self, config: SearchConfig) -> None:
        self._evaluator = Evaluator(config.models, config.suite, config.workers)
        self._judge = Judge(config.suite)
        for split in ("dev", "holdout"):
            for name, recipe in source_recipes(config.models).items():
                self._judge.refer(name, split, self._evaluator.evaluate(Job(name, recipe, split)).scores)

    def __call__(self, recipe: str, split: Split) -> Result:
        return self._judge(self._evaluator.evaluate(Job("candidate", recipe, split)), split)


def compare(seed: int, folder: Path, candidates: int = CANDIDATES) -> Comparison:
    """Search twice.

    Args:
        seed: of both searches.
        folder: for the two studies; they share no scores.
        candidates: without racing; with it there are as many as the same number of item evaluations allows.
    """
    words = ["experiment=demo", f"seed={seed}", f"budget.candidates={candidates}"]
    # a folder of its own for each: studies of one folder know each other's scores
    off = search_config([*words, "study=off", f"runs_dir={folder}/off"])
    on = search_config([*words, "study=on", f"runs_dir={folder}/on", RACING])
    launch(off)
    launch(on)
    whole = StudyView(off.folder).candidates()
    budget = sum(each.item_evaluations for each in whole)
    while (spent := _spent(StudyView(on.folder))[-1]) < budget:
        count = len(StudyView(on.folder).candidates())
        resume(on.folder, [f"budget.candidates={count + math.ceil(1.05 * count * (budget - spent) / spent)}"])
    study = StudyView(on.folder)
    costs = _spent(study)
    raced = [each for each, cost in zip(study.candidates(), costs, strict=True) if cost <= budget]
    referee = _Referee(off)
    best = best_of(whole)
    target = math.inf if best is None or best.objective is None else best.objective
    reached = (cost for each, cost in zip(raced, costs, strict=False) if each.feasible and _objective(each) >= target)
    stopped = [(each, referee(each.recipe, "dev").feasible) for each in raced if each.stopped is not None]
    wronged = [each for each, passes in stopped if passes and "gate" in (each.stopped or "")]
    outpaced = [each for each, passes in stopped if passes and "gate" not in (each.stopped or "")]
    return Comparison(
        off=_on_holdout(referee, best),
        on=_on_holdout(referee, best_of(raced)),
        candidates=len(raced),
        share=next(reached, math.inf) / budget,
        passing=len(wronged) + len(outpaced) + sum(each.feasible for each in raced),
        wronged=len(wronged),
        outpaced=len(outpaced),
        hopeless=sum(each.rung == 0 for each in raced),
    )


def _spent(study: StudyView) -> list[int]:
    """Item evaluations until each candidate was done with, those of the sources' reference answers included."""
    before = study.notes().get(ANSWERS, {"item_evaluations": 0})["item_evaluations"]
    return list(accumulate((each.item_evaluations for each in study.candidates()), initial=before))[1:]


def _objective(result: Result) -> float:
    return math.nan if result.objective is None else result.objective


def _on_holdout(referee: _Referee, candidate: Candidate | None) -> float:
    return math.nan if candidate is None else _objective(referee(candidate.recipe, "holdout"))


def _table(comparisons: Sequence[Comparison]) -> Table:
    table = Table(box=None, pad_edge=False)
    titles = (
        "seed",
        "holdout\noff",
        "\non",
        "equal\nafter",
        "raced\n",
        "would\npass",
        "wronged\n",
        "outpaced\n",
        "hopeless\n",
    )
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for seed, each in enumerate(comparisons):
        table.add_row(str(seed), *_cells(each))
    middle = [median(getattr(each, field.name) for each in comparisons) for field in fields(Comparison)]
    table.add_row("median", *_cells(Comparison(*middle)))
    return table


def _cells(comparison: Comparison) -> list[str]:
    each = comparison
    counts = (each.candidates, each.passing, each.wronged, each.outpaced, each.hopeless)
    share = f"{each.share:.0%}" if math.isfinite(each.share) else "never"
    return [f"{each.off:.4f}", f"{each.on:.4f}", share, *(f"{count:g}" for count in counts)]


def main() -> None:
    """Run the comparison and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0")
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help="without racing")
    options = parser.parse_args()
    comparisons = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            comparisons.append(compare(seed, Path(folder), options.candidates))
        Console().print(_table(comparisons))


if __name__ == "__main__":
    main()
