"""What a search would be, without starting it."""

import os
from collections.abc import Sequence
from statistics import median

import torch
from pydantic import BaseModel, ConfigDict
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from evomerge.config import SearchConfig
from evomerge.errors import OneLineError
from evomerge.genome import Genome
from evomerge.merge import preflight
from evomerge.optimize import make_optimizer
from evomerge.search.baselines import source_recipes, uniform_recipes
from evomerge.search.preparation import prepare_new
from evomerge.search.workers import require_room
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
        estimated_hours: until the budget is used up, at the pace of earlier studies of these models on this suite;
            null if there are none.
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
    paces = _paces(config)
    hours = None
    if paces:
        seconds = median(second for pace in paces.values() for second in pace)
        hours = seconds * (config.budget.candidates + len(baselines)) / config.workers.count / 3600
        hours = min(hours, config.budget.hours or hours)
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
        workers=config.workers.count,
        warnings=tuple(warnings),
        estimated_hours=hours,
        estimated_from=tuple(paces),
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


def _paces(config: SearchConfig) -> dict[str, list[float]]:
    """Study -> the seconds of each candidate that it merged and scored; of the same models and suite only."""
    same = config.model_dump(mode="json", include={"models", "suite"})
    paces = {}
    for folder in folders_in(config.runs_dir):
        try:
            recorded = StudyFolder(folder).read_config()
            if any(recorded.get(key) != value for key, value in same.items()):
                continue
            candidates = StudyView(folder).candidates()
        except OneLineError:  # a broken study has no say
            continue
        seconds = [each.seconds for each in candidates if each.seconds and not each.cached and each.reason is None]
        if seconds:
            paces[folder.name] = seconds
    return paces
