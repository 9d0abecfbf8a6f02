"""Merge methods: pure functions of tensors, and one record each."""

from collections.abc import Mapping
from types import MappingProxyType

from evomerge.errors import RecipeError, nearest
from evomerge.methods._arcee_fusion import ARCEE_FUSION
from evomerge.methods._breadcrumbs import BREADCRUMBS, BREADCRUMBS_TIES
from evomerge.methods._dare import DARE_LINEAR, DARE_TIES
from evomerge.methods._della import DELLA, DELLA_LINEAR
from evomerge.methods._karcher import KARCHER
from evomerge.methods._linear import LINEAR
from evomerge.methods._method import (
    BASE,
    Chunk,
    Coefficients,
    Method,
    Operands,
    Parameter,
    Statistic,
    Value,
    chunks,
    fetch,
    merged,
)
from evomerge.methods._model_stock import MODEL_STOCK
from evomerge.methods._multislerp import MULTISLERP
from evomerge.methods._nearswap import NEARSWAP
from evomerge.methods._nuslerp import NUSLERP
from evomerge.methods._passthrough import PASSTHROUGH
from evomerge.methods._ram import RAM, RAMPLUS_TL
from evomerge.methods._sce import SCE
from evomerge.methods._slerp import SLERP
from evomerge.methods._task_arithmetic import TASK_ARITHMETIC
from evomerge.methods._ties import TIES

__all__ = [
    "BASE",
    "METHODS",
    "Chunk",
    "Coefficients",
    "Method",
    "Operands",
    "Parameter",
    "Statistic",
    "Value",
    "chunks",
    "fetch",
    "get_method",
    "merged",
]

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            LINEAR,
            SLERP,
            NUSLERP,
            MULTISLERP,
            KARCHER,
            TASK_ARITHMETIC,
            TIES,
            DARE_LINEAR,
            DARE_TIES,
            DELLA,
            DELLA_LINEAR,
            BREADCRUMBS,
            BREADCRUMBS_TIES,
            SCE,
            RAM,
            RAMPLUS_TL,
            MODEL_STOCK,
            NEARSWAP,
            ARCEE_FUSION,
            PASSTHROUGH,
        )
    }
)


def get_method(name: str, where: str = "merge_method") -> Method:
    """The method of that name.

    Raises:
        RecipeError: there is none; the remedy names the nearest.
    """
    if name not in METHODS:
        raise RecipeError(f"unknown merge method {name!r}", where=where, remedy=nearest(name, METHODS))
    return METHODS[name]
