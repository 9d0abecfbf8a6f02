"""Models to measure with: a Llama of any size with random weights, and fine-tunes of it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomerge.checkpoint import Checkpoint, OutputTokenizer, TensorHeader, dtype_name, open_checkpoint, write_checkpoint
from evomerge.errors import UsageError
from evomerge.recipe import ModelRef

WEIGHT = 0.02  # standard deviation of a base's weights, as transformers initializes them
DELTA = 0.002  # of a task vector, as supervised fine-tuning leaves it (arXiv 2311.03099, figure 4)

MAX_PARENTS = 1000

_PIECE = 1 << 22  # elements in memory at a time
_HEAD = 64  # width of an attention head
_WIDTH_PER_LAYER = 43  # as in a Llama of 24 layers and width 1024
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}


def parse_count(text: str) -> int:
    """A number of parameters such as `350M` or `1.4B`.

    Raises:
        UsageError: not a number of at least 100K and at most 1000B.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMB]?)", text.strip(), re.IGNORECASE)
    count = round(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if not 10**5 <= count <= 10**12:
        raise UsageError(
            "not a number of parameters", where="--params", expected="such as 350M, 100K to 1000B", found=repr(text)
        )
    return count


def llama_config(parameters: int, dtype: torch.dtype) -> dict[str, Any]:
    """config.json of a Llama with tied embeddings and about that many parameters."""
    width = _HEAD * max(1, round((parameters / 14 * _WIDTH_PER_LAYER) ** (1 / 3) / _HEAD))
    inner = _HEAD * round(2.75 * width / _HEAD)
    vocabulary = min(32000, parameters // (8 * width))
    layers = max(1, round((parameters - vocabulary * width) / (4 * width**2 + 3 * width * inner)))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": width // _HEAD,
        "num_key_value_heads": width // _HEAD,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
        "dtype": dtype_name(dtype),
    }


def llama_headers(config: Mapping[str, Any], dtype: torch.dtype) -> tuple[TensorHeader, ...]:
    """Every tensor of such a model."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], width)}
    for layer in range(config["num_hidden_layers"]):
        part = f"model.layers.{layer}."
        shapes |= {f"{part}self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        shapes |= {f"{part}mlp.{name}_proj.weight": (inner, width) for name in ("gate", "up")}
        shapes[f"{part}mlp.down_proj.weight"] = (width, inner)
        shapes |= {f"{part}{name}_layernorm.weight": (width,) for name in ("input", "post_attention")}
    shapes["model.norm.weight"] = (width,)
    return tuple(TensorHeader(name, dtype, shape) for name, shape in shapes.items())


def write_models(
    folder: Path, parameters: int, parents: int, dtype: torch.dtype, tokenizer: OutputTokenizer | None = None
) -> tuple[ModelRef, ...]:
    """Write a base and its fine-tunes; the same for the same arguments. Memory stays that of a piece of a tensor.

    Args:
        folder: where folders `base`, `parent-1` ... are made.
        parameters: of each model, about.
        parents: how many fine-tunes.
        dtype: of the weights.
        tokenizer: of all of them.

    Returns:
        The base, then the parents.

    Raises:
        UsageError: they cannot be written (disk full, read-only).
    """
    config = llama_config(parameters, dtype)
    headers = llama_headers(config, dtype)
    base = ModelRef(str(folder / "base"))
    refs = [base, *(ModelRef(str(folder / f"parent-{number}")) for number in range(1, parents + 1))]
    for number, ref in enumerate(refs):
        write_checkpoint(
            Path(ref.path),
            _base(headers) if ref == base else _fine_tune(open_checkpoint(base), headers, number),
            headers=headers,
            config=config,
            tokenizer=tokenizer,
            max_shard_size=5 * 10**9,
            card="",
        )
    return tuple(refs)


def _base(headers: Sequence[TensorHeader]) -> Iterator[tuple[str, int, Tensor]]:
    for index, header in enumerate(headers):
        norm = len(header.shape) == 1
        for start, noise in _noise(header.size, index, WEIGHT):
            yield header.name, start, (torch.ones_like(noise) if norm else noise).to(header.dtype)


def _fine_tune(base: Checkpoint, headers: Sequence[TensorHeader], number: int) -> Iterator[tuple[str, int, Tensor]]:
    for index, header in enumerate(headers):
        flat = base.read(header.name).view(-1)
        for start, noise in _noise(header.size, number << 20 | index, DELTA):
            yield header.name, start, noise.add_(flat[start : start + noise.numel()]).to(header.dtype)
        base.release()


def _noise(count: int, seed: int, deviation: float) -> Iterator[tuple[int, Tensor]]:
    generator = torch.Generator().manual_seed(seed)  # which takes 32 bits of it
    for start in range(0, count, _PIECE):
        yield start, torch.empty(min(_PIECE, count - start)).normal_(0.0, deviation, generator=generator)
