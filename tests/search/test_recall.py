"""What is scored again, and what is not."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from evomerge.config import SearchConfig, search_config
from evomerge.optimize import make_optimizer
from evomerge.search.baselines import uniform_recipes
from evomerge.search.evaluator import Evaluator
from evomerge.search.finalists import choose_winner
from evomerge.search.loop import Search
from evomerge.search.outcome import Job, Outcome
from evomerge.search.progress import SearchProgress
from evomerge.search.recall import Recall, ScoreKeys
from evomerge.search.space import genome_of
from evomerge.study import Environment, Study
from evomerge.study.cache import ScoreCache
from fitness.harness import Harness
from fitness.items import TaskScores
from fitness.racing import Course

ENVIRONMENT = Environment(python="3.11.9", platform="Linux", packages={"torch": "2.13.0"}, models=())
SCORES = {"choice": TaskScores("choice", "acc", (0, 1), (1.0, 0.0), 0.5, True)}


def read(folder: Path, *overrides: str) -> SearchConfig:
    return search_config(["models=tiny", "genome=tiny", "suite=tiny", "study=s", *overrides], folder)


@pytest.fixture
def place(tiny, family, tmp_path) -> Path:
    """A config folder of its own, with models and tasks that a test may change."""
    shutil.copytree(tiny, tmp_path / "configs")
    shutil.copytree(family, tmp_path / "family")
    models = tmp_path / "configs" / "models" / "tiny.yaml"
    models.write_text(models.read_text().replace(str(family), str(tmp_path / "family")))
    return tmp_path / "configs"


@pytest.fixture
def key(place) -> Callable[..., str]:
    """key(*overrides, recipe=..., split=..., ...): of a job in the place as it is now."""

    def make(*overrides: str, recipe: str | None = None, environment=ENVIRONMENT, **job) -> str:
        config = read(place, *overrides)
        keys = ScoreKeys(config, Harness(config.suite), environment)
        return keys(Job("x", recipe or uniform_recipes(config.models)["dare_ties"], **job))

    return make


def test_another_spelling_of_a_recipe_is_the_same(place, key):
    config = read(place)
    recipe = yaml.safe_load(uniform_recipes(config.models)["dare_ties"])
    recipe["models"] = [{**entry, "model": {"model": {"path": entry["model"]}}} for entry in recipe["models"]]
    turned = dict(reversed(list(recipe.items()))) | {"chat_template": None}
    assert key(recipe="# a comment\n" + yaml.safe_dump(turned, sort_keys=False)) == key()


def test_what_only_judges_scores_does_not_count(key):
    tasks = "suite.tasks=[{name: choice, metric: acc, weight: 2}, {name: prose, metric: bits_per_byte}]"
    others = ("seed=7", "study=t", "budget.candidates=3", "optimizer=tpe", "workers.count=1")
    assert key(tasks, *others) == key()


def test_another_seed_of_dare_is_another_recipe(place, key):
    recipe = yaml.safe_load(uniform_recipes(read(place).models)["dare_ties"])
    first, second = (key(recipe=yaml.safe_dump(recipe | {"parameters": {"random_seed": seed}})) for seed in (1, 2))
    assert first != second


@pytest.mark.parametrize(
    "override",
    [
        "suite.batch_size=2",
        "suite.max_length=64",
        "suite.holdout.seed=1",
        "suite.tasks=[{name: choice, metric: acc}]",
        "suite.tasks=[{name: prose, metric: bits_per_byte}, {name: choice, metric: acc}]",
        "models.dtype=bfloat16",
        "workers.cpus=2",
    ],
)
def test_another_way_of_scoring_counts(key, override):
    assert key(override) != key()


def test_split_and_versions_count(key):
    other = ENVIRONMENT.model_copy(update={"packages": {"torch": "2.14.0"}})
    assert len({key(), key(split="holdout"), key(environment=other)}) == 3


def change_tokenizer(place: Path) -> None:
    path = place.parent / "family" / "base" / "tokenizer.json"
    path.write_text(path.read_text().replace('"</s>"', '"</t>"'))


def change_what_generates(place: Path) -> None:
    (place.parent / "family" / "base" / "generation_config.json").write_text('{"repetition_penalty": 1.3}')


def change_the_middle_of_a_tensor(place: Path) -> None:
    path = place.parent / "family" / "second" / "model.safetensors"
    weights = load_file(path)
    name = max(weights, key=lambda name: weights[name].numel())
    weights[name].view(-1)[weights[name].numel() // 2] += 1
    before = path.stat()
    save_file(weights, path, metadata={"format": "pt"})
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def change_a_task(place: Path) -> None:
    path = place / "tasks" / "choice.yaml"
    path.write_text(path.read_text().replace("{{prompt}}", "{{prompt}} ->"))


def change_a_document(place: Path) -> None:
    path = place / "tasks" / "documents.jsonl"
    path.write_text(path.read_text().replace("cat", "dog", 1))


@pytest.mark.parametrize(
    "change",
    [
        change_tokenizer,
        change_what_generates,
        change_the_middle_of_a_tensor,
        change_a_task,
        change_a_document,
    ],
)
def test_what_a_score_is_made_of_counts(place, key, change):
    before = key()
    change(place)
    assert key() != before


@pytest.mark.parametrize("name", ["own.py", "accepted.json"])
def test_the_code_of_a_task_and_what_it_reads_count(place, key, name):
    tasks = place / "tasks"
    with (tasks / "choice.yaml").open("a") as file:
        file.write("process_results: !function own.results\n")
    (tasks / "own.py").write_text("def results(doc, results):\n    return {'acc': 1.0}\n")
    (tasks / "accepted.json").write_text("[1]")
    before = key()
    with (tasks / name).open("a") as file:
        file.write("\n")
    assert key() != before


@pytest.mark.parametrize("answers", [True, False])
def test_of_some_documents_the_whole_split_counts(place, key, answers):
    """lm-eval draws few-shot examples along the split, so what a document is shown depends on those before it."""
    fractions = [f"suite.holdout.fraction={fraction}" for fraction in (0.3, 0.25)]
    documents = [Harness(read(place, each).suite).documents["choice"]["dev"] for each in fractions]
    items = {"choice": tuple(sorted(set(documents[0]) & set(documents[1])))[-3:]}
    assert documents[0] != documents[1]
    first, second = (key(each, items=items, answers=answers) for each in fractions)
    assert first != second


def test_a_model_that_the_recipe_does_not_name_does_not_count(place, key):
    recipe = f"{{merge_method: passthrough, models: [{{model: {place.parent / 'family' / 'first'}}}]}}"
    before = key(recipe=recipe)
    change_the_middle_of_a_tensor(place)
    assert key(recipe=recipe) == before


class Workers:
    """A pool of `count` workers. What they are given ends when the test says so, or by itself through `evaluate`."""

    def __init__(self, count: int, evaluate: Callable[[Job], Outcome] | None = None) -> None:
        self.count, self.evaluate = count, evaluate
        self.names: list[str] = []
        self.jobs: dict[str, Job] = {}
        self.ended: list[tuple[Job, Outcome]] = []

    @property
    def free(self) -> int:
        return self.count - self.busy

    @property
    def busy(self) -> int:
        return len(self.jobs) + len(self.ended)

    def submit(self, job: Job) -> None:
        assert self.free
        self.names.append(job.name)
        self.jobs[job.name] = job
        if self.evaluate is not None:
            self.end(job.name, self.evaluate(job))

    def end(self, name: str, outcome: Outcome) -> None:
        self.ended.append((self.jobs.pop(name), outcome))

    def wait(self, timeout: float) -> list[tuple[Job, Outcome]]:
        ended, self.ended = self.ended, []
        return ended


@pytest.fixture
def recall(tmp_path) -> Callable[[Workers], Recall]:
    return lambda workers: Recall(workers, ScoreCache(tmp_path), lambda job: job.recipe)  # type: ignore[arg-type]


def test_a_known_job_is_handed_back_and_takes_a_place_until_then(recall):
    workers = Workers(1)
    pool = recall(workers)
    pool.submit(Job("first", "a"))
    workers.end("first", Outcome(scores=SCORES, seconds={"merge": 1.0, "score": 2.0}))
    ((_, scored),) = pool.wait(1.0)
    pool.submit(Job("second", "a"))
    assert (pool.free, pool.busy) == (0, 1)
    ((job, outcome),) = pool.wait(1.0)
    assert (pool.free, pool.busy) == (1, 0)
    assert (job.name, outcome.scores, list(outcome.seconds)) == ("second", scored.scores, ["cached"])
    assert workers.names == ["first"]


def test_what_is_to_be_fresh_is_scored_and_not_kept(recall):
    workers = Workers(1, lambda job: Outcome(scores=SCORES))
    pool = recall(workers)
    for name, fresh in (("export", True), ("live", False), ("again", True)):
        pool.submit(Job(name, "a", fresh=fresh))
        assert [(job.name, outcome.seconds) for job, outcome in pool.wait(1.0)] == [(name, {})]
    assert workers.names == ["export", "live", "again"]


def test_one_of_two_equal_recipes_waits_for_the_other_and_shares_its_fate(recall):
    workers = Workers(3)
    pool = recall(workers)
    for name, recipe in (("first", "a"), ("twin", "a"), ("other", "b")):
        pool.submit(Job(name, recipe))
    assert (pool.free, pool.busy, workers.names) == (0, 3, ["first", "other"])
    workers.end("other", Outcome(scores=SCORES))
    assert [job.name for job, _ in pool.wait(1.0)] == ["other"]
    workers.end("first", Outcome(reason="worker died", lost=True))
    assert [(job.name, outcome.lost) for job, outcome in pool.wait(1.0)] == [("first", True), ("twin", True)]
    assert (pool.free, pool.busy) == (3, 0)
    pool.submit(Job("twin", "a"))  # a failure is not kept
    assert workers.names == ["first", "other", "twin"]


def test_a_recipe_that_cannot_be_read_is_left_to_the_worker(place, tmp_path):
    config = read(place)
    workers = Workers(1)
    pool = Recall(workers, ScoreCache(tmp_path), ScoreKeys(config, Harness(config.suite), ENVIRONMENT))
    pool.submit(Job("x", "merge_method: ["))
    assert workers.names == ["x"]


@pytest.fixture(scope="module")
def evaluator(tiny) -> Iterator[Evaluator]:
    config = read(tiny)
    threads = torch.get_num_threads()
    yield Evaluator(config.models, config.suite, config.workers)
    torch.set_num_threads(threads)


@pytest.fixture
def searched(tiny, evaluator, tmp_path, held) -> Callable[..., tuple[list[str], dict]]:
    """searched(name, *overrides): the jobs that a search gave to its workers, and what its study holds."""

    def search(name: str, *overrides: str) -> tuple[list[str], dict]:
        config = read(tiny, f"study={name}", f"runs_dir={tmp_path}", *overrides)
        checkpoint = evaluator.checkpoints[config.models.base.ref]
        genome = genome_of(config, checkpoint)
        optimizer = make_optimizer(config.optimizer, initial=genome.initial, choices=genome.choices, seed=config.seed)
        workers = Workers(1, evaluator.evaluate)
        harness = evaluator.harness
        pool = Recall(workers, ScoreCache(tmp_path), ScoreKeys(config, harness, ENVIRONMENT))
        with (
            Study.create(config.folder, config.model_dump(mode="json"), ENVIRONMENT) as study,
            SearchProgress(config.budget.candidates, 0) as progress,
        ):
            course = Course(harness.orders, harness.raceable, harness.additive)
            whole = Search(config, study, genome, optimizer, pool, progress, lambda: None, course)
            whole.run()
            choose_winner(whole)
        return workers.names, held(config.folder)

    return search


def test_of_whole_layers_each_recipe_is_scored_once(searched):
    names, holds = searched("s", "genome=whole_layers", "genome.layer_groups=2", "budget.candidates=24")
    recipes = {recipe for _, _, _, recipe, *_ in holds["candidates"]}
    assert len(holds["candidates"]) == 24
    assert len(recipes) == 4  # two groups of layers, two parents
    assert sum(name.startswith("candidate") for name in names) == 4


RACING = "suite.racing={rungs: [0.4, 1.0], keep: 0.5, alpha: 0.05}"


@pytest.mark.parametrize(
    "overrides",
    [("optimizer=cma_es",), ("optimizer=tpe",), ("optimizer=cma_es", RACING)],
    ids=["cma_es", "tpe", "race"],
)
def test_a_second_search_asks_and_finds_the_same_and_scores_the_export_alone(searched, overrides):
    overrides = ("budget.candidates=8", *overrides)
    cold, first = searched("first", *overrides)
    warm, second = searched("second", *overrides)
    assert len(cold) > 8
    assert warm == ["export"]
    assert second == first
