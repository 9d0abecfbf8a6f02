"""What a search would be, without starting it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from evomerge.config import SearchConfig, search_config_of
from evomerge.errors import OneLineError
from evomerge.genome import Genome
from evomerge.merge import preflight
from evomerge.optimize import make_optimizer
from evomerge.search.baselines import source_recipes, uniform_recipes
from evomerge.search.preparation import prepare_new
from evomerge.search.workers import require_answer, require_room
from evomerge.study import StudyView
from evomerge.study.folder import StudyFolder, folders_in
from evomerge.study.status import duration

FEW_GENERATIONS = 10  # below which a generation-based optimizer has hardly begun to learn


class TaskItems(BaseModel):
    """How many documents a task is scored on, of each split."""

    model_config = ConfigDict(frozen=True)

    dev: int
    holdout: int


class DryRun(BaseModel):
    """A search that could be started. Keys may be added, not renamed.

    Attributes:
        folder: where the study would lie.
        dimensions: of the space that is searched.
        names: of the dimensions, in order.
        candidates: the budget.
        generation: candidates of the first generation; null where the optimizer asks for one at a time.
        generations: that the budget allows, if all are of that size; null where there are none.
        baselines: that are scored first.
        tasks: task -> its documents.
        workers: how many candidates are scored at a time.
        warnings: what to know before it is started.
        estimated_hours: until the budget is used up, at the pace of earlier studies of these models on this suite, by
            workers of the same kind and, if there are such, as many; null if there are none.
        estimated_from: the names of those studies.
        hint: how to find out, where there are none.
    """

    model_config = ConfigDict(frozen=True)

    study: str
    folder: str
    dimensions: int
    names: tuple[str, ...]
    candidates: int
    generation: int | None
    generations: int | None
    baselines: tuple[str, ...]
    tasks: dict[str, TaskItems]
    workers: int
    warnings: tuple[str, ...]
    estimated_hours: float | None
    estimated_from: tuple[str, ...]
    hint: str | None


def dry_run(config: SearchConfig) -> DryRun:
    """Check a search as `launch` would, and tell what it would do. Nothing is started and nothing is written.

    Raises:
        OneLineError: what `launch` would refuse it for.
    """
    prepared = prepare_new(config)
    if config.workers.address is None:
        here = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.accelerator.device_count())}
        require_room(config.workers, [here])
    else:
        require_answer(config.workers.address)
    genome, harness = prepared.genome, prepared.harness
    baselines = (*source_recipes(config.models), *uniform_recipes(config.models))
    size = _generation(config, genome)
    generations = None if size is None else config.budget.candidates // size
    warnings = list(preflight(genome.recipe(genome.initial), scan=False).warnings)
    if generations is not None and generations < FEW_GENERATIONS:
        warnings.append(
            f"{config.budget.candidates} candidates are fewer than {FEW_GENERATIONS} generations of {size}: "
            f"{config.optimizer.kind} learns little from so few"
        )
    if harness.benchmarks:
        warnings.append(f"public benchmarks would steer this search: {', '.join(harness.benchmarks)}")
    workers = config.workers
    if workers.address is not None:
        warnings.append(f"the cluster at {workers.address} was not asked whether it has room for the workers")
    paces = _paces(config)
    hours = None
    if paces:
        seconds = median(second for pace in paces for second in pace.seconds)
        hours = seconds * (config.budget.candidates + len(baselines)) / workers.count / 3600
        hours = min(hours, config.budget.hours or hours)
        if others := sorted({pace.workers for pace in paces} - {workers.count}):
            warnings.append(
                f"the time is at the pace of workers.count={' and '.join(map(str, others))}, not {workers.count}: "
                "workers on one machine slow each other down"
            )
    return DryRun(
        study=config.study,
        folder=str(config.folder),
        dimensions=genome.dimension,
        names=tuple(genome.space),
        candidates=config.budget.candidates,
        generation=size,
        generations=generations,
        baselines=baselines,
        tasks={
            task: TaskItems(dev=len(splits["dev"]), holdout=len(splits["holdout"]))
            for task, splits in harness.documents.items()
        },
        workers=workers.count,
        warnings=tuple(warnings),
        estimated_hours=hours,
        estimated_from=tuple(pace.study for pace in paces),
        hint=None if paces else "evomerge bench candidate, with the same overrides, measures what a candidate costs",
    )


def dry_run_table(document: DryRun) -> Sequence[RenderableType]:
    """The same for a terminal."""
    hours = document.estimated_hours
    time = f"not known; {document.hint}"
    if hours is not None:
        time = f"about {duration(3600 * hours)}, at the pace of {', '.join(document.estimated_from)}"
    generations = "" if document.generation is None else f", in generations of {document.generation}"
    tasks = [f"{task}: {items.dev} dev, {items.holdout} holdout" for task, items in document.tasks.items()]
    table = Table.grid(padding=(0, 2))
    for name, value in (
        ("study", document.folder),
        ("dimensions", f"{document.dimensions}: {', '.join(document.names)}"),
        ("candidates", f"{document.candidates}{generations}, {document.workers} at a time"),
        ("baselines", ", ".join(document.baselines)),
        ("documents", "; ".join(tasks)),
        ("time", time),
    ):
        table.add_row(Text(name, "bold"), Text(value))
    return [table, *(Text(f"warning: {warning}", "yellow") for warning in document.warnings)]


def _generation(config: SearchConfig, genome: Genome) -> int | None:
    optimizer = make_optimizer(config.optimizer, initial=genome.initial, choices=genome.choices, seed=config.seed)
    return None if optimizer.asynchronous else len(optimizer.ask())


@dataclass(frozen=True)
class _Pace:
    """Of a study: the seconds of each candidate that it merged and scored, and by how many workers at a time."""

    study: str
    workers: int
    seconds: list[float]


def _paces(config: SearchConfig) -> list[_Pace]:
    """Of studies of the same models and suite by workers of the same kind; of as many workers, if there are such."""
    same = _paced_by(config)
    paces = []
    for folder in folders_in(config.runs_dir):
        try:
            recorded = search_config_of(StudyFolder(folder).read_config(), str(folder))
            if _paced_by(recorded) != same:
                continue
            candidates = StudyView(folder).candidates()
        except OneLineError:  # a broken study has no say
            continue
        seconds = [each.seconds for each in candidates if each.seconds and not each.cached and each.reason is None]
        if seconds:
            paces.append(_Pace(folder.name, recorded.workers.count, seconds))
    return [pace for pace in paces if pace.workers == config.workers.count] or paces


def _paced_by(config: SearchConfig) -> dict[str, Any]:
    """What the time of a candidate depends on, but for how many workers share the machine."""
    return config.model_dump(include={"models": True, "suite": True, "workers": {"device", "cpus", "gpus", "address"}})
