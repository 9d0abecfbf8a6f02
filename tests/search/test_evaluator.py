import weakref
from pathlib import Path

import pytest
import torch

from evomerge.config import SearchConfig, search_config
from evomerge.merge import LiveModel
from evomerge.merge.stages import Stage
from evomerge.search.baselines import source_recipes, uniform_recipes
from evomerge.search.evaluator import Evaluator, score_model
from evomerge.search.outcome import Job
from fitness.harness import Harness


@pytest.fixture(scope="module")
def config(tiny) -> SearchConfig:
    return search_config(["models=tiny", "genome=tiny", "suite=tiny", "study=s"], tiny)


@pytest.fixture(scope="module")
def evaluator(config) -> Evaluator:
    threads = torch.get_num_threads()
    yield Evaluator(config.models, config.suite, config.workers)
    torch.set_num_threads(threads)


def job(config: SearchConfig, weight: float | str, scale: float = 1.0) -> Job:
    base, first = config.models.base.ref, config.models.parents[0].ref
    recipe = (
        f"{{merge_method: task_arithmetic, base_model: {base}, dtype: float32, "
        f"models: [{{model: {first}, parameters: {{weight: {weight}}}}}], parameters: {{lambda: {scale}}}}}"
    )
    return Job("candidate", recipe)


def test_a_failure_is_a_value_and_the_next_candidate_is_scored_as_ever(config, evaluator):
    before = evaluator.evaluate(job(config, 0.5))
    assert before.reason is None
    assert set(before.seconds) == {"merge", "score"}

    overflowing = evaluator.evaluate(job(config, 3e38, 100.0))
    assert "overflows" in overflowing.reason
    assert overflowing.scores == {}
    not_finite = evaluator.evaluate(job(config, "[{filter: mlp, value: 1.0e+38}, {value: 0.0}]"))
    assert "not finite" in not_finite.reason
    nonsense = evaluator.evaluate(Job("candidate", "merge_method: nonsense"))
    assert nonsense.reason is not None

    assert evaluator.evaluate(job(config, 0.5)).scores == before.scores


def test_out_of_memory_is_a_reason_too(config, evaluator, monkeypatch):
    def exhausted(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(LiveModel, "load", exhausted)
        assert evaluator.evaluate(job(config, 0.5)).reason.startswith("out of memory: CUDA out of memory")
    assert evaluator.evaluate(job(config, 0.5)).reason is None


def test_dev_and_holdout_are_different_documents(config, evaluator):
    recipe = source_recipes(config.models)["base"]
    dev = evaluator.evaluate(Job("base", recipe, "dev")).scores["choice"]
    holdout = evaluator.evaluate(Job("base", recipe, "holdout")).scores["choice"]
    assert sorted((*dev.doc_ids, *holdout.doc_ids)) == list(range(24))
    assert len(holdout.doc_ids) == 7


def test_on_disk_it_scores_as_in_the_live_model(config, evaluator, tmp_path):
    recipes = source_recipes(config.models) | uniform_recipes(config.models)
    for name in ("base", "first", "ties", "dare_ties"):
        live = evaluator.evaluate(Job(name, recipes[name]))
        on_disk = evaluator.evaluate(Job(name, recipes[name], folder=str(tmp_path / name)))
        assert on_disk.reason is None
        assert on_disk.scores == live.scores
        assert (tmp_path / name / "model.safetensors").exists()


def test_tokens_of_its_own_are_scored_live_as_on_disk(config, evaluator, tmp_path):
    plain = job(config, 0.5)
    tokens = "tokenizer: {source: base, tokens: {reen: {source: {kind: zero}}}}"  # found in green, before any merge
    recipe = f"{plain.recipe[:-1]}, {tokens}}}"
    live = evaluator.evaluate(Job("live", recipe))
    on_disk = evaluator.evaluate(Job("disk", recipe, folder=str(tmp_path / "out")))
    assert (live.reason, on_disk.reason) == (None, None)
    assert live.scores == on_disk.scores
    assert live.scores["prose"].values != evaluator.evaluate(plain).scores["prose"].values


def test_uniform_merges_cover_the_plain_ways(config):
    recipes = uniform_recipes(config.models)
    assert list(recipes) == [
        "uniform",
        *(f"task_arithmetic_{scale}" for scale in (0.2, 0.4, 0.6, 0.8)),
        "ties",
        "dare_ties",
    ]
    assert all(
        Path(config.models.base.path).as_posix() in recipe for name, recipe in recipes.items() if name != "uniform"
    )


@pytest.mark.usefixtures("evaluator")  # which puts the number of threads back
def test_what_stages_keep_is_let_go_before_their_recipe_is_scored(config, tmp_path, monkeypatch):
    base, first = config.models.base.ref, config.models.parents[0].ref
    linear = "merge_method: linear, parameters: {weight: 1.0}, models"
    (tmp_path / "recipe.yaml").write_text(
        f"{{name: mean, {linear}: [{{model: {base}}}, {{model: {first}}}]}}\n---\n"
        f"{{name: again, {linear}: [{{model: mean}}, {{model: {base}}}]}}\n---\n"
        f"{{{linear}: [{{model: mean}}, {{model: again}}]}}\n"
    )
    merged, left = [], []

    def read(self, name, read=Stage.read):
        tensor = read(self, name)
        merged.append(weakref.ref(tensor))
        return tensor

    def score(self, split, score=Harness.score):
        left.extend(tensor for tensor in merged if tensor() is not None)
        return score(self, split)

    monkeypatch.setattr(Stage, "read", read)
    monkeypatch.setattr(Harness, "score", score)
    assert score_model(tmp_path / "recipe.yaml", config.suite, config.workers, "dev")
    assert merged
    assert left == []
