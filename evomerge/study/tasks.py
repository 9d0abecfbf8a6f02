"""The tasks of a study: their gates, the bounds of these, and the scores that bounds refer to."""

from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from evomerge.errors import StudyError, SuiteError
from evomerge.recipe import ModelRef, Recipe
from evomerge.study.document import StudyDocument
from evomerge.study.view import StudyView
from fitness.gates import bounds
from fitness.suite import SuiteConfig


class TaskFacts(BaseModel):
    """A task of the suite and what its dev scores are held against.

    Attributes:
        name: the task.
        metric: its metric; scores, references and bound are in its unit.
        higher_is_better: null until something was scored.
        weight: share in the objective.
        gate: as in the suite, such as ">= 0.98 x best_parent"; null without one.
        bound: the gate's, relative gates resolved; null without a gate or until the base and all parents are scored.
        references: `base` and the parents -> score.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    metric: str
    higher_is_better: bool | None
    weight: float
    gate: str | None
    bound: float | None
    references: dict[str, float]


class _Models(BaseModel):
    parents: tuple[Any, ...]


class _Config(BaseModel):
    """As much of a study's config as its tasks need."""

    models: _Models
    suite: SuiteConfig


def task_facts(study: StudyView, document: StudyDocument) -> tuple[TaskFacts, ...]:
    """The suite's tasks, in its order, with the bounds of their gates on dev.

    Raises:
        StudyError: the study's config is not that of a search.
    """
    config, facts, models = _config(study), study.tasks(), sources(document)
    references = {
        each.name: each.scores for each in document.baselines if each.objective is not None and each.name in models
    }
    resolved: dict[str, float] = {}
    # the best parent is not known before all are
    if len(references) == 1 + len(config.models.parents):
        resolved = {task: bound for task, (bound, _) in bounds(config.suite, references).items()}
    return tuple(
        TaskFacts(
            name=task.name,
            metric=task.metric,
            higher_is_better=facts[task.name]["higher_is_better"] if task.name in facts else None,
            weight=task.weight,
            gate=None if task.gate is None else str(task.gate),
            bound=resolved.get(task.name),
            references={model: scores[task.name] for model, scores in references.items()},
        )
        for task in config.suite.tasks
    )


def sources(document: StudyDocument) -> dict[str, ModelRef]:
    """The base and the parents as they are, which gates may refer to: name of the baseline -> model."""
    models = {baseline.name: _taken_whole(baseline.recipe) for baseline in document.baselines}
    return {name: model for name, model in models.items() if model is not None}


@lru_cache(maxsize=512)  # pages ask again and again
def _taken_whole(recipe: str) -> ModelRef | None:
    """The model that a recipe takes as it is, None if it merges."""
    read = Recipe.from_yaml(recipe)
    return read.inputs[0] if read.merge_method == "passthrough" else None


def _config(study: StudyView) -> _Config:
    try:
        return _Config.model_validate(study.config)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{study.folder.config}: {'.'.join(map(str, first['loc']))}"
        raise StudyError("not the config of a search", where=where, found=first["msg"]) from error
    except SuiteError as error:
        raise StudyError("not the config of a search", where=study.folder.config, found=error) from error
