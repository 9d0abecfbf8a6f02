"""Names of tensor dtypes: those of recipes and configs (`bfloat16`), and those of safetensors headers (`BF16`)."""

from collections.abc import Mapping

import torch

from evomerge.errors import RecipeError, nearest
from evomerge.recipe import DTYPES

SAFETENSORS: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
SAFETENSORS_NAMES: Mapping[torch.dtype, str] = {dtype: name for name, dtype in SAFETENSORS.items()}


def dtype_of(name: str) -> torch.dtype:
    """The dtype of a recipe's or a config's name, with or without `torch.` before it.

    Raises:
        RecipeError: not a floating dtype that a merge can be written in.
    """
    short = name.removeprefix("torch.")
    if short not in DTYPES:
        raise RecipeError(f"unknown dtype {name!r}", remedy=nearest(short, DTYPES))
    dtype: torch.dtype = getattr(torch, short)
    return dtype


def dtype_name(dtype: torch.dtype) -> str:
    """The name that `dtype_of` reads, such as `bfloat16`."""
    return str(dtype).removeprefix("torch.")
