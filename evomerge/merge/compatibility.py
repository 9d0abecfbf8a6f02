"""Whether models may be merged at all."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evomerge.checkpoint import Checkpoint
from evomerge.errors import ModelError
from evomerge.merge.depth import TEXT_SECTIONS

# Equal shapes can mean different things under these keys, so they must agree.
_STRUCTURE = (
    "model_type",
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
        for key, expected, found in _differences(reference.config, checkpoint.config, (*_STRUCTURE, "architectures")):
            raise ModelError(
                "architectures differ",
                where=checkpoint.ref,
                expected=f"{key} {expected!r} of {reference.ref}",
                found=repr(found),
                remedy="merge models of one architecture",
            )
        for key, expected, found in _differences(reference.config, checkpoint.config, _SETTINGS):
            warnings.append(f"{key} is {found!r} in {checkpoint.ref}; the merged model has {expected!r}")
    return warnings


def _differences(
    reference: Mapping[str, Any], config: Mapping[str, Any], keys: Sequence[str]
) -> Iterator[tuple[str, Any, Any]]:
    """Keys that both configs give unlike values, also in the section of the text network; and these values."""
    for key in keys:
        expected, found = reference.get(key), config.get(key)
        if expected is not None and found is not None and expected != found:
            yield key, expected, found
    for section in TEXT_SECTIONS:
        expected, found = reference.get(section), config.get(section)
        if isinstance(expected, Mapping) and isinstance(found, Mapping):
            inner = [key for key in keys if key != "architectures"]  # the outer ones tell what is built
            yield from ((f"{section}.{key}", *values) for key, *values in _differences(expected, found, inner))
