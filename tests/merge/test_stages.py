"""Stages: later documents read the results of earlier ones as if these had been merged to disk first."""

import json
import weakref
from collections import Counter

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from evomerge.checkpoint.checkpoint import StoredCheckpoint
from evomerge.errors import ModelError, NonFiniteError, RecipeError, UsageError
from evomerge.merge import (
    LiveModel,
    Sources,
    StatisticsCache,
    make_plan,
    merge_to_disk,
    open_sources,
    preflight,
    steps,
    stream,
)
from evomerge.merge.stages import Stage
from evomerge.recipe import ModelRef, Recipe

CPU = torch.device("cpu")


def chain(*documents):
    return Recipe.from_yaml("---\n".join(yaml.safe_dump(document) for document in documents))


def models(*names):
    return [{"model": str(name)} for name in names]


@pytest.fixture
def recipe(untied):
    """A mean of two, moved back to the base by TIES, and that stacked on one parent: three stages, two of them read."""
    mean = {"name": "mean", "merge_method": "linear", "models": models(untied["one"], untied["two"])}
    ties = {"name": "trimmed", "merge_method": "ties", "base_model": str(untied["base"]), "models": models("mean")}
    last = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "trimmed", "layer_range": [0, 2]}]},
            {"sources": [{"model": "mean", "layer_range": [2, 3]}]},
            {"sources": [{"model": str(untied["one"]), "layer_range": [0, 3]}]},
        ],
    }
    return chain(
        mean | {"parameters": {"weight": 1.0}, "dtype": "float32"},
        ties | {"parameters": {"weight": 0.7, "density": 0.5}, "dtype": "bfloat16"},
        last | {"dtype": "float32"},
    )


def test_it_is_what_intermediate_checkpoints_give(recipe, tmp_path):
    merge_to_disk(recipe, tmp_path / "at_once", device="cpu")
    for step in steps(recipe, tmp_path / "in_turn", tmp_path / "stages"):
        merge_to_disk(step.recipe, step.out, device="cpu", card=step.card)
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("at_once", "in_turn"))
    assert found.keys() == expected.keys()
    assert len(found) == 6 * 9 + 3
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    config = json.loads((tmp_path / "at_once" / "config.json").read_text())
    assert config == json.loads((tmp_path / "in_turn" / "config.json").read_text())
    assert config["num_hidden_layers"] == 6
    assert (tmp_path / "at_once" / "tokenizer.json").read_bytes() == (
        tmp_path / "in_turn" / "tokenizer.json"
    ).read_bytes()


def test_the_cards_of_steps_name_the_models_and_not_the_folders(recipe, untied, tmp_path):
    card = (merge_to_disk(recipe, tmp_path / "out", device="cpu"), (tmp_path / "out" / "README.md").read_text())[1]
    trimmed, last = [step.card for step in steps(recipe, tmp_path / "again" / "out", tmp_path / "kept")][1:]
    assert last == card
    assert all(f"| {untied[name]} |" in trimmed for name in ("base", "one", "two"))
    assert str(tmp_path / "kept") not in trimmed


@pytest.mark.parametrize("out", ["kept/mean", "kept/mean/out", "kept", "full"])
def test_the_folders_of_steps_are_checked_before_the_first(recipe, tmp_path, out):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="output exists" if out == "full" else "one output lies in another"):
        steps(recipe, tmp_path / out, tmp_path / "kept")
    (tmp_path / "kept" / "trimmed" / "x").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"output exists .*kept/trimmed"):
        steps(recipe, tmp_path / "out", tmp_path / "kept")


def test_a_late_recipe_that_cannot_be_merged_is_told_before_the_first_step(recipe, untied, tmp_path):
    good = {"name": "good", "merge_method": "linear", "parameters": {"weight": 1.0}, "models": models(untied["one"])}
    bad = {"merge_method": "slerp", "base_model": "good", "models": models(untied["one"])}
    with pytest.raises(RecipeError, match="t missing"):
        steps(chain(good, bad), tmp_path / "out", tmp_path / "kept")


