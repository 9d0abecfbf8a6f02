"""Merges of models with adapters, loaded by transformers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.merge import merge_to_disk
from evomerge.recipe import Recipe

HEAD, EMBEDDING = "lm_head", "model.embed_tokens"
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "init_lora_weights": True}


@pytest.fixture
def merged(tied, tmp_path):
    """merged(tensors, others): the config and the loaded model of a tied base with an adapter, merged with others."""

    def merge(tensors, *others):
        folder = tmp_path / "adapter"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
        named = {f"base_model.model.{name}": part for name, part in tensors.items()}
        save_file(named, folder / "adapter_model.safetensors")
        document = {
            "merge_method": "linear",
            "parameters": {"weight": 1.0},
            "models": [{"model": f"{tied['base']}+{folder}"}, *({"model": str(other)} for other in others)],
        }
        merge_to_disk(Recipe.from_document(document), tmp_path / "out", device="cpu", kernels="never")
        model, told = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not any(told.values())
        return json.loads((tmp_path / "out" / "config.json").read_text()), model.state_dict()

    return merge


@pytest.fixture
def lora():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(24, 2, generator=generator), torch.randn(2, 16, generator=generator)


def test_a_head_that_an_adapter_unties(merged, tied, lora):
    b, a = lora
    config, found = merged({f"{HEAD}.lora_A.weight": a, f"{HEAD}.lora_B.weight": b})
    base = load_file(tied["base"] / "model.safetensors")[f"{EMBEDDING}.weight"]
    assert config["tie_word_embeddings"] is False
    assert torch.equal(found[f"{EMBEDDING}.weight"], base)
    torch.testing.assert_close(found[f"{HEAD}.weight"], base + 2 * b @ a)


def test_it_is_merged_with_a_tied_head(merged, tied, lora):
    b, a = lora
    _, found = merged({f"{HEAD}.lora_A.weight": a, f"{HEAD}.lora_B.weight": b}, tied["one"])
    base, one = (load_file(tied[name] / "model.safetensors")[f"{EMBEDDING}.weight"] for name in ("base", "one"))
    torch.testing.assert_close(found[f"{EMBEDDING}.weight"], (base + one) / 2)
    torch.testing.assert_close(found[f"{HEAD}.weight"], (base + one) / 2 + b @ a)


def test_resized_embeddings_stay_tied(merged):
    rows = torch.randn(30, 16, generator=torch.Generator().manual_seed(6))
    config, found = merged({f"{HEAD}.weight": rows, f"{EMBEDDING}.weight": rows.clone()})
    assert (config["tie_word_embeddings"], config["vocab_size"]) == (True, 30)
    assert torch.equal(found[f"{EMBEDDING}.weight"], rows)
    assert torch.equal(found[f"{HEAD}.weight"], rows)


def test_factors_over_a_resized_embedding_leave_the_head_as_resized(merged, lora):
    (_, b), rows = lora, torch.randn(30, 16, generator=torch.Generator().manual_seed(7))
    a = torch.randn(2, 30, generator=torch.Generator().manual_seed(8))
    factors = {f"{EMBEDDING}.lora_embedding_A": a, f"{EMBEDDING}.lora_embedding_B": b.T.contiguous()}
    config, found = merged({f"{EMBEDDING}.base_layer.weight": rows} | factors)
    assert (config["tie_word_embeddings"], config["vocab_size"]) == (False, 30)
    torch.testing.assert_close(found[f"{EMBEDDING}.weight"], rows + 2 * a.T @ b)
    assert torch.equal(found[f"{HEAD}.weight"], rows)
