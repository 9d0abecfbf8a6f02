"""LoRA adapters: the merged tensors against products worked by hand, and adapters that do not fit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evomerge.checkpoint import open_checkpoint
from evomerge.errors import ModelError
from evomerge.recipe import ModelRef

MLP = "model.layers.0.mlp.weight"
KEY = "base_model.model.model.layers.0.mlp."
A = torch.tensor([[1.0, 2.0, 3.0]])
B = torch.tensor([[1.0], [-1.0]])
PRODUCT = torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]])
CONFIG = {"peft_type": "LORA", "r": 1, "lora_alpha": 3, "init_lora_weights": True}


def save_adapter(folder: Path, tensors: dict[str, torch.Tensor], **config: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def adapter(tmp_path) -> Path:
    return save_adapter(tmp_path / "adapter", {KEY + "lora_A.weight": A, KEY + "lora_B.weight": B})


def opened(model: Path, adapter: Path):
    return open_checkpoint(ModelRef(str(model), adapter=str(adapter)))


def test_adds_the_scaled_product(model, adapter, weights) -> None:
    checkpoint = opened(model, adapter)
    assert torch.equal(checkpoint.read(MLP), weights[MLP] + 3 * PRODUCT)
    assert checkpoint.headers[MLP].dtype == torch.float32
    assert torch.equal(checkpoint.read("model.norm.weight"), weights["model.norm.weight"])
    assert checkpoint.headers["model.norm.weight"].dtype == torch.float64
    assert list(checkpoint.headers) == list(open_checkpoint(ModelRef(str(model))).headers)


def test_a_low_precision_base_is_widened_first(model, adapter, weights) -> None:
    name = "model.layers.1.mlp.weight"
    key = "base_model.model.model.layers.1.mlp."
    small = {key + "lora_A.weight": A.bfloat16() / 512, key + "lora_B.weight": B.bfloat16() / 512}
    save_adapter(adapter, small)
    merged = opened(model, adapter).read(name)
    assert merged.dtype == torch.float32
    assert torch.equal(merged, weights[name].float() + 3 * PRODUCT / 512**2)


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        ({"r": 4}, 0.75),
        ({"r": 4, "use_rslora": True}, 1.5),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"mlp": 2}}, 0.5),
        ({"r": 4, "alpha_pattern": {"1.mlp": 2, "layers.0.mlp": 6}}, 1.5),
        ({"r": 7, "rank_pattern": {"model.layers.0.mlp": 4}}, 0.75),
    ],
)
def test_scaling(model, tmp_path, weights, config, scaling: float) -> None:
    a = torch.cat([A, torch.zeros(3, 3)])
    b = torch.cat([B, torch.zeros(2, 3)], dim=1)
    folder = save_adapter(tmp_path / "a", {KEY + "lora_A.weight": a, KEY + "lora_B.weight": b}, **config)
    assert torch.allclose(opened(model, folder).read(MLP), weights[MLP] + scaling * PRODUCT, rtol=0, atol=1e-6)


def test_transposed_layers_and_embeddings(model, tmp_path, weights) -> None:
    tensors = {KEY + "lora_A.weight": B.T.contiguous(), KEY + "lora_B.weight": A.T.contiguous()}
    merged = opened(model, save_adapter(tmp_path / "a", tensors, fan_in_fan_out=True)).read(MLP)
    assert torch.equal(merged, weights[MLP] + 3 * PRODUCT)
    name = "model.embed_tokens.weight"
    a, b = torch.tensor([[1.0, 0.0, 0.0, 2.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    tensors = {f"base_model.model.{name[:-7]}.lora_embedding_{factor}": part for factor, part in (("A", a), ("B", b))}
    merged = opened(model, save_adapter(tmp_path / "e", tensors)).read(name)
    rows = torch.tensor([[1.0, 2, 3], [0, 0, 0], [0, 0, 0], [2, 4, 6]])
    assert torch.equal(merged, weights[name].float() + 3 * rows)


def test_modules_saved_whole_replace_the_base(model, tmp_path, weights) -> None:
    norm = torch.tensor([9.0, 8.0, 7.0])
    for key in ("base_model.model.model.norm.weight", "base_model.model.model.norm.modules_to_save.weight"):
        checkpoint = opened(model, save_adapter(tmp_path / "a", {key: norm}))
        assert torch.equal(checkpoint.read("model.norm.weight"), norm)
        assert checkpoint.headers["model.norm.weight"].dtype == torch.float32
    replaced = torch.ones(2, 3)
    tensors = {KEY + "base_layer.weight": replaced, KEY + "lora_A.weight": A, KEY + "lora_B.weight": B}
    checkpoint = opened(model, save_adapter(tmp_path / "b", tensors))
    assert torch.equal(checkpoint.read(MLP), replaced + 3 * PRODUCT)


def test_the_base_is_left_as_it_is(model, adapter, weights) -> None:
    opened(model, adapter).read(MLP)
    assert torch.equal(open_checkpoint(ModelRef(str(model))).read(MLP), weights[MLP])


def test_digest_sees_the_adapter(model, adapter) -> None:
    digests = [open_checkpoint(ModelRef(str(model))).digest(), opened(model, adapter).digest()]
    save_adapter(adapter, {KEY + "lora_A.weight": A, KEY + "lora_B.weight": B}, lora_alpha=4)
    digests.append(opened(model, adapter).digest())
    save_adapter(adapter, {KEY + "lora_A.weight": A, KEY + "lora_B.weight": 2 * B}, lora_alpha=4)
    digests.append(opened(model, adapter).digest())
    assert len(set(digests)) == 4


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        ({KEY + "lora_A.weight": A}, {}, "does not fit its base .*expected factors of shape"),
        ({KEY + "lora_A.weight": A, KEY + "lora_B.weight": B.T}, {}, "rank mismatch .*layers.0.mlp.weight"),
        (
            {KEY + "lora_A.weight": A, KEY + "lora_B.weight": B[:1]},
            {"base_model_name_or_path": "org/other"},
            r"does not fit its base .*layers.0.mlp.weight\): expected .*; it was trained on org/other",
        ),
        ({KEY + "lora_A.weight": A[:, :2], KEY + "lora_B.weight": B}, {}, "does not fit"),
        (
            {KEY + "lora_A.weight": A, KEY + "lora_B.weight": B},
            {"r": 2},
            "rank mismatch .*expected factors of rank 2, as adapter_conf",
        ),
        ({KEY + "lora_A.weight": A, KEY + "lora_B.weight": B}, {"r": 0}, "expected r and lora_alpha above 0, found 0"),
        ({KEY + "lora_A.weight": A, KEY + "lora_B.weight": B}, {"lora_alpha": "x"}, "damaged adapter"),
        ({KEY.replace("0", "9") + "lora_A.weight": A}, {}, "expected a tensor 'model.layers.9.mlp.weight' in the base"),
        ({KEY + "lora_magnitude_vector": A}, {}, "expected a tensor .*lora_magnitude_vector"),
        ({KEY + "lora_A.weight": A}, {"peft_type": "IA3"}, "expected peft_type LORA, found 'IA3'"),
        ({KEY + "lora_A.weight": A}, {"use_dora": True}, "unsupported adapter .*found use_dora"),
        (
            {KEY + "lora_A.weight": A},
            {"trainable_token_indices": [1]},
            "unsupported adapter .*found trainable_token_ind",
        ),
        ({KEY + "lora_A.weight": A}, {"target_parameters": ["experts.up"]}, "unsupported adapter .*found target_param"),
        ({KEY + "lora_A.weight": A}, {"init_lora_weights": "pissa"}, "found init_lora_weights pissa"),
    ],
)
def test_adapters_that_do_not_fit(model, tmp_path, tensors, config, message: str) -> None:
    folder = save_adapter(tmp_path / "a", {name: part.contiguous() for name, part in tensors.items()}, **config)
    with pytest.raises(ModelError, match=message) as caught:
        opened(model, folder)
    assert "\n" not in str(caught.value)


def test_adapters_that_are_incomplete(model, adapter, tmp_path) -> None:
    with pytest.raises(ModelError, match="model folder missing"):
        opened(model, tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"adapter_config\.json missing"):
        opened(model, model)
    shard = adapter / "adapter_model.safetensors"
    shard.rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"not safetensors .*found adapter_model\.bin"):
        opened(model, adapter)
    (adapter / "adapter_model.bin").unlink()
    with pytest.raises(ModelError, match=r"cannot read a shard .*No such file"):
        opened(model, adapter)


def test_a_base_of_another_name_is_a_warning(model, tmp_path) -> None:
    factors = {KEY + "lora_A.weight": A, KEY + "lora_B.weight": B}
    named = save_adapter(tmp_path / "a", factors, base_model_name_or_path=f"org/{model.name.upper()}")
    other = save_adapter(tmp_path / "b", factors, base_model_name_or_path="org/elsewhere/")
    assert opened(model, named).warnings == ()
    assert opened(model, other).warnings == (
        f"adapter {other} was trained on org/elsewhere/, and is applied to {model}",
    )
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"_name_or_path": "org/elsewhere"}))
    assert opened(model, other).warnings == ()


def test_an_adapter_on_one_of_several_networks(tmp_path) -> None:
    names = [f"model.{part}.layers.0.k.weight" for part in ("vision_tower", "language_model")]
    folder = tmp_path / "two"
    folder.mkdir()
    save_file({name: torch.ones(2, 3) for name in names}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    key = "base_model.model." + names[1].removesuffix("weight")
    adapter = save_adapter(tmp_path / "a", {key + "lora_A.weight": A, key + "lora_B.weight": B})
    checkpoint = opened(folder, adapter)
    assert torch.equal(checkpoint.read(names[1]), torch.ones(2, 3) + 3 * PRODUCT)
    assert torch.equal(checkpoint.read(names[0]), torch.ones(2, 3))


EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
BASE = torch.arange(12.0).reshape(4, 3)  # of the model's embedding
ROWS = BASE / 8
L, R = torch.tensor([[1.0], [0.0], [2.0], [-1.0]]), torch.tensor([[1.0, 0.0, -2.0]])
ON_HEAD = {"lm_head.lora_A.weight": R, "lm_head.lora_B.weight": L}
ON_EMBEDDING = {
    "model.embed_tokens.lora_embedding_A": L.T.contiguous(),
    "model.embed_tokens.lora_embedding_B": R.T.contiguous(),
}


def over_tied(model: Path, folder: Path, tensors: dict[str, torch.Tensor], **config: object):
    """`model`, whose head is its embedding, with an adapter."""
    named = {f"base_model.model.{name}": tensor.clone() for name, tensor in tensors.items()}
    return opened(model, save_adapter(folder, named, **config))


@pytest.mark.parametrize(
    ("tensors", "embedding", "head"),
    [
        ({HEAD: ROWS}, None, ROWS),
        ({EMBEDDING: ROWS}, ROWS, None),
        ({EMBEDDING: ROWS, HEAD: ROWS + 1}, ROWS, ROWS + 1),
        ({"lm_head.modules_to_save.weight": ROWS, "lm_head.original_module.weight": ROWS + 1}, None, ROWS),
        (ON_HEAD, None, BASE + 3 * L @ R),
        (ON_EMBEDDING, BASE + 3 * L @ R, None),
        (ON_EMBEDDING | ON_HEAD | {"lm_head.lora_A.weight": 2 * R}, BASE + 3 * L @ R, BASE + 6 * L @ R),
        (ON_EMBEDDING | {EMBEDDING: ROWS}, ROWS + 3 * L @ R, None),
        (ON_EMBEDDING | {"model.embed_tokens.base_layer.weight": ROWS}, ROWS + 3 * L @ R, ROWS),
        (ON_HEAD | {"lm_head.base_layer.weight": ROWS}, ROWS, ROWS + 3 * L @ R),
    ],
)
def test_embedding_and_head_that_are_changed_apart_are_tied_no_longer(
    model, tmp_path, tensors, embedding, head
) -> None:
    checkpoint = over_tied(model, tmp_path / "a", tensors)
    for name, expected in ((EMBEDDING, embedding), (HEAD, head)):
        checkpoint.prefetch(name)
        found = checkpoint.read(name)
        assert found.dtype == checkpoint.headers[name].dtype
        assert torch.equal(found.float(), BASE if expected is None else expected)
    assert checkpoint.config["tie_word_embeddings"] is False
    assert "tie_word_embeddings" not in open_checkpoint(ModelRef(str(model))).config
    assert checkpoint.warnings == (
        f"{model} ties its head to its embedding, which adapter {tmp_path / 'a'} changes apart: "
        "the model has a head of its own",
    )


@pytest.mark.parametrize(
    ("tensors", "rows"),
    [
        ({EMBEDDING: ROWS, HEAD: ROWS}, 4),
        ({EMBEDDING: torch.ones(6, 3), HEAD: torch.ones(6, 3)}, 6),
        (ON_EMBEDDING | ON_HEAD, 4),
        (ON_EMBEDDING | ON_HEAD | {"model.embed_tokens.base_layer.weight": ROWS, "lm_head.base_layer.weight": ROWS}, 4),
    ],
)
def test_a_head_that_is_as_the_embedding_stays_tied(model, tmp_path, tensors, rows: int) -> None:
    (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "vocab_size": 4}')
    checkpoint = over_tied(model, tmp_path / "a", tensors)
    assert HEAD not in checkpoint.headers
    assert checkpoint.read(EMBEDDING).shape == (rows, 3)
    assert checkpoint.config == {"architectures": ["LlamaForCausalLM"], "vocab_size": rows}
    assert checkpoint.warnings == ()


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (
            {HEAD: torch.ones(5, 3)},
            {},
            "expected model.embed_tokens.weight and lm_head.weight of one shape, as the base",
        ),
        ({"head.weight": ROWS}, {}, "expected a tensor 'head.weight' in the base"),
        (
            {HEAD: ROWS},
            {"is_encoder_decoder": True},
            "a change of lm_head.weight, where the base ties its head to model",
        ),
        ({EMBEDDING: ROWS}, {"is_encoder_decoder": True}, "a change of model.embed_tokens.weight, where the base ties"),
    ],
)
def test_ties_that_cannot_be_undone(model, tmp_path, tensors, config, message: str) -> None:
    (model / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]} | config))
    with pytest.raises(ModelError, match=message) as caught:
        over_tied(model, tmp_path / "a", tensors)
    assert "\n" not in str(caught.value)


def test_without_architectures_the_config_tells_whether_there_is_a_tied_head(model, tmp_path, weights) -> None:
    (model / "config.json").write_text('{"tie_word_embeddings": true}')
    checkpoint = over_tied(model, tmp_path / "a", {EMBEDDING: ROWS})
    assert torch.equal(checkpoint.read(HEAD), weights[EMBEDDING])
    assert checkpoint.config == {"tie_word_embeddings": False}
    (model / "config.json").write_text("{}")
    assert HEAD not in over_tied(model, tmp_path / "b", {EMBEDDING: ROWS}).headers


@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_the_head_that_the_adapter_does_not_have(model, tmp_path, weights, tied: bool) -> None:
    if not tied:
        save_file({**weights, HEAD: torch.zeros(4, 3)}, model / "model.safetensors")
    key = EMBEDDING if tied else "model.embed_tokens.base_layer.weight"
    with pytest.raises(ModelError, match=r"found \[\(6, 3\), \(4, 3\)\]; merge it into its base with PEFT first$"):
        over_tied(model, tmp_path / "a", {key: torch.ones(6, 3)})


@pytest.mark.parametrize(
    "config",
    [
        {"vocab_size": 4},
        {"text_config": {"vocab_size": 4}},
        {"vocab_size": 4, "text_config": {"vocab_size": 4}, "vision_config": {"vocab_size": 5}},
    ],
)
def test_every_number_of_tokens_follows(model, tmp_path, config) -> None:
    (model / "config.json").write_text(json.dumps(config))
    checkpoint = over_tied(model, tmp_path / "a", {EMBEDDING: torch.ones(6, 3)})
    assert checkpoint.config == json.loads(json.dumps(config).replace('"vocab_size": 4', '"vocab_size": 6'))


def test_a_head_that_is_stored_and_tied_all_the_same(model, tmp_path, weights) -> None:
    save_file({**weights, HEAD: torch.zeros(4, 3)}, model / "model.safetensors")
    config = {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
    (model / "config.json").write_text(json.dumps(config | {"text_config": {"tie_word_embeddings": True}}))
    checkpoint = over_tied(model, tmp_path / "a", ON_HEAD)
    assert torch.equal(checkpoint.read(HEAD), weights[EMBEDDING].float() + 3 * L @ R)
    assert checkpoint.config["tie_word_embeddings"] is checkpoint.config["text_config"]["tie_word_embeddings"] is False
    assert torch.equal(open_checkpoint(ModelRef(str(model))).read(HEAD), torch.zeros(4, 3))
