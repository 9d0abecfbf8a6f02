import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evomerge.checkpoint import OutputTokenizer
from evomerge.merge import MergePlan, Sources, make_plan, open_sources
from evomerge.recipe import Recipe

WORDS = [f"w{index}" for index in range(24)]
DIALECTS = {  # words, added tokens
    "base": (["?", "red", "green", "blue", "cat", "dog"], ["<end>"]),
    "one": (["?", "cat", "blue", "green", "red", "bird"], ["<turn>", "<end>"]),
    "two": (["?", "red", "green", "blue", "cat", "fish", "bird"], ["<tool>", "<turn>"]),
}


def save_tokenizer(folder: Path, words: list[str], added: Sequence[str] = ()) -> None:
    tokens = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    special = {"eos_token": added[-1]} if added else {}
    PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token=words[0], **special).save_pretrained(folder)


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


def save_dialect(
    folder: Path, seed: int, dialect: str, *, rows: int | None = None, tied: bool = False, **changes: object
) -> Path:
    """A random Llama of one layer, 8 wide, with a row for every token, or with this number of rows."""
    words, added = DIALECTS[dialect]
    count = len(words) + len(added)
    settings = {
        "vocab_size": rows or count,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "tie_word_embeddings": tied,
        "eos_token_id": count - 1,
    }
    save_llama(folder, seed, **(settings | changes))
    save_tokenizer(folder, words, added)
    return folder


@pytest.fixture(scope="session")
def dialects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of the models base, one and two, of different vocabularies. Never write into them."""
    root = tmp_path_factory.mktemp("dialects")
    return {name: save_dialect(root / name, seed, name) for seed, name in enumerate(DIALECTS)}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Save a model for one test: `save(name, whose_vocabulary, rows=, tied=, **changes of the config)`."""
    return lambda name, dialect, **options: save_dialect(tmp_path / name, 7, dialect, **options)


@pytest.fixture(scope="session")
def policies(dialects: dict[str, Path]) -> dict[str, str]:
    """What a recipe calls the policies base, union and two."""
    return {"base": "base", "union": "union", "two": str(dialects["two"])}


@pytest.fixture(scope="session")
def recipe_of() -> Callable[..., Recipe]:
    """The mean of some models: `recipe_of(*folders, base=, **settings)`."""

    def make(*folders: Path, base: Path | None = None, **settings: object) -> Recipe:
        document = {
            "merge_method": "linear",
            "parameters": {"weight": 1.0},
            "models": [{"model": str(folder)} for folder in folders],
            **({"base_model": str(base)} if base else {}),
        }
        return Recipe.from_document(document | settings)

    return make


@pytest.fixture(scope="session")
def union_of(dialects: dict[str, Path], recipe_of: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """The mean of all dialects, in the union of their vocabularies or another: `union_of(**settings)`."""

    def make(**settings: object) -> Recipe:
        policy = {} if "tokenizer" in settings else {"tokenizer_source": "union"}
        return recipe_of(*dialects.values(), base=dialects["base"], **(policy | settings))

    return make


@pytest.fixture(scope="session")
def plan_of() -> Callable[[Recipe], tuple[MergePlan, dict]]:
    """A recipe's plan, and its models."""

    def plan(recipe: Recipe) -> tuple[MergePlan, dict]:
        checkpoints = open_sources(recipe)
        return make_plan(recipe, checkpoints), checkpoints

    return plan


@pytest.fixture(scope="session")
def rows_of(plan_of) -> Callable[..., tuple[dict[str, int], dict[str, torch.Tensor]]]:
    """The ids of the output, and the (V, 8) rows that each model gives: `rows_of(recipe, tensor)`."""

    def rows(recipe: Recipe, tensor: str = "model.embed_tokens.weight"):
        plan, checkpoints = plan_of(recipe)
        sources = Sources(checkpoints, torch.device("cpu"), keep=False)
        (planned,) = (each for each in plan.tensors if each.name == tensor)
        given = {Path(each.ref.path).name: sources.flat(each).reshape(planned.shape) for each in planned.sources}
        return dict(plan.tokenizer.vocabulary().ids), given

    return rows


@pytest.fixture(scope="session")
def own_rows() -> Callable[..., dict[str, torch.Tensor]]:
    """The row that a model has for each of its tokens: `own_rows(folder, tensor)`."""

    def rows(folder: Path, tensor: str = "model.embed_tokens.weight") -> dict[str, torch.Tensor]:
        weights = load_file(folder / "model.safetensors")[tensor]
        return {token: weights[index] for token, index in OutputTokenizer(folder).vocabulary().ids.items()}

    return rows
