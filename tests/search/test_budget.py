"""Searches whose budget changes while they run."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from evomerge.budget import change_budget
from evomerge.config import SearchConfig, search_config, search_config_of
from evomerge.search.drain import Drain
from evomerge.search.finalists import choose_winner
from evomerge.search.loop import Search
from evomerge.search.outcome import Job
from evomerge.search.progress import SearchProgress
from evomerge.study import Study, StudyView
from evomerge.study.items import candidate_items
from evomerge.study.requests import ask_budget

WHOLE = 13  # candidates: one generation of eight, and a part of the next
RACING = "suite.racing={rungs: [0.4, 1.0], keep: 0.5}"


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def pool(tiny, remembering):
    with remembering(read(tiny)) as pool:
        yield pool


@pytest.fixture(autouse=True)
def undisturbed(pool, monkeypatch):
    monkeypatch.setattr(Drain, "LOOK", 0.0)
    pool.before, pool.workers = lambda _: None, 1
    pool.running.clear()


def read(tiny, *overrides: str) -> SearchConfig:
    return search_config(["models=tiny", "genome=tiny", "suite=tiny", "study=s", *overrides], tiny)


@pytest.fixture(scope="module")
def session(pool, begun, search_of):
    """session(folder, config): a Search of a new study, or of the one that is there, under the config that is there."""

    @contextmanager
    def open_search(folder, config: SearchConfig) -> Iterator[Search]:
        drain = Drain()
        with begun(folder, config) as study:
            drain.watch(study.folder)
            config = search_config_of(study.config, "config.yaml")
            with SearchProgress(config.budget.candidates, 0) as progress:
                yield search_of(study, config, pool, progress, drain.wish, budget=drain.budget)

    return open_search


def found(folder) -> list:
    study = StudyView(folder)
    items = [study.scores(candidate_items(each.number), each) if each.scores else {} for each in study.candidates()]
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
def whole(tiny, session, tmp_path_factory) -> Callable[[str], list]:
    """whole(optimizer): what a search finds that has the larger budget from the start, with one worker."""
    known: dict[str, list] = {}

    def search(optimizer: str) -> list:
        if optimizer not in known:
            folder = tmp_path_factory.mktemp("whole") / "s"
            with session(folder, read(tiny, optimizer, f"budget.candidates={WHOLE}")) as search:
                search.run()
            known[optimizer] = found(folder)
        return known[optimizer]

    return search


@pytest.mark.parametrize(("first", "moment", "workers"), [(5, 2, 1), (8, 7, 2), (11, 3, 2), (11, 10, 1), (11, 10, 2)])
def test_raised_at_any_time_it_asks_what_it_would_have_asked(
    tiny, session, pool, whole, tmp_path, first, moment, workers
):
    """Before, in and at the end of the last generation, which the smaller budget may cut off."""
    pool.workers = workers
    with session(tmp_path / "s", read(tiny, f"budget.candidates={first}")) as search:
        pool.before = at(moment, lambda: ask_budget(search.study.folder, {"candidates": WHOLE}))
        search.run()
        assert search.spent
    assert found(tmp_path / "s") == whole("optimizer=cma_es")
    assert StudyView(tmp_path / "s").config["budget"] == {"candidates": WHOLE, "hours": None}


@pytest.mark.parametrize("optimizer", ["optimizer=tpe", "optimizer=random"])
@pytest.mark.parametrize("moment", [0, 4])
def test_an_asynchronous_optimizer_goes_on_asking(tiny, session, pool, whole, tmp_path, optimizer, moment):
    with session(tmp_path / "s", read(tiny, optimizer, "budget.candidates=5")) as search:
        pool.before = at(moment, lambda: ask_budget(search.study.folder, {"candidates": WHOLE}))
        search.run()
    assert found(tmp_path / "s") == whole(optimizer)


def test_killed_when_it_has_taken_it_up_a_resume_ends_alike(tiny, session, pool, whole, tmp_path, monkeypatch):
    change = Study.change_config

    def dying(study, config) -> None:
        change(study, config)
        raise Killed

    folder, config = tmp_path / "s", read(tiny, "budget.candidates=11")
    with monkeypatch.context() as patch, session(folder, config) as search:
        patch.setattr(Study, "change_config", dying)
        pool.before = at(10, lambda: ask_budget(search.study.folder, {"candidates": WHOLE}))
        with pytest.raises(Killed):
            search.run()
    pool.running.clear()
    with session(folder, config) as search:
        search.run()
    assert found(folder) == whole("optimizer=cma_es")


def test_raised_after_a_resume_below_what_was_killed_it_leaves_nobody_out(tiny, session, pool, whole, tmp_path):
    def die(job: Job) -> None:
        if job.number is not None:
            raise Killed

    folder, config = tmp_path / "s", read(tiny, f"budget.candidates={WHOLE}")
    pool.before, pool.workers = die, 8
    with pytest.raises(Killed), session(folder, config) as search:
        search.run()
    assert [each.state for each in search.study.candidates()] == ["running"] * 8
    search.study.change_config(search.study.config | {"budget": {"candidates": 6, "hours": None}})
    pool.running.clear()
    pool.workers = 1
    with session(folder, config) as search:
        pool.before = at(5, lambda: ask_budget(search.study.folder, {"candidates": WHOLE}))
        search.run()
    assert found(folder) == whole("optimizer=cma_es")


def test_a_race_whose_last_generation_was_cut_off_goes_on_as_after_a_resume(tiny, session, pool, tmp_path):
    config = read(tiny, RACING, "budget.candidates=11")
    with session(tmp_path / "resumed", config) as search:
        search.run()
        search.study.change_config(search.study.config | {"budget": {"candidates": 16, "hours": None}})
    with session(tmp_path / "resumed", config) as search:
        search.run()
    with session(tmp_path / "raised", config) as search:
        pool.before = lambda job: job.number == 10 and ask_budget(search.study.folder, {"candidates": 16})
        search.run()
    assert len(found(tmp_path / "raised")) == 16
    assert {each.state for each in StudyView(tmp_path / "raised").candidates()} == {"complete"}
    assert found(tmp_path / "raised") == found(tmp_path / "resumed")


@pytest.mark.parametrize("optimizer", ["optimizer=cma_es", "optimizer=random"])
def test_lowered_it_ends_after_what_has_begun(tiny, session, pool, whole, tmp_path, optimizer):
    pool.workers = 3
    with session(tmp_path / "s", read(tiny, optimizer, f"budget.candidates={WHOLE}")) as search:
        pool.before = lambda job: job.number is not None and ask_budget(search.study.folder, {"candidates": 2})
        search.run()
        assert search.spent
    assert StudyView(tmp_path / "s").config["budget"]["candidates"] == 3
    assert [record[1] for record, _ in found(tmp_path / "s")] == [record[1] for record, _ in whole(optimizer)[:3]]


def test_more_hours_go_on_after_the_last(tiny, session, pool, tmp_path):
    with session(tmp_path / "s", read(tiny, "budget.candidates=6", "budget.hours=1e-9")) as search:
        pool.before = lambda job: job.name == "base" and ask_budget(search.study.folder, {"hours": None})
        search.run()
        assert search.study.tally.done == 6
    assert StudyView(tmp_path / "s").config["budget"] == {"candidates": 6, "hours": None}


def test_when_the_winner_is_being_chosen_it_is_kept_for_a_resume(tiny, session, pool, tmp_path, capsys):
    with session(tmp_path / "s", read(tiny, "budget.candidates=6")) as search:
        search.run()
        assert search.spent
        pool.before = lambda job: job.split == "holdout" and ask_budget(search.study.folder, {"candidates": 9})
        assert choose_winner(search) is not None
        assert not search.spent
        assert search.study.tally.candidates == 6
    assert "a resume goes on with the rest" in " ".join(capsys.readouterr().err.split())
    with session(tmp_path / "s", read(tiny)) as search:
        pool.before = lambda _: None
        search.run()
        assert search.study.tally.done == 9


def test_who_asks_hears_when_it_is_recorded(tiny, session, pool, tmp_path):
    said: list[str] = []

    def ask() -> None:
        said.append(change_budget(StudyView(tmp_path / "s"), ["budget.candidates=9", "budget.hours=5"]))

    asking = threading.Thread(target=ask)
    with session(tmp_path / "s", read(tiny, "budget.candidates=6")) as search:
        pool.before = at(2, asking.start)
        search.run()
        while asking.is_alive():
            search.take_budget()
        asking.join()
    assert said == ["the budget of study s is now 9 candidates, 5 hours"]
