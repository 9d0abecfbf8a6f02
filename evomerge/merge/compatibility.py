"""Whether models may be merged at all: architectures and vocabularies."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakKeyDictionary

from evomerge.checkpoint import Checkpoint
from evomerge.checkpoint.tokenizer import vocabulary
from evomerge.errors import ModelError, RecipeError
from evomerge.recipe import ModelRef, Recipe

# Equal shapes can mean different things under these keys, so they must agree.
_STRUCTURE = (
    "model_type",
    "architectures",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "hidden_activation",
)
# A merge under these is possible but takes the reference's value.
_SETTINGS = (
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "sliding_window",
    "rms_norm_eps",
    "max_position_embeddings",
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
_NAMED_TOKENS = 3

_digests: WeakKeyDictionary[Checkpoint, str | None] = WeakKeyDictionary()


def check_architectures(reference: Checkpoint, others: Sequence[Checkpoint]) -> list[str]:
    """Compare every config with the reference's.

    Returns:
        Warnings about settings that differ and do not forbid a merge.

    Raises:
        ModelError: the architectures differ, or a model is quantized.
    """
    warnings = []
    for checkpoint in (reference, *others):
        if checkpoint.config.get("quantization_config") is not None:
            raise ModelError(
                "quantized model", where=checkpoint.ref, expected="floating-point weights", remedy="dequantize it first"
            )
    for checkpoint in others:
        for key in _STRUCTURE:
            expected, found = reference.config.get(key), checkpoint.config.get(key)
            if expected is not None and found is not None and expected != found:
                raise ModelError(
                    "architectures differ",
                    where=checkpoint.ref,
                    expected=f"{key} {expected!r} of {reference.ref}",
                    found=repr(found),
                    remedy="merge models of one architecture",
                )
        for key in _SETTINGS:
            expected, found = reference.config.get(key), checkpoint.config.get(key)
            if expected is not None and found is not None and expected != found:
                warnings.append(f"{key} is {found!r} in {checkpoint.ref}; the merged model has {expected!r}")
    return warnings


def check_vocabularies(recipe: Recipe, reference: Checkpoint, others: Sequence[Checkpoint]) -> tuple[Path, list[str]]:
    """Compare every vocabulary with that of the model which gives the tokenizer.

    Returns:
        The folder of the tokenizer, and warnings about models that have none.

    Raises:
        RecipeError: the recipe asks for a tokenizer that its models cannot give.
        ModelError: the vocabularies differ.
    """
    donor = _donor(recipe, reference, others)
    expected = _digest(donor)
    warnings = []
    for checkpoint in (reference, *others):
        found = _digest(checkpoint)
        if found is None or expected is None:
            if checkpoint.ref != donor.ref:
                warnings.append(f"vocabularies of {donor.ref} and {checkpoint.ref} not compared: no tokenizer")
        elif found != expected:
            raise _difference(donor, checkpoint)
    return donor.folder, warnings


def _donor(recipe: Recipe, reference: Checkpoint, others: Sequence[Checkpoint]) -> Checkpoint:
    source = recipe.tokenizer_source
    if recipe.tokenizer is not None:
        source = recipe.tokenizer.source
        for key in ("tokens", "pad_to_multiple_of"):
            if getattr(recipe.tokenizer, key) is not None:
                raise RecipeError(
                    f"tokenizer.{key} is not supported",
                    expected="models of one vocabulary, kept as it is",
                    remedy=f"remove tokenizer.{key}",
                )
    if source == "base" and recipe.base_model is None:
        raise RecipeError("tokenizer source 'base' without a base_model", remedy="set base_model, or name a model")
    if not isinstance(source, ModelRef):
        return reference
    for checkpoint in (reference, *others):
        if checkpoint.ref == source:
            return checkpoint
    raise RecipeError("tokenizer source is not merged", found=source, remedy="name one of the recipe's models")


def _digest(checkpoint: Checkpoint) -> str | None:
    """A digest of the vocabulary, worked out once for each checkpoint; None if it has no tokenizer."""
    if checkpoint not in _digests:
        digest = None
        if any((checkpoint.folder / name).exists() for name in _TOKENIZER_FILES):
            tokens = sorted(vocabulary(checkpoint.folder).items())
            digest = hashlib.sha256(repr(tokens).encode()).hexdigest()
        _digests[checkpoint] = digest
    return _digests[checkpoint]


def _difference(donor: Checkpoint, checkpoint: Checkpoint) -> ModelError:
    expected, found = vocabulary(donor.folder), vocabulary(checkpoint.folder)
    differing = sorted(
        (token for token in expected.keys() | found.keys() if expected.get(token) != found.get(token)),
        key=lambda token: (found.get(token, expected.get(token, 0)), token),
    )
    named = ", ".join(map(repr, differing[:_NAMED_TOKENS]))
    return ModelError(
        "vocabularies differ",
        where=checkpoint.ref,
        expected=f"the {len(expected)} tokens of {donor.ref}",
        found=f"{len(found)} tokens, of which {len(differing)} have no or another id there, such as {named}"
        if len(differing) > _NAMED_TOKENS
        else f"{len(found)} tokens; {named} differ{'s' if len(differing) == 1 else ''}",
        remedy="merge models of one vocabulary",
    )
