import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from evomerge.config import SearchConfig
from evomerge.optimize import make_optimizer
from evomerge.search.evaluator import Evaluator
from evomerge.search.loop import Search
from evomerge.search.outcome import Job, Outcome
from evomerge.search.space import genome_of
from evomerge.study import Environment, Study, describe_environment
from fitness.racing import Course


class RememberingPool:
    """Workers in this process that score a job once only and hand jobs back in any order.

    `before` is called with each job that is about to be handed back.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.known: dict[str, Outcome] = {}
        self.scored: list[Job] = []
        self.workers = 1
        self.running: list[Job] = []
        self.before: Callable[[Job], None] = lambda _: None
        self._generator = random.Random(0)

    @property
    def free(self) -> int:
        return self.workers - self.busy

    @property
    def busy(self) -> int:
        return len(self.running)

    def submit(self, job: Job) -> None:
        assert self.free > 0
        self.running.append(job)

    def wait(self, timeout: float) -> list[tuple[Job, Outcome]]:
        job = self.running.pop(self._generator.randrange(self.busy))
        self.before(job)
        key = repr((job.recipe, job.split, job.items, job.answers, job.folder))
        if key not in self.known:
            self.known[key] = self.evaluator.evaluate(job)
            assert self.known[key].reason is None
        self.scored.append(job)
        return [(job, self.known[key])]


@pytest.fixture(scope="session")
def remembering():
    """remembering(config): a context that gives a `RememberingPool` for the models and the suite of a config."""

    @contextmanager
    def remembering(config: SearchConfig) -> Iterator[RememberingPool]:
        threads = torch.get_num_threads()
        yield RememberingPool(Evaluator(config.models, config.suite, config.workers))
        torch.set_num_threads(threads)

    return remembering


@pytest.fixture(scope="session")
def begun():
    """begun(folder, config): the study there, open; a new one under this config if there is none."""

    def begun(folder: Path, config: SearchConfig) -> Study:
        if not folder.exists():
            document = config.model_copy(update={"study": folder.name}).model_dump(mode="json")
            Study.create(folder, document, describe_environment({}, {})).close()
        return Study.open(folder)

    return begun


@pytest.fixture(scope="session")
def search_of():
    """search_of(study, config, pool, progress, ...): a fresh `Search` of an open study by a `RememberingPool`."""

    def search_of(study, config: SearchConfig, pool: RememberingPool, progress, wish=lambda: None, **more) -> Search:
        harness = pool.evaluator.harness
        genome = genome_of(config, pool.evaluator.checkpoints[config.models.base.ref])
        optimizer = make_optimizer(config.optimizer, initial=genome.initial, choices=genome.choices, seed=config.seed)
        course = Course(harness.orders, harness.raceable, harness.additive)
        return Search(config, study, genome, optimizer, pool, progress, wish, course, **more)

    return search_of


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    """A new study without a candidate, open."""
    environment = Environment(python="", platform="", packages={}, models=())
    with Study.create(tmp_path / "night", {"study": "night"}, environment) as study:
        yield study
