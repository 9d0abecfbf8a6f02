"""Searches whose candidates race."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from evomerge.config import SearchConfig, search_config
from evomerge.errors import StudyError
from evomerge.optimize import Told, TpeConfig, make_optimizer
from evomerge.search.loop import Search, _told
from evomerge.search.outcome import Job
from evomerge.search.progress import SearchProgress
from evomerge.study import MAX_ATTEMPTS, Candidate, Result, Study, StudyView
from evomerge.study.items import candidate_items

RACING = "suite.racing={rungs: [0.3, 0.6, 1.0], keep: 0.5}"
GATES = "suite.tasks=[{name: choice, metric: acc, gate: {at_least: 0.3}}, {name: prose, metric: bits_per_byte}]"
GENERATION = 6  # candidates
DEV = 17  # documents of each task
RUNGS = {"choice": [5, 10, 17], "prose": [5, 10, 17]}


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def config(tiny) -> SearchConfig:
    words = ["models=tiny", "genome=tiny", "suite=tiny", "study=s", "budget.candidates=12", "seed=1"]
    return search_config([*words, f"optimizer.population={GENERATION}", RACING, GATES], tiny)


@pytest.fixture(scope="module")
def pool(config, remembering):
    with remembering(config) as pool:
        yield pool


@pytest.fixture(scope="module")
def session(config, pool, begun, search_of):
    """session(folder, config): a context that makes or opens the study and gives a Search of it."""

    @contextmanager
    def open_search(folder, config=config) -> Iterator[Search]:
        pool.running.clear()
        with begun(folder, config) as study, SearchProgress(12, 0) as progress:
            yield search_of(study, config, pool, progress)

    return open_search


@pytest.fixture(scope="module")
def raced(session, tmp_path_factory):
    folder = tmp_path_factory.mktemp("raced") / "s"
    with session(folder) as search:
        search.run()
    return folder


def found(folder):
    """What must not depend on interruptions."""
    study = StudyView(folder)
    records = [
        (each.state, each.x, each.scores, each.violations, each.objective, each.stopped, each.rung, each.likelihood)
        for each in study.candidates()
    ]
    items = [study.scores(candidate_items(each.number), each) if each.scores else {} for each in study.candidates()]
    return records, items, study.best and study.best.number


def test_few_climb_to_the_top_and_only_they_can_be_best(raced):
    study = StudyView(raced)
    candidates = study.candidates()
    assert {candidate.state for candidate in candidates} == {"complete"}
    top = [candidate for candidate in candidates if candidate.stopped is None]
    assert 0 < len(top) <= len(candidates) / 2
    assert study.best in top
    for candidate in candidates:
        scores = study.scores(candidate_items(candidate.number), candidate)
        counts = {task: len(each.values) for task, each in scores.items()}
        assert counts == {task: sizes[candidate.rung - 1] for task, sizes in RUNGS.items()}
        assert candidate.feasible == (candidate.stopped is None and candidate.gates["choice"])
        # choice pays for what is new; prose is no mean of its items and is scored from the first one on each rung
        paid = RUNGS["choice"][candidate.rung - 1] + sum(RUNGS["prose"][: candidate.rung])
        answers = candidate.item_evaluations - paid
        assert answers in (1, 2)  # of the tasks with references
    best_share = [candidate.objective for candidate in top]
    assert study.best.objective == max(
        each for each, candidate in zip(best_share, top, strict=True) if candidate.feasible
    )


def test_at_the_top_a_score_is_that_of_all_items(raced, pool):
    top = next(candidate for candidate in StudyView(raced).candidates() if candidate.stopped is None)
    whole = pool.evaluator.evaluate(Job("whole", top.recipe)).scores
    assert top.scores["choice"] == whole["choice"].score
    assert top.scores["prose"] == pytest.approx(whole["prose"].score, rel=1e-6)


def first_items(folder):
    """Candidate -> the documents of `choice` on its first rung, of those that a race stopped there."""
    study = StudyView(folder)
    stopped = [each for each in study.candidates() if each.rung == 1]
    return {each.number: study.scores(candidate_items(each.number), each)["choice"].doc_ids for each in stopped}


def test_a_generation_races_over_the_same_documents_and_the_next_over_others(raced):
    items = first_items(raced)
    generations = [{items[number] for number in items if number // GENERATION == place} for place in range(2)]
    assert len(items) > 4
    assert [len(generation) for generation in generations] == [1, 1]
    assert generations[0] != generations[1]


def test_on_few_documents_a_gate_is_missed_by_what_its_interval_misses(raced):
    stopped = [each for each in StudyView(raced).candidates() if each.rung == 1]
    below = [each for each in stopped if each.scores["choice"] < 0.3]
    assert below
    for each in below:  # of five documents none tells 0.3 from less
        assert each.stopped is not None
        assert each.stopped.startswith("not among the best")
        assert (each.limits["choice"], each.violations["choice"]) == (0.3, 0.0)
        assert not each.feasible


def test_another_seed_draws_other_documents(raced, config, session, tmp_path):
    with session(tmp_path / "s", config.model_copy(update={"seed": 2})) as search:
        search.run()
    others = first_items(tmp_path / "s")
    assert set(first_items(raced).values()).isdisjoint(others.values())


def test_a_study_that_raced_over_one_order_is_refused(session, tmp_path):
    with session(tmp_path / "s") as search:
        search.study.note("answers", {"floor": None, "item_evaluations": 0})
        with pytest.raises(StudyError) as error:
            search.run()
    assert "raced over another order of the documents" in str(error.value)
    assert "start a new study" in str(error.value)
    assert "\n" not in str(error.value)


def test_killed_at_any_write_it_ends_like_one_left_alone(raced, session, tmp_path, monkeypatch):
    expected, recording = found(raced), Study._recording
    writes = 0

    def dying(self):
        nonlocal writes
        writes -= 1
        if writes == 0:
            raise Killed
        return recording(self)

    with monkeypatch.context() as patch:
        patch.setattr(Study, "_recording", dying)
        with session(tmp_path / "counted") as search:
            search.run()
    total = -writes
    assert total > 60
    for moment in random.Random(0).sample(range(25, total), 6):
        folder = tmp_path / f"killed-{moment}"
        writes = moment
        with monkeypatch.context() as patch, session(folder) as search:
            patch.setattr(Study, "_recording", dying)
            with pytest.raises(Killed):
                search.run()
        with session(folder) as search:
            search.run()
        assert found(folder) == expected, moment


def test_paused_again_and_again_it_ends_like_one_left_alone(raced, session, pool, tmp_path):
    folder, sessions, spent = tmp_path / "s", 0, False
    while not spent:
        with session(folder) as search:
            until = len(pool.scored) + (3 if sessions else 20)  # what rates the sources has to be scored in one go
            search.wish = lambda until=until: "pause" if len(pool.scored) >= until else None
            search.study.begin()
            search.run()
            spent = search.spent
            search.study.end("paused")
        sessions += 1
    assert sessions > MAX_ATTEMPTS
    assert found(folder) == found(raced)
    assert {candidate.attempts for candidate in StudyView(folder).candidates()} == {1}


def test_the_order_in_which_workers_answer_changes_nothing(raced, session, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "workers", 4)
    with session(tmp_path / "s") as search:
        search.run()
    assert found(tmp_path / "s") == found(raced)


@pytest.mark.parametrize("floor", [0.0, None])
def test_hopeless_candidates_are_not_scored_and_without_references_none_is(session, shown, tmp_path, floor):
    folder = tmp_path / "s"
    with session(folder) as search:
        search.study.note("answers", {"floor": floor, "item_evaluations": 0, "order": "generation"})
        search.run()
    candidates = shown(folder)["candidates"]
    assert len(candidates) == 12
    for candidate in candidates:
        assert (candidate["rung"] == 0) == (floor == 0.0)
        if floor == 0.0:  # no likelihood is above 1
            assert candidate["stopped"] == "reference answers are less likely than with any source"
            assert (candidate["state"], candidate["objective"], candidate["feasible"]) == ("complete", None, False)
    likelihoods = {candidate.likelihood for candidate in StudyView(folder).candidates()}
    assert (likelihoods == {None}) == (floor is None)


def test_a_study_that_is_finished_scores_nothing_again(raced, session, pool):
    before = len(pool.scored)
    with session(raced) as search:
        search.run()
    assert len(pool.scored) == before


def test_without_a_generation_candidates_race_against_gates_only(config, session, tiny, tmp_path):
    words = ["models=tiny", "genome=tiny", "suite=tiny", "study=s", "budget.candidates=12", "optimizer=random"]
    asynchronous = search_config([*words, RACING, GATES], tiny)
    with session(tmp_path / "s", asynchronous) as search:
        search.run()
    reasons = {candidate.stopped for candidate in StudyView(tmp_path / "s").candidates()}
    assert None in reasons
    assert not any(reason and reason.startswith("not among the best") for reason in reasons)


def test_no_optimizer_is_told_the_objective_of_part_of_the_documents(session, tiny, tmp_path, monkeypatch):
    words = ["models=tiny", "genome=tiny", "suite=tiny", "study=s", "budget.candidates=12", "seed=1", "optimizer=tpe"]
    config = search_config([*words, RACING, GATES.replace("0.3", "0.6")], tiny)
    told: list[Told] = []
    for _ in range(2):  # the second session tells what is recorded
        with session(tmp_path / "s", config) as search:
            tell = search._optimizer.tell
            monkeypatch.setattr(search._optimizer, "tell", lambda batch, tell=tell: (told.extend(batch), tell(batch)))
            search.run()
    candidates = StudyView(tmp_path / "s").candidates()
    assert {each.stopped is None for each in candidates} == {True, False}
    assert any(each.violation > 0 for each in candidates if each.stopped)
    assert [(one.objective, one.violations) for one in told] == 2 * [
        (None if each.stopped else each.objective, tuple(each.violations.values())) for each in candidates
    ]


def test_what_failed_is_told_without_violations():
    """They may be no numbers: that is a reason to fail."""
    judged = Result(scores={"a": math.nan}, violations={"a": math.nan, "b": 0.1}, objective=math.nan).settled
    failed = Candidate(**vars(judged), number=0, state="failed", x=(0.5,), genome={}, recipe="# recipe")
    told = _told(failed)
    assert (told.objective, told.violations) == (None, ())
    make_optimizer(TpeConfig(), initial=np.array([0.5]), choices=[0], seed=0).tell([told])


@pytest.mark.parametrize("optimizer, draws", [("cma_es", 1), ("random", 6)])
def test_a_gate_that_no_candidate_can_clear_costs_one_rung_each(session, tiny, tmp_path, optimizer, draws):
    words = ["models=tiny", "genome=tiny", "suite=tiny", "study=s", "budget.candidates=6", "seed=1"]
    gates = "suite.tasks=[{name: choice, metric: acc, gate: {at_least: 1.0}}, {name: prose, metric: bits_per_byte}]"
    config = search_config([*words, RACING, gates, f"optimizer={optimizer}"], tiny)
    with session(tmp_path / "s", config) as search:
        search.run()
    study = StudyView(tmp_path / "s")
    assert {candidate.stopped for candidate in study.candidates()} == {"certain to miss the gate of choice"}
    assert {candidate.rung for candidate in study.candidates()} == {1}
    assert all(candidate.violations["choice"] == 1 - candidate.scores["choice"] > 0 for candidate in study.candidates())
    assert study.best is None
    # candidates of no generation race over documents of their own
    assert len(set(first_items(tmp_path / "s").values())) == draws
