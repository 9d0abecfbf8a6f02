import copy
import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from evomerge.errors import ModelError
from evomerge.merge import LiveModel, Sources, StatisticsCache, make_plan, merge_to_disk, open_sources, stream
from evomerge.recipe import Recipe

CPU = torch.device("cpu")


def passthrough(folder):
    recipe = Recipe.from_document({"merge_method": "passthrough", "models": [{"model": str(folder)}]})
    checkpoints = open_sources(recipe)
    plan = make_plan(recipe, checkpoints)
    merges = stream(plan, Sources(checkpoints, CPU), device=CPU, statistics=StatisticsCache())
    return recipe, plan, {merge.tensor.name: merge for merge in merges}


def changed(merge, **changes):
    """The merge of a tensor that is planned otherwise."""
    other = copy.copy(merge)
    other.tensor = dataclasses.replace(merge.tensor, **changes)
    return other


@pytest.fixture
def loaded(untied):
    _, plan, tensors = passthrough(untied["one"])
    return LiveModel(plan.config, dtype=torch.float32, device=CPU), plan, tensors


def test_it_is_ready_for_inference(loaded):
    live, plan, tensors = loaded
    live.load(plan, tensors.values())
    assert not live.model.training
    assert not any(parameter.requires_grad for parameter in live.model.parameters())


def test_parameters_keep_their_memory(loaded):
    live, plan, tensors = loaded
    before = [parameter.data_ptr() for parameter in live.model.parameters()]
    live.load(plan, tensors.values())
    assert [parameter.data_ptr() for parameter in live.model.parameters()] == before


def test_a_tensor_that_never_came(loaded):
    live, plan, tensors = loaded
    del tensors["model.norm.weight"]
    message = (
        "parameters not written .LlamaForCausalLM.: expected a tensor for each of 30 names, found none for model.norm"
    )
    with pytest.raises(ModelError, match=message):
        live.load(plan, tensors.values())


def test_a_tensor_that_came_twice(loaded):
    live, plan, tensors = loaded
    name = "model.norm.weight"
    with pytest.raises(ModelError, match=rf"parameter written twice \({name}\)"):
        live.load(plan, [*tensors.values(), tensors[name]])


def test_a_plan_is_checked_before_anything_is_merged(loaded):
    live, plan, _ = loaded
    live.check(plan)
    with pytest.raises(ModelError, match="parameters not written"):
        live.check(dataclasses.replace(plan, tensors=plan.tensors[1:]))


def test_tied_weights_count_as_one(tied):
    _, plan, tensors = passthrough(tied["one"])
    live = LiveModel(plan.config, dtype=torch.float32, device=CPU)
    head = changed(tensors["model.embed_tokens.weight"], name="lm_head.weight")
    with pytest.raises(ModelError, match=r"parameter written twice \(lm_head.weight\): expected one tensor for tied"):
        live.load(plan, [*tensors.values(), head])


def test_a_name_that_the_model_does_not_have(loaded):
    live, plan, tensors = loaded
    expert = changed(tensors["model.norm.weight"], name="model.layers.0.mlp.experts.0.w1.weight")
    with pytest.raises(
        ModelError, match=r"tensor without a place in the model \(model.layers.0.mlp.experts.0.w1.weight"
    ):
        live.load(plan, [expert, *tensors.values()])


def test_another_shape(loaded):
    live, plan, tensors = loaded
    tensors["model.norm.weight"] = changed(tensors["model.norm.weight"], shape=(17,))
    with pytest.raises(ModelError, match=r"shape does not fit .* \(model.norm.weight\): expected \[16\], found \[17\]"):
        live.load(plan, tensors.values())


def test_an_architecture_that_transformers_does_not_know():
    with pytest.raises(ModelError, match=r"no live model for this config .model_type 'mystery'"):
        LiveModel({"model_type": "mystery"}, dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("damage", [{"hidden_size": "wide"}, {"num_attention_heads": 0}, {"hidden_act": "nope"}])
def test_a_config_that_is_damaged(loaded, damage):
    _, plan, _ = loaded
    with pytest.raises(ModelError, match=r"no live model for this config .*, found ") as caught:
        LiveModel(dict(plan.config) | damage, dtype=torch.float32, device=CPU)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_the_bare_network(tmp_path):
    """The first GPT-2 checkpoints leave `transformer.` out, and hold masks that the model computes."""
    folder = tmp_path / "gpt2"
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=24, n_positions=16)).eval()
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 16, 16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    recipe, plan, streamed = passthrough(folder)
    assert "h.0.attn.bias" not in streamed
    assert "h.0.attn.c_attn.bias" in streamed
    live = LiveModel(plan.config, dtype=torch.float32, device=CPU)
    live.load(plan, streamed.values())
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(live.model(tokens).logits, model(tokens).logits)
    merge_to_disk(recipe, tmp_path / "out", device="cpu")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["n_layer"] == 2
