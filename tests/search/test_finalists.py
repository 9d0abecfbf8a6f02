"""The end of a search, with the real evaluator in this process and faults where they are wanted."""

from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean

import pytest
import torch
import yaml

from evomerge.cli import main
from evomerge.config import SearchConfig, search_config
from evomerge.errors import ModelError, NothingFeasibleError, ScoringError
from evomerge.optimize import make_optimizer
from evomerge.search.evaluator import Evaluator
from evomerge.search.finalists import _is_rounding, choose_winner
from evomerge.search.judge import Judge
from evomerge.search.loop import MAX_FAILURES, Search
from evomerge.search.outcome import Job, Outcome
from evomerge.search.progress import SearchProgress
from evomerge.search.space import genome_of
from evomerge.study import Study, describe_environment
from evomerge.study.items import baseline_items, candidate_items
from fitness.items import TaskScores
from fitness.racing import Course
from fitness.suite import Holdout, SuiteConfig


class InProcessPool:
    """A pool of one worker that is this process; `faults` maps the name of a job to outcomes that come first."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self.faults: dict[str, list[Outcome]] = {}
        self.names: list[str] = []
        self._job: Job | None = None

    @property
    def free(self) -> int:
        return int(self._job is None)

    @property
    def busy(self) -> int:
        return 1 - self.free

    def submit(self, job: Job) -> None:
        assert self.free
        self._job = job
        self.names.append(job.name)

    def wait(self, timeout: float) -> list[tuple[Job, Outcome]]:
        job, self._job = self._job, None
        assert job is not None
        faults = self.faults.get(job.name, [])
        return [(job, faults.pop(0) if faults else self.evaluator.evaluate(job))]


LOST = Outcome(reason="worker died", lost=True)


@pytest.fixture(scope="module")
def config(tiny) -> SearchConfig:
    return search_config(["models=tiny", "genome=tiny", "suite=tiny", "study=s", "budget.candidates=8"], tiny)


@pytest.fixture(scope="module")
def pool(config) -> Iterator[InProcessPool]:
    threads = torch.get_num_threads()
    yield InProcessPool(Evaluator(config.models, config.suite, config.workers))
    torch.set_num_threads(threads)


@pytest.fixture
def search(config, pool, tmp_path) -> Iterator[Search]:
    pool.faults.clear()
    pool.names.clear()
    checkpoint = pool.evaluator.checkpoints[config.models.base.ref]
    genome = genome_of(config, checkpoint)
    optimizer = make_optimizer(config.optimizer, initial=genome.initial, choices=genome.choices, seed=config.seed)
    environment = describe_environment({}, {})
    with (
        Study.create(tmp_path / "s", config.model_dump(mode="json"), environment) as study,
        SearchProgress(config.budget.candidates, 0) as progress,
    ):
        harness = pool.evaluator.harness
        course = Course(harness.orders, harness.raceable, harness.additive)
        yield Search(config, study, genome, optimizer, pool, progress, lambda: None, course)


def test_the_first_that_clears_every_gate_is_told_of_until_that_is_recorded(search, config, pool, monkeypatch):
    told: list[int] = []
    study, genome, harness = search.study, search._genome, pool.evaluator.harness

    def run() -> None:
        optimizer = make_optimizer(config.optimizer, initial=genome.initial, choices=genome.choices, seed=config.seed)
        course = Course(harness.orders, harness.raceable, harness.additive)
        tell = [lambda candidate: told.append(candidate.number)]
        Search(config, study, genome, optimizer, pool, search.progress, lambda: None, course, *tell).run()

    def killed(name: str, value: object) -> None:
        if name == "told feasible":
            raise KeyboardInterrupt
        Study.note(study, name, value)

    with monkeypatch.context() as patch:
        patch.setattr(study, "note", killed)
        with pytest.raises(KeyboardInterrupt):
            run()
    for _ in range(2):
        run()
    assert len(told) == 2
    assert study.candidate(told[0]).feasible
    assert study.notes()["told feasible"] == told[1]


def test_a_worker_that_dies_at_the_end_costs_nothing(search, pool):
    pool.faults = {name: [LOST] for name in ("base", "uniform", "candidate 3", "export")}
    search.run()
    best = search.study.best.number
    pool.faults[str(best)] = [LOST]
    winner = choose_winner(search)
    assert winner == search.study.winner
    assert not any(pool.faults.values())
    assert pool.names.count(str(best)) == 2
    assert search.study.candidate(3).attempts == 2


def test_what_ends_while_the_search_pauses_is_kept(search, pool, capsys):
    search.wish = lambda: "pause" if len(pool.names) == len(search.sources) else None
    search.run()
    assert [baseline.name for baseline in search.study.baselines()] == pool.names == list(search.sources)
    assert "pausing once the running job is done; Ctrl-C" in capsys.readouterr().err


def test_what_is_left_to_score_on_holdout_is_told(search, pool, capsys):
    search.run()
    due = sorted(search.study.candidates(), key=lambda each: each.floor, reverse=True)[:3]
    pool.faults[str(due[1].number)] = [Outcome(reason="refused")]
    choose_winner(search)
    recipes = len(search.sources) + len(search.uniform) + 3
    numbers = ", ".join(str(each.number) for each in due)
    assert f"holdout: {recipes} recipes, candidates {numbers} among them\n" in capsys.readouterr().err
    choose_winner(search)  # as a resumed session does
    assert f"holdout: 1 recipe, candidate {due[1].number} among them\n" in capsys.readouterr().err
    choose_winner(search)
    assert "holdout: " not in capsys.readouterr().err


def test_a_candidate_that_kills_every_worker_fails(search, pool):
    pool.faults["candidate 2"] = [LOST] * 9
    search.run()
    candidate = search.study.candidate(2)
    assert (candidate.state, candidate.attempts) == ("failed", 5)
    assert len(search.study.candidates()) == 8


def test_candidates_that_all_fail_end_the_search_with_the_reason(search, pool):
    search.config = search.config.model_copy(
        update={"budget": search.config.budget.model_copy(update={"candidates": 99})}
    )
    pool.faults = {f"candidate {number}": [Outcome(reason="disk gone (x)")] for number in range(99)}
    with pytest.raises(ModelError, match=f"{MAX_FAILURES} candidates in a row failed.*disk gone"):
        search.run()
    assert len(search.study.candidates()) == MAX_FAILURES


def test_a_winner_of_an_earlier_session_is_not_lost_to_finalists_that_fail_on_holdout(search, pool):
    search.run()
    ranked = sorted(search.study.candidates(), key=lambda each: each.floor, reverse=True)
    for candidate in ranked[:3]:
        pool.faults[str(candidate.number)] = [Outcome(reason="refused")] * 9
    first = ranked[3]
    outcome = pool.evaluator.evaluate(Job("x", first.recipe, "dev"))
    search.study.add_finalist(str(first.number), first.number, search.judge(outcome, "dev"), outcome.scores)
    assert choose_winner(search) == first
    assert (search.study.folder.best).read_text() == first.recipe


def test_the_lead_of_each_finalist_is_recorded(search):
    search.run()
    winner = choose_winner(search)
    study = search.study
    finalists = {each.name: each for each in study.finalists()}
    parents = [each for each in study.baselines() if each.name in ("first", "second")]
    best_parent = max(parents, key=lambda each: each.objective)
    numbers = [each.number for each in finalists.values() if each.number is not None]
    assert winner.number in numbers
    assert [(each.candidate, each.rival) for each in study.differences()] == [
        (number, rival) for number in numbers for rival in (best_parent.name, "uniform")
    ]
    for each in study.differences():
        ours, theirs = finalists[str(each.candidate)], finalists[each.rival]
        value, low, high = each.objective
        assert value == pytest.approx(ours.objective - theirs.objective)
        assert low < value < high
        assert each.tasks["choice"][0] == pytest.approx(ours.scores["choice"] - theirs.scores["choice"])
        assert each.split == "holdout"
    choose_winner(search)  # as a resumed session does
    assert len(study.differences()) == 2 * len(numbers)


def test_without_holdout_the_lead_is_that_on_dev(search):
    suite = search.config.suite.model_copy(update={"holdout": Holdout(fraction=0)})
    search.run()
    search.config = search.config.model_copy(update={"suite": suite})
    winner = choose_winner(search)
    assert winner == search.study.best
    assert {(each.candidate, each.split) for each in search.study.differences()} == {(winner.number, "dev")}


def test_the_winner_has_the_highest_lower_limit(search, pool):
    """One right answer of one has the higher mean, and the less certain one."""
    search.run()
    ranked = sorted(search.study.candidates(), key=lambda each: each.floor, reverse=True)
    outcome = pool.evaluator.evaluate(Job("x", ranked[0].recipe))
    one = replace(outcome.scores["choice"], doc_ids=(0,), values=(1.0,), score=1.0)
    lucky = search.judge(Outcome(outcome.scores | {"choice": one}), "dev")
    assert lucky.objective > ranked[0].objective
    assert lucky.floor < ranked[0].floor
    number = search.study.start(ranked[0].x, ranked[0].genome, search._genome.space, "# lucky")
    search.study.finish(number, lucky)
    assert search.study.best == ranked[0]
    assert choose_winner(search) == ranked[0]


def test_a_resumed_session_judges_by_the_same_documents(search, pool):
    """A relative gate with confidence pairs items: those in memory and those on disk give the same result."""
    gates = {"choice": {"at_least": 0.5, "of": "best_parent"}, "prose": {"at_most": 1.5, "of": "base"}}
    tasks = [
        {"name": each.name, "metric": each.metric, "gate": gates[each.name] | {"confidence": 0.9}}
        for each in search.config.suite.tasks
    ]
    suite = search.config.suite.model_copy(update={"tasks": SuiteConfig(tasks=tasks).tasks})
    search.run()
    before, after = Judge(suite), Judge(suite)
    for name, recipe in search.sources.items():
        before.refer(name, "dev", pool.evaluator.evaluate(Job(name, recipe)).scores)
        baseline = next(each for each in search.study.baselines() if each.name == name)
        after.refer(name, "dev", search.study.scores(baseline_items(name), baseline))
    outcome = pool.evaluator.evaluate(Job("x", search.uniform["uniform"]))
    result = before(outcome, "dev")
    assert result == after(outcome, "dev")
    assert result.limits.keys() == {"choice", "prose"}
    assert result.limits["choice"] < result.scores["choice"]
    assert result.limits["prose"] > result.scores["prose"]
    assert all(low < result.scores[task] < high for task, (low, high) in result.intervals.items())


def test_no_finalist_clears_the_holdout(search, pool):
    search.run()
    for candidate in search.study.candidates():
        pool.faults[str(candidate.number)] = [Outcome(reason="refused")]
    with pytest.raises(NothingFeasibleError, match="holdout"):
        choose_winner(search)
    assert not search.study.folder.best.exists()
    assert main(["export", str(search.study.folder.path)]) == 3


def test_an_export_that_scores_otherwise_is_not_handed_over(search, pool):
    search.run()
    other = pool.evaluator.evaluate(Job("export", search.sources["second"]))
    pool.faults["export"] = [other]
    with pytest.raises(ScoringError, match="does not score what it scores"):
        choose_winner(search)
    assert search.study.winner is None
    assert not search.study.folder.best.exists()


def test_other_hardware_than_in_an_earlier_session_is_no_mismatch(search, config, pool, capsys):
    """Larger batches sum in another order, as another processor does: log-likelihoods differ in their last bits."""
    search.run()
    best = search.study.best
    suite = config.suite.model_copy(update={"batch_size": 8})
    elsewhere = Evaluator(config.models, suite, config.workers).evaluate(Job("x", best.recipe))
    recorded = search.study.scores(candidate_items(best.number), best)
    assert {task: each.doc_ids for task, each in elsewhere.scores.items()} == {
        task: each.doc_ids for task, each in recorded.items()
    }
    assert any(each.values != recorded[task].values for task, each in elsewhere.scores.items())
    assert elsewhere.means == pytest.approx(best.scores, rel=1e-5)
    pool.faults = {"export": [elsewhere], "live": [elsewhere]}
    assert choose_winner(search) == best
    assert f"candidate {best.number} differs from its record by rounding: choice 0." in capsys.readouterr().err


def test_a_winner_that_no_longer_scores_what_was_recorded_is_not_handed_over(search, pool, config):
    """As after its scores were kept from before the models were changed: the export says the same as the live model."""
    search.run()
    best = search.study.best
    other = pool.evaluator.evaluate(Job("x", search.sources["second"]))
    pool.faults = {"export": [other], "live": [other]}
    both = f"expected .*{best.scores['prose']}.*found .*{other.means['prose']}"
    with pytest.raises(ScoringError, match=rf"does not score what the search recorded.*{both}.*remove .*\.scores and"):
        choose_winner(search)
    assert search.study.winner is None
    assert not search.study.folder.best.exists()


def test_a_winner_that_by_rounding_misses_a_gate_is_not_handed_over(search, pool):
    search.run()
    best = search.study.best
    outcome = pool.evaluator.evaluate(Job("x", best.recipe))
    prose = outcome.scores["prose"]
    near = replace(prose, values=tuple(value * 1.0001 for value in prose.values), score=prose.score * 1.0001)
    gate = {"at_most": (prose.score + near.score) / 2}
    tasks = [
        each.model_copy(update={"gate": type(each.gate)(**gate)}) if each.name == "prose" else each
        for each in search.config.suite.tasks
    ]
    search.judge = Judge(search.config.suite.model_copy(update={"tasks": tuple(tasks)}))
    rounded = replace(outcome, scores=outcome.scores | {"prose": near})
    pool.faults = {"export": [rounded], "live": [rounded]}
    with pytest.raises(ScoringError, match=r"does not score what the search recorded.*misses the gate of prose"):
        choose_winner(search)


@pytest.mark.parametrize(
    "before, after, same",
    [
        ([1.0] * 12 + [0.0] * 12, [1.0] * 13 + [0.0] * 11, True),  # one document
        ([1.0] * 12 + [0.0] * 12, [1.0] * 14 + [0.0] * 10, False),
        ([0.0] * 24, [1.0] + [0.0] * 23, True),
        ([0.0] * 24, [1.0] * 2 + [0.0] * 22, False),
        ([1.0] * 600 + [0.0] * 400, [1.0] * 625 + [0.0] * 375, True),  # of long answers
        ([1.0] * 600 + [0.0] * 400, [1.0] * 660 + [0.0] * 340, False),
    ],
)
def test_what_rounding_may_do_to_a_count(before, after, same):
    ids = tuple(range(len(before)))
    one, other = (TaskScores("t", "acc", ids, tuple(each), fmean(each), True) for each in (before, after))
    assert _is_rounding(one, other) == _is_rounding(other, one) == same


@pytest.mark.parametrize("factor, same", [(1.0, True), (1.001, True), (0.99, True), (1.1, False), (0.8, False)])
def test_what_rounding_may_do_to_a_perplexity(factor, same):
    """Its documents have log-likelihoods, whose range says nothing of a perplexity."""
    one = TaskScores("t", "word_perplexity", (0, 1), (-300.0, -10.0), 12.0, False, weights=(100.0, 5.0))
    assert _is_rounding(one, replace(one, score=12.0 * factor)) == same


def test_an_export_that_cannot_be_checked_says_why(search, pool):
    search.run()
    pool.faults["export"] = [Outcome(reason="timeout: took longer than 5 s")]
    with pytest.raises(ScoringError, match=r"could not be checked.*timeout.*evomerge resume"):
        choose_winner(search)


def test_a_range_that_is_not_known_is_told_once_and_early(search, pool, capsys):
    scores = {name: pool.evaluator.evaluate(Job(name, recipe)).scores for name, recipe in search.sources.items()}
    for name, found in scores.items():
        values = tuple(9 * value for value in found["choice"].values)
        marks = replace(found["choice"], metric="points", values=values, score=fmean(values))
        pool.faults[name] = [Outcome(found | {"choice": marks})]
    search.wish = lambda: "pause" if len(pool.names) == len(search.sources) else None
    for _ in range(2):
        search.run()
    assert capsys.readouterr().err.count("warning: task choice: the range of points is not known") == 1


def test_warnings_of_workers_are_told_once(search, pool, capsys):
    recipe = yaml.safe_load(search.sources["base"])
    outcome = pool.evaluator.evaluate(Job("w", yaml.safe_dump(recipe)))
    warned = Outcome(outcome.scores, outcome.seconds, warnings=("prompts are too long",))
    pool.faults = {name: [warned] for name in ("base", "first", "uniform")}
    search.run()
    assert capsys.readouterr().err.count("warning: prompts are too long") == 1