def test_a_live_model_takes_them_too(recipe, tmp_path):
    merge_to_disk(recipe, tmp_path / "out", device="cpu")
    checkpoints = open_sources(recipe)
    plan = make_plan(recipe, checkpoints)
    live = LiveModel(plan.config, dtype=torch.float32, device=CPU)
    live.load(plan, stream(plan, Sources(checkpoints, CPU), device=CPU, statistics=StatisticsCache()))
    for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items():
        assert torch.equal(live.model.state_dict()[name], tensor)


def test_the_card_and_the_preflight_name_the_models_and_not_the_stages(recipe, untied, tmp_path):
    merge_to_disk(recipe, tmp_path / "out", device="cpu")
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(f"| {untied[name]} |" in card for name in ("base", "one", "two"))
    assert "| mean |" not in card
    assert card.count("merge_method:") == 3
    found = preflight(recipe)
    assert {model.model: model.role for model in found.models if model.role == "stage"} == {
        "mean": "stage",
        "trimmed": "stage",
    }
    assert found.layers == 6
    assert str(found).startswith("passthrough: 3 models -> ")
    assert sum("states no licence" in warning for warning in found.warnings) == 3


def test_a_stage_reads_like_a_checkpoint(recipe, untied):
    checkpoints = open_sources(recipe)
    stage = checkpoints[ModelRef("mean")]
    assert isinstance(stage, Stage)
    name = "model.layers.1.mlp.up_proj.weight"
    one, two = (load_file(untied[each] / "model.safetensors")[name] for each in ("one", "two"))
    torch.testing.assert_close(stage.read(name), (one + two) / 2)
    assert stage.headers[name].shape == (24, 16)
    assert checkpoints[ModelRef("trimmed")].headers[name].dtype == torch.bfloat16
    with pytest.raises(ModelError, match=r"tensor missing \(mean\): expected nothing"):
        stage.read("nothing")


def test_digests_tell_stages_apart(untied):
    def digest(weight):
        stage = {"name": "s", "merge_method": "linear", "parameters": {"weight": weight, "normalize": False}}
        last = {"merge_method": "passthrough", "models": models("s")}
        return open_sources(chain(stage | {"models": models(untied["one"])}, last))[ModelRef("s")].digest()

    assert digest(0.5) == digest(0.5) != digest(0.6)


