"""Searches whose budget changes while they run."""

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch

from evomerge.budget import change_budget
from evomerge.config import SearchConfig, search_config, search_config_of
from evomerge.optimize import make_optimizer
from evomerge.search.drain import Drain
from evomerge.search.evaluator import Evaluator
from evomerge.search.finalists import choose_winner
from evomerge.search.loop import Search
from evomerge.search.outcome import Job, Outcome
from evomerge.search.progress import SearchProgress
from evomerge.search.space import genome_of
from evomerge.study import Study, StudyView, describe_environment
from evomerge.study.items import candidate_items
from evomerge.study.requests import ask_budget
from fitness.racing import Course

WHOLE = 13  # candidates: one generation of eight, and a part of the next
RACING = "suite.racing={rungs: [0.4, 1.0], keep: 0.5}"


class Killed(BaseException):
    pass


class Pool:
    """Workers in this process that score a recipe once only; `before` is called with each job that is about to end."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.known: dict[str, Outcome] = {}
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
        self.running.append(job)

    def wait(self, timeout: float) -> list[tuple[Job, Outcome]]:
        job = self.running.pop(self._generator.randrange(self.busy))
        self.before(job)
        key = repr((job.recipe, job.split, job.items, job.answers, job.folder))
        if key not in self.known:
            self.known[key] = self.evaluator.evaluate(job)
            assert self.known[key].reason is None
        return [(job, self.known[key])]


@pytest.fixture(scope="module")
def pool(tiny) -> Iterator[Pool]:
    threads = torch.get_num_threads()
    config = read(tiny)
    yield Pool(Evaluator(config.models, config.suite, config.workers))
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def undisturbed(pool, monkeypatch):
    monkeypatch.setattr(Drain, "LOOK", 0.0)
    pool.before, pool.workers = lambda _: None, 1
    pool.running.clear()


def read(tiny, *overrides: str) -> SearchConfig:
    return search_config(["models=tiny", "genome=tiny", "suite=tiny", "study=s", *overrides], tiny)


@contextmanager
def session(folder, config: SearchConfig, pool: Pool) -> Iterator[Search]:
    """A search of a new study, or of the one that lies there under the config that lies there."""
    checkpoint, harness = pool.evaluator.checkpoints[config.models.base.ref], pool.evaluator.harness
    if not folder.exists():
        document = config.model_copy(update={"study": folder.name}).model_dump(mode="json")
        Study.create(folder, document, describe_environment({}, {})).close()
    genome = genome_of(config, checkpoint)
    optimizer = make_optimizer(config.optimizer, initial=genome.initial, choices=genome.choices, seed=config.seed)
    drain = Drain()
    with Study.open(folder) as study:
        drain.watch(study.folder)
        config = search_config_of(study.config, "config.yaml")
        with SearchProgress(config.budget.candidates, 0) as progress:
            course = Course(harness.orders, harness.raceable, harness.additive)
            yield Search(config, study, genome, optimizer, pool, progress, drain.wish, course, budget=drain.budget)


def found(folder) -> list:
    study = StudyView(folder)
    items = [study.items(candidate_items(each.number)) if each.scores else {} for each in study.candidates()]
    records = [(each.state, each.x, each.recipe, each.objective, each.violations) for each in study.candidates()]
    return [*zip(records, items, strict=True)]


def at(number: int, act: Callable[[], object]) -> Callable[[Job], None]:
    """Does something while candidate `number` is being scored on all items."""
    left = [act]

    def before(job: Job) -> None:
        if job.number == number and job.items is None and left:
            left.pop()()

    return before


@pytest.fixture(scope="module")
def whole(tiny, pool, tmp_path_factory) -> Callable[[str], list]:
    """whole(optimizer): what a search finds that has the larger budget from the start, with one worker."""
    known: dict[str, list] = {}

    def search(optimizer: str) -> list:
        if optimizer not in known:
            folder = tmp_path_factory.mktemp("whole") / "s"
            with session(folder, read(tiny, optimizer, f"budget.candidates={WHOLE}"), pool) as search:
                search.run()
            known[optimizer] = found(folder)
        return known[optimizer]

    return search


@pytest.mark.parametrize(("first", "moment", "workers"), [(5, 2, 1), (8, 7, 2), (11, 3, 2), (11, 10, 1), (11, 10, 2)])
def test_raised_at_any_time_it_asks_what_it_would_have_asked(tiny, pool, whole, tmp_path, first, moment, workers):
    """Before, in and at the end of the last generation, which the smaller budget may cut off."""
    pool.workers = workers
    with session(tmp_path / "s", read(tiny, f"budget.candidates={first}"), pool) as search:
        pool.before = at(moment, lambda: ask_budget(search.study.folder, {"candidates": WHOLE}))
        search.run()
        assert search.spent
    assert found(tmp_path / "s") == whole("optimizer=cma_es")
    assert StudyView(tmp_path / "s").config["budget"] == {"candidates": WHOLE, "hours": None}


@pytest.mark.parametrize("optimizer", ["optimizer=tpe", "optimizer=random"])
@pytest.mark.parametrize("moment", [0, 4])
def test_an_asynchronous_optimizer_goes_on_asking(tiny, pool, whole, tmp_path, optimizer, moment):
    with session(tmp_path / "s", read(tiny, optimizer, "budget.candidates=5"), pool) as search:
        pool.before = at(moment, lambda: ask_budget(search.study.folder, {"candidates": WHOLE}))
        search.run()
    assert found(tmp_path / "s") == whole(optimizer)


def test_killed_when_it_has_taken_it_up_a_resume_ends_alike(tiny, pool, whole, tmp_path, monkeypatch):
    change = Study.change_config

    def dying(study, config) -> None:
        change(study, config)
        raise Killed

    folder, config = tmp_path / "s", read(tiny, "budget.candidates=11")
    with monkeypatch.context() as patch, session(folder, config, pool) as search:
        patch.setattr(Study, "change_config", dying)
        pool.before = at(10, lambda: ask_budget(search.study.folder, {"candidates": WHOLE}))
        with pytest.raises(Killed):
            search.run()
    pool.running.clear()
    with session(folder, config, pool) as search:
        search.run()
    assert found(folder) == whole("optimizer=cma_es")


def test_raised_after_a_resume_below_what_was_killed_it_leaves_nobody_out(tiny, pool, whole, tmp_path):
    def die(job: Job) -> None:
        if job.number is not None:
            raise Killed

    folder, config = tmp_path / "s", read(tiny, f"budget.candidates={WHOLE}")
    pool.before, pool.workers = die, 8
    with pytest.raises(Killed), session(folder, config, pool) as search:
        search.run()
    assert [each.state for each in search.study.candidates()] == ["running"] * 8
    search.study.change_config(search.study.config | {"budget": {"candidates": 6, "hours": None}})
    pool.running.clear()
    pool.workers = 1
    with session(folder, config, pool) as search:
        pool.before = at(5, lambda: ask_budget(search.study.folder, {"candidates": WHOLE}))
        search.run()
    assert found(folder) == whole("optimizer=cma_es")


def test_a_race_whose_last_generation_was_cut_off_goes_on_as_after_a_resume(tiny, pool, tmp_path):
    config = read(tiny, RACING, "budget.candidates=11")
    with session(tmp_path / "resumed", config, pool) as search:
        search.run()
        search.study.change_config(search.study.config | {"budget": {"candidates": 16, "hours": None}})
    with session(tmp_path / "resumed", config, pool) as search:
        search.run()
    with session(tmp_path / "raised", config, pool) as search:
        pool.before = lambda job: job.number == 10 and ask_budget(search.study.folder, {"candidates": 16})
        search.run()
    assert len(found(tmp_path / "raised")) == 16
    assert {each.state for each in StudyView(tmp_path / "raised").candidates()} == {"complete"}
    assert found(tmp_path / "raised") == found(tmp_path / "resumed")


@pytest.mark.parametrize("optimizer", ["optimizer=cma_es", "optimizer=random"])
def test_lowered_it_ends_after_what_has_begun(tiny, pool, whole, tmp_path, optimizer):
    pool.workers = 3
    with session(tmp_path / "s", read(tiny, optimizer, f"budget.candidates={WHOLE}"), pool) as search:
        pool.before = lambda job: job.number is not None and ask_budget(search.study.folder, {"candidates": 2})
        search.run()
        assert search.spent
    assert StudyView(tmp_path / "s").config["budget"]["candidates"] == 3
    assert [record[1] for record, _ in found(tmp_path / "s")] == [record[1] for record, _ in whole(optimizer)[:3]]


def test_more_hours_go_on_after_the_last(tiny, pool, tmp_path):
    with session(tmp_path / "s", read(tiny, "budget.candidates=6", "budget.hours=1e-9"), pool) as search:
        pool.before = lambda job: job.name == "base" and ask_budget(search.study.folder, {"hours": None})
        search.run()
        assert search.study.tally.done == 6
    assert StudyView(tmp_path / "s").config["budget"] == {"candidates": 6, "hours": None}


def test_when_the_winner_is_being_chosen_it_is_kept_for_a_resume(tiny, pool, tmp_path, capsys):
    with session(tmp_path / "s", read(tiny, "budget.candidates=6"), pool) as search:
        search.run()
        assert search.spent
        pool.before = lambda job: job.split == "holdout" and ask_budget(search.study.folder, {"candidates": 9})
        assert choose_winner(search) is not None
        assert not search.spent
        assert search.study.tally.candidates == 6
    assert "a resume goes on with the rest" in " ".join(capsys.readouterr().err.split())
    with session(tmp_path / "s", read(tiny), pool) as search:
        pool.before = lambda _: None
        search.run()
        assert search.study.tally.done == 9


def test_who_asks_hears_when_it_is_recorded(tiny, pool, tmp_path):
    said: list[str] = []

    def ask() -> None:
        said.append(change_budget(StudyView(tmp_path / "s"), ["budget.candidates=9", "budget.hours=5"]))

    asking = threading.Thread(target=ask)
    with session(tmp_path / "s", read(tiny, "budget.candidates=6"), pool) as search:
        pool.before = at(2, asking.start)
        search.run()
        while asking.is_alive():
            search.take_budget()
        asking.join()
    assert said == ["the budget of study s is now 9 candidates, 5 hours"]
