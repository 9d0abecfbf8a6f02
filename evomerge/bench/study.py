"""A study of any size whose scores are drawn and not measured, written as a search writes one."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evomerge.checkpoint import open_checkpoint
from evomerge.config import SearchConfig
from evomerge.search.baselines import source_recipes, uniform_recipes
from evomerge.search.judge import Judge
from evomerge.search.outcome import Outcome, Split
from evomerge.search.space import genome_of
from evomerge.study import Result, Study, describe_environment
from fitness.items import Scores, TaskScores
from fitness.suite import Gate, Holdout, SuiteConfig, TaskSpec

TASKS = ("shipping", "refunds", "catalogue")
_DOCUMENTS = {"dev": 120, "holdout": 60}
_FAILING = (50, 100)  # candidates 50, 150, 250, ... fail
_SETTLING = 0.3  # of a search, after which its candidates are half as far from where they end
_REASON = "NaN in its logits"


def synthetic_suite(tasks: int) -> SuiteConfig:
    """A suite of so many tasks, of which all have a gate.

    Args:
        tasks: how many; the first three have the names of the demo's.
    """
    names = [TASKS[index] if index < len(TASKS) else f"task_{index + 1}" for index in range(tasks)]
    gates = [Gate(at_least=0.6), Gate(at_least=0.9, of="best_parent"), Gate(at_least=0.7)]
    specs = [TaskSpec(name=name, metric="acc", gate=gates[index % len(gates)]) for index, name in enumerate(names)]
    return SuiteConfig(tasks=tuple(specs), holdout=Holdout())


def write_study(
    config: SearchConfig, candidates: int, *, items: bool = True, say: Callable[[str], None] = lambda text: None
) -> Path:
    """Write a finished study of drawn scores, by the calls that a search makes; nothing is merged.

    The recipes are those of the config's genome over its models, and come closer to one point as the study goes on.
    Documents are right or wrong at random, the likelier right the nearer a recipe is to that point. The same config
    gives the same scores.

    Args:
        config: gives the folder, the models, the genome and the suite, whose tasks are not looked for; their metrics
            are taken for such as have items of 0 and 1.
        candidates: how many; one in a hundred failed.
        items: keep the scores of every candidate's documents, a file for each; else those of baselines and finalists.
        say: told how far it is.

    Returns:
        The study's folder.

    Raises:
        OneLineError: of the kind that fits; see `evomerge.errors`.
    """
    models = config.models
    checkpoints = {str(ref): open_checkpoint(ref) for ref in (models.base.ref, *(each.ref for each in models.parents))}
    genome = genome_of(config, checkpoints[str(models.base.ref)])
    draw = np.random.default_rng(config.seed)
    shop = _Shop(config.suite, genome.dimension, draw)
    judge = Judge(config.suite)
    sources, uniform = source_recipes(models), uniform_recipes(models)
    with Study.create(config.folder, config.model_dump(mode="json"), describe_environment(checkpoints, {})) as study:
        known = {}
        for place, name in enumerate(sources):
            known[name] = {split: shop.score(_specialist(config.suite, place), split) for split in _SPLITS}
            for split in _SPLITS:
                judge.refer(name, split, known[name][split])
        for name in uniform:
            known[name] = {split: shop.score([0.62] * len(config.suite.tasks), split) for split in _SPLITS}
        for name, recipe in (sources | uniform).items():
            study.add_baseline(name, recipe, judge(_outcome(known[name]["dev"]), "dev"), known[name]["dev"])
        for number, x in enumerate(shop.walk(candidates)):
            study.start(x.tolist(), genome.values(x), genome.space, genome.recipe(x).to_yaml())
            if number % _FAILING[1] == _FAILING[0]:
                study.finish(number, Result(reason=_REASON, timings={"merge": 0.2}))
                continue
            scores = shop.score(shop.skill(x), "dev")
            study.finish(number, judge(_outcome(scores), "dev"), scores if items else None)
            if number % 100 == 0:
                say(f"writing a study: candidate {number} of {candidates}")
        finalists = sorted(
            (each for each in study.candidates() if each.feasible), key=lambda each: each.floor, reverse=True
        )[: config.finalists]
        for name in sources | uniform:
            scores = known[name]["holdout"]
            study.add_finalist(name, None, judge(_outcome(scores), "holdout"), scores)
        for each in finalists:
            scores = shop.score(shop.skill(np.array(each.x)), "holdout")
            study.add_finalist(str(each.number), each.number, judge(_outcome(scores), "holdout"), scores)
        study.end()
    return config.folder


_SPLITS: tuple[Split, Split] = ("dev", "holdout")


class _Shop:
    """What any recipe scores: each task has a part of the dimensions that it depends on, and documents of its own."""

    def __init__(self, suite: SuiteConfig, dimension: int, draw: np.random.Generator) -> None:
        self._tasks = suite.tasks
        self._draw = draw
        self._goal = draw.uniform(0.25, 0.75, dimension)
        self._cares = draw.random((len(suite.tasks), dimension)) < 0.6
        self._hardness = {split: draw.random((len(suite.tasks), count)) for split, count in _DOCUMENTS.items()}

    def walk(self, candidates: int) -> Iterator[NDArray[np.float64]]:
        """Points, (d,) in [0, 1], that come closer to the goal."""
        for number in range(candidates):
            spread = 0.35 * 0.5 ** (number / (_SETTLING * candidates)) + 0.03
            yield np.clip(self._goal + self._draw.normal(0, spread, len(self._goal)), 0, 1)

    def skill(self, x: NDArray[np.float64]) -> list[float]:
        """How likely a document of each task is solved."""
        miss = np.abs(x - self._goal)
        far = np.array([miss[cares].mean() if cares.any() else miss.mean() for cares in self._cares])
        return (0.97 - 1.2 * far).clip(0.05, 0.95).tolist()  # type: ignore[no-any-return]

    def score(self, skill: Sequence[float], split: Split) -> Scores:
        """The documents that a model of this skill solves."""
        scores = {}
        for task, able, hardness in zip(self._tasks, skill, self._hardness[split], strict=True):
            luck = self._draw.normal(0, 0.1, len(hardness))
            values = tuple((hardness + luck < able).astype(float).tolist())
            score = sum(values) / len(values)
            answers = tuple("yes" if value else "no" for value in values)
            scores[task.name] = TaskScores(
                task.name, task.metric, tuple(range(len(values))), values, score, True, answers=answers
            )
        return scores


def _specialist(suite: SuiteConfig, place: int) -> list[float]:
    """The base is poor at everything, each parent good at one task in so many."""
    return [0.85 if place > 0 and index % 3 == place - 1 else 0.3 for index in range(len(suite.tasks))]


def _outcome(scores: Scores) -> Outcome:
    return Outcome(scores=scores, seconds={"merge": 0.2, "score": 1.1})
