"""Checkpoints read what the safetensors library wrote."""

import pytest
import torch

from evomerge.checkpoint import layer_of, open_checkpoint, rename_layer
from evomerge.errors import ModelError
from evomerge.recipe import ModelRef


@pytest.mark.parametrize("form", ["model", "sharded"])
def test_reads_what_was_written(form: str, request, opened, weights) -> None:
    checkpoint = opened(request.getfixturevalue(form))
    assert set(checkpoint.headers) == set(weights)
    for name, header in checkpoint.headers.items():
        tensor = checkpoint.read(name)
        assert (header.name, header.dtype, header.shape) == (name, tensor.dtype, tuple(tensor.shape))
        assert header.nbytes == tensor.numel() * tensor.element_size()
        assert tensor.dtype == weights[name].dtype
        assert torch.equal(tensor, weights[name])


def test_reads_a_tensor_at_an_odd_offset(model, opened) -> None:
    header = (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}'
    )
    data = b"\x05" + torch.tensor([1.5, -2.0]).numpy().tobytes()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    checkpoint = opened(model)
    assert checkpoint.read("a").tolist() == [5]
    assert checkpoint.read("b").tolist() == [1.5, -2.0]


def test_tensors_outlive_a_release(model, opened, weights) -> None:
    checkpoint = opened(model)
    tensors = {name: checkpoint.read(name) for name in weights}
    checkpoint.release()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, weights[name])


def test_headers_come_in_file_order(model, opened) -> None:
    (model / "config.json").write_text("{}")
    header = (
        b'{"b":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    )
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\x01\x02")
    checkpoint = opened(model)
    assert list(checkpoint.headers) == ["a", "b"]
    assert checkpoint.read("b").tolist() == [2]


def test_an_unknown_tensor_is_named(model, opened) -> None:
    with pytest.raises(ModelError, match=r"tensor missing .*expected lm_head\.weight"):
        opened(model).read("lm_head.weight")


def test_config_and_depth(model, opened) -> None:
    checkpoint = opened(model)
    assert checkpoint.config["architectures"] == ["LlamaForCausalLM"]
    assert checkpoint.num_layers == 2
    (model / "config.json").write_text('{"text_config": {"num_hidden_layers": 5}}')
    assert opened(model).num_layers == 5
    (model / "config.json").write_text("{}")
    assert opened(model).num_layers == 2


def test_digest_tells_models_apart(model, sharded, opened, tmp_path) -> None:
    one = opened(sharded).digest()
    assert one == opened(sharded).digest()
    shard = sharded / "b.safetensors"
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    two = opened(sharded).digest()
    (sharded / "config.json").write_text('{"num_hidden_layers": 3}')
    three = opened(sharded).digest()
    (sharded / "tokenizer.json").write_text('{"model": {}}')
    four = opened(sharded).digest()
    (sharded / "tokenizer.json").write_text('{"model": {"vocab": {}}}')
    assert len({one, two, three, four, opened(sharded).digest()}) == 5


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [x]\n---\n# Model\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: llama3\n---\n", "llama3"),
        ("---\nlicense: [mit, apache-2.0]\n---\n", "mit, apache-2.0"),
        ("---\ntags: [x]\n---\n", None),
        ("# Model\n---\nlicense: mit\n---\n", None),
        ("---\n[\n---\n", None),
        ("no front matter", None),
    ],
)
def test_licence_is_that_of_the_card(model, opened, card: str, licence: str | None) -> None:
    assert opened(model).licence is None
    (model / "README.md").write_text(card)
    assert opened(model).licence == licence


@pytest.mark.parametrize(
    ("name", "layer", "moved"),
    [
        ("model.layers.12.mlp.experts.3.w1.weight", 12, "model.layers.4.mlp.experts.3.w1.weight"),
        ("transformer.h.0.attn.c_attn.bias", 0, "transformer.h.4.attn.c_attn.bias"),
        ("h.7.ln_1.weight", 7, "h.4.ln_1.weight"),
        ("transformer.blocks.3.norm.weight", 3, "transformer.blocks.4.norm.weight"),
        ("encoder.block.5.layer.1.k.weight", 5, "encoder.block.4.layer.1.k.weight"),
        ("bert.encoder.layer.9.output.weight", 9, "bert.encoder.layer.4.output.weight"),
        ("model.embed_tokens.weight", None, "model.embed_tokens.weight"),
        ("lm_head.weight", None, "lm_head.weight"),
        ("model.sublayers.3.weight", None, "model.sublayers.3.weight"),
        ("model.layers.3", None, "model.layers.3"),
    ],
)
def test_layers_are_told_by_names(name: str, layer: int | None, moved: str) -> None:
    assert layer_of(name) == layer
    assert rename_layer(name, 4) == moved


def test_a_hub_model_comes_from_the_cache(model, tmp_path, monkeypatch, weights) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    cache = tmp_path / "hub" / "models--org--m"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    (cache / "snapshots").mkdir()
    model.rename(cache / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for reference in ("org/m", "org/m@main", f"org/m@{commit}"):
        checkpoint = open_checkpoint(ModelRef.parse(reference))
        assert checkpoint.folder.name == commit
        assert torch.equal(checkpoint.read("model.norm.weight"), weights["model.norm.weight"])
    with pytest.raises(ModelError, match=r"model not found \(org/other@v1\)"):
        open_checkpoint(ModelRef("org/other", "v1"))