def test_licences_of_a_stage(make_llama):
    folders = [make_llama(name) for name in ("a", "b")]
    for folder in folders:
        (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    stage = {"name": "s", "merge_method": "linear", "parameters": {"weight": 1.0}, "models": models(*folders)}
    recipe = chain(stage, {"merge_method": "passthrough", "models": models("s")})
    assert open_sources(recipe)[ModelRef("s")].licence == "mit"
    (folders[1] / "README.md").write_text("---\nlicense: gpl-3.0\n---\n")
    assert open_sources(recipe)[ModelRef("s")].licence is None


def test_warnings_of_stages_are_told(untied):
    stage = {"name": "s", "merge_method": "task_arithmetic", "base_model": str(untied["base"])}
    stage |= {"models": models(untied["one"]), "parameters": {"weight": 1.0, "density": 0.5}}
    unused = {"name": "idle", "merge_method": "passthrough", "models": models(untied["one"])}
    recipe = chain(stage, unused, {"merge_method": "passthrough", "models": models("s")})
    warnings = make_plan(recipe, open_sources(recipe)).warnings
    assert "stage s: parameters: density has no effect on task_arithmetic" in warnings
    assert "stage idle is not used" in warnings


def test_an_error_inside_a_stage(make_llama, untied, tmp_path):
    folder = make_llama("parent")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    stage = {"name": "s", "merge_method": "linear", "parameters": {"weight": 1.0}, "models": models(folder)}
    recipe = chain(stage, {"merge_method": "passthrough", "models": models("s")})
    with pytest.raises(NonFiniteError, match=rf"NaN or Inf in a model \({folder}: model.norm.weight\)"):
        merge_to_disk(recipe, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_an_unknown_stage(untied):
    stage = {"name": "mean", "merge_method": "linear", "parameters": {"weight": 1.0}, "models": models(untied["one"])}
    recipe = chain(stage, {"merge_method": "passthrough", "models": models("maen")})
    with pytest.raises(RecipeError, match=r"neither a stage nor a model: found maen; did you mean 'mean'\?"):
        open_sources(recipe)


def test_a_stage_with_a_vocabulary_of_its_own(make_llama, tmp_path):
    words = [f"w{index}" for index in range(24)]
    folders = [make_llama("a", 1), make_llama("b", 2, vocab_size=26, words=[*words, "ship", "refund"])]
    stage = {"name": "both", "merge_method": "linear", "parameters": {"weight": 1.0}, "models": models(*folders)}
    last = {"merge_method": "linear", "parameters": {"weight": 1.0}, "models": models("both", folders[1])}
    recipe = chain(stage | {"tokenizer": {"source": "union"}, "dtype": "float32"}, last)
    merge_to_disk(recipe, tmp_path / "at_once", device="cpu")
    for step in steps(recipe, tmp_path / "in_turn", tmp_path):
        merge_to_disk(step.recipe, step.out, device="cpu")
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("at_once", "in_turn"))
    assert found["lm_head.weight"].shape == (26, 16)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def zigzag(untied, count, **changes):
    """Stages of which each reads the two before it; changes are of the first."""
    documents = []
    for index in range(count):
        read = [f"s{index - 1}" if index else untied["base"], f"s{index - 2}" if index > 1 else untied["one"]]
        document = {"merge_method": "linear", "parameters": {"weight": 0.5}, "models": models(*read)}
        documents.append(document if index == count - 1 else {"name": f"s{index}"} | document)
    return chain(documents[0] | changes, *documents[1:])


def test_a_tensor_is_merged_once_for_all_stages_that_read_it(untied, tmp_path, monkeypatch):
    read, count = StoredCheckpoint.read, Counter()

    def counted(self, name):
        count[self.ref.path, name] += 1
        return read(self, name)

    monkeypatch.setattr(StoredCheckpoint, "read", counted)
    merge_to_disk(zigzag(untied, 12), tmp_path / "out", device="cpu")
    assert len(count) == 2 * (3 * 9 + 3)
    # two stages read the model `one`
    assert all(times == 1 + (path == str(untied["one"])) for (path, _), times in count.items())


def test_the_tensor_that_a_stage_keeps_is_let_go(recipe):
    stage = open_sources(recipe)[ModelRef("mean")]
    first, second = stage.read("model.norm.weight"), stage.read("lm_head.weight")
    assert stage.read("lm_head.weight") is second
    assert stage.read("model.norm.weight") is not first
    stage.release()
    assert stage.read("model.norm.weight") is not first


def test_a_tensor_is_kept_only_for_another_reader(untied):
    first = {"name": "first", "merge_method": "linear", "parameters": {"weight": 1.0}, "models": models(untied["one"])}
    second = first | {"name": "second", "models": models("first", untied["two"])}
    last = {"merge_method": "linear", "parameters": {"weight": 1.0}, "models": models("second", untied["base"])}

    def kept(*documents):
        checkpoints = open_sources(chain(*documents))
        found = [weakref.ref(checkpoints[ModelRef(name)].read("lm_head.weight")) for name in ("first", "second")]
        return [tensor() is not None for tensor in found]

    assert kept(first, second, last) == [False, False]
    assert kept(first, second, last | {"models": models("first", "second")}) == [True, False]
    unused = last | {"name": "unused", "models": models("first", "second")}
    assert kept(first, second, unused, last) == [False, False]
    # rows that the other model lacks would be those of the stage
    assert kept(first, second | {"tokenizer_source": "union"}, last) == [True, False]


def test_a_warning_that_reaches_a_recipe_by_many_ways_is_told_once(untied):
    settings = {"weight": 0.5, "density": 0.5}
    recipe = zigzag(untied, 9, merge_method="task_arithmetic", base_model=str(untied["base"]), parameters=settings)
    warnings = make_plan(recipe, open_sources(recipe)).warnings
    assert [each for each in warnings if "density" in each] == [
        "stage s0: parameters: density has no effect on task_arithmetic"
    ]


def test_more_stages_than_python_can_call(untied):
    assert len(open_sources(zigzag(untied, 65))) == 66
    with pytest.raises(RecipeError, match=r"stages too deep \(s64\): expected at most 64 that read one another"):
        open_sources(zigzag(untied, 66))
