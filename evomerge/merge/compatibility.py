"""Whether models may be merged at all."""

from collections.abc import Sequence

from evomerge.checkpoint import Checkpoint
from evomerge.errors import ModelError

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
