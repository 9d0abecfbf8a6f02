"""Token embeddings and heads, told by their tensors' names, and whether a model has one tensor for both."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.checkpoint.layers import layer_of

TOKEN_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "token_embedding.weight",
    ".embeddings.weight",
    "shared.weight",
)
HEADS = (
    "lm_head.weight",
    "lm_head.decoder.weight",
    "lm_head.linear.weight",
    "embed_out.weight",
    "output.weight",
    "output_layer.weight",
    "predictions.decoder.weight",
    "vocab_projector.weight",
)
TEXT_KEYS = ("text", "llm", "language")  # how the keys of configs within a config begin that are of the language model
_WITH_A_HEAD = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_BEFORE_A_HEAD = {  # how a token embedding begins -> the head that transformers looks for
    "language_model.model.": "language_model.lm_head.weight",
    "model.": "lm_head.weight",
    "transformer.": "lm_head.weight",
}


@dataclass(frozen=True)
class Embeddings:
    """Where tokens enter a model and leave it.

    Attributes:
        tokens: the name of the token embedding.
        head: the name that the output embedding has, or has once it is no longer tied; None where that is not known,
            or there is no head.
        tied: the output embedding is the token embedding.
    """

    tokens: str
    head: str | None
    tied: bool


def says_tied(config: Mapping[str, Any]) -> bool:
    """Whether a config.json says that the output embedding is the token embedding."""
    return config.get("tie_word_embeddings") is True


def with_vocab_size(config: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """A config.json with this number of rows of the vocabulary tensors, also in its section of the language model."""
    nested = [key for key, value in config.items() if isinstance(value, dict) and "vocab_size" in value]
    sized = {key: config[key] | {"vocab_size": rows} for key in nested if key.startswith(TEXT_KEYS)}
    if "vocab_size" in config or not nested:
        sized["vocab_size"] = rows
    return {**config, **sized}


def embeddings_of(names: Iterable[str], config: Mapping[str, Any]) -> Embeddings | None:
    """The embeddings of a checkpoint; None without a token embedding of a known name.

    Where no head is stored, `architectures` tells whether the model has one, or else `tie_word_embeddings`.

    Args:
        names: its tensors.
        config: its config.json.
    """
    names = [name for name in names if layer_of(name) is None]
    head = next((name for name in names if name.endswith(HEADS)), None)
    tokens = next((name for name in names if name != head and name.endswith(TOKEN_EMBEDDINGS)), None)
    if tokens is None:
        return None
    if head is not None:
        return Embeddings(tokens, head, tied=says_tied(config))
    architectures = config.get("architectures")
    tied = any(str(name).endswith(_WITH_A_HEAD) for name in architectures) if architectures else says_tied(config)
    if tied and not config.get("is_encoder_decoder"):  # some of which scale what they put into a tied head
        head = next((head for start, head in _BEFORE_A_HEAD.items() if tokens.startswith(start)), None)
    return Embeddings(tokens, head, tied)
