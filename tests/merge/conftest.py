import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = [f"w{index}" for index in range(24)]


def save_tokenizer(folder: Path, words: list[str]) -> None:
    tokens = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token=words[0]).save_pretrained(folder)


def save_llama(
    folder: Path, seed: int, *, dtype: torch.dtype = torch.float32, words: list[str] = WORDS, **changes: object
) -> Path:
    """A random Llama of 3 layers with a tokenizer. Its norms are random, too, so that every tensor matters."""
    settings = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "tie_word_embeddings": False,
    }
    generator = torch.Generator().manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**(settings | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + (parameter.ndim == 1))
    model.to(dtype).save_pretrained(folder)
    save_tokenizer(folder, words)
    return folder


@pytest.fixture(scope="session")
def untied(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the models base, one and two, with a head of their own. Never write into them."""
    root = tmp_path_factory.mktemp("untied")
    return {name: save_llama(root / name, seed) for seed, name in enumerate(("base", "one", "two"))}


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same with tied embeddings."""
    root = tmp_path_factory.mktemp("tied")
    names = ("base", "one", "two")
    return {name: save_llama(root / name, seed, tie_word_embeddings=True) for seed, name in enumerate(names)}


@pytest.fixture
def make_llama(tmp_path: Path) -> Callable[..., Path]:
    """Save a model for one test: `make_llama(name, seed, dtype=, words=, **changes of the config)`."""
    return lambda name, seed=0, **changes: save_llama(tmp_path / name, seed, **changes)


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """Save random tensors as a model of any kind: `make_checkpoint(name, shapes, seed, **config)`."""

    def make(name: str, shapes: Mapping[str, tuple[int, ...]], seed: int = 0, **config: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        generator = torch.Generator().manual_seed(seed)
        save_file(
            {tensor: torch.randn(shape, generator=generator) for tensor, shape in shapes.items()},
            folder / "model.safetensors",
        )
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make
