"""What can be known of a search before anything is started: that it fits together, and what it will work on."""

from dataclasses import dataclass

import torch

from evomerge.checkpoint import dtype_of, open_checkpoint
from evomerge.config import SearchConfig
from evomerge.errors import ConfigError
from evomerge.genome import Genome, short_names
from evomerge.merge import LiveModel, make_plan, preflight, resolve_device
from evomerge.recipe import Recipe
from evomerge.search.baselines import source_recipes, uniform_recipes
from evomerge.search.space import genome_of
from evomerge.study import Environment, check_new, describe_environment
from fitness.harness import Harness

NOWHERE = torch.device("meta")  # shapes without memory


@dataclass(frozen=True)
class Prepared:
    """A search that can be started.

    Attributes:
        environment: what it is run with.
        genome: over its models.
        harness: of its suite, without a model.
    """

    environment: Environment
    genome: Genome
    harness: Harness


def prepare_new(config: SearchConfig) -> Prepared:
    """As `prepare`, of a study that is to be made: that it can be, and that no source holds NaN or Inf.

    Raises:
        OneLineError: of the kind that fits; see `evomerge.errors`.
    """
    check_new(config.study, config.runs_dir)
    prepared = prepare(config)
    for name, recipe in source_recipes(config.models).items():
        preflight(Recipe.from_yaml(recipe, name))  # reads every tensor
    return prepared


def prepare(config: SearchConfig) -> Prepared:
    """Find what is wrong with models, tasks, gates and genome, on the CPU.

    Raises:
        OneLineError: of the kind that fits; see `evomerge.errors`.
    """
    if config.workers.address is None:  # a cluster has devices that this machine has not
        resolve_device(config.workers.device)
    models = config.models
    parents = [parent.ref for parent in models.parents]
    config.suite.check_references(short_names(parents))
    checkpoints = {ref: open_checkpoint(ref) for ref in (models.base.ref, *parents)}
    genome = genome_of(config, checkpoints[models.base.ref])
    for name, recipe in (source_recipes(models) | uniform_recipes(models)).items():
        make_plan(Recipe.from_yaml(recipe, name), checkpoints)
    plan = make_plan(genome.recipe(genome.initial), checkpoints)
    live = LiveModel(plan.config, dtype=dtype_of(models.dtype), device=NOWHERE)
    live.check(plan)
    harness = Harness(config.suite)
    _check_place(config, harness)
    described = {str(ref): each for ref, each in checkpoints.items()}
    code = {task: each.digest for task, each in harness.code.items()}
    environment = describe_environment(described, harness.digests, plan.tokenizer.digest(), code)
    harness.check_template(plan.tokenizer.load())
    return Prepared(environment, genome, harness)


def _check_place(config: SearchConfig, harness: Harness) -> None:
    """A study among the files that a task's functions may read would change them as it goes."""
    place = config.folder.resolve()
    for task, code in harness.code.items():
        folder = next((each for each in code.folders if place.is_relative_to(each)), None)
        if folder is not None:
            raise ConfigError(
                "the study lies among the files of a task",
                where=f"task {task}",
                expected=f"a runs_dir outside of {folder}, where the task's functions may read any file",
                found=config.runs_dir,
                remedy="choose another runs_dir, or give the task, its functions and their data a folder of their own",
            )
