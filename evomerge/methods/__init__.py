"""Merge methods: pure functions of tensors, and one record each."""

from collections.abc import Mapping
from types import MappingProxyType

from evomerge.errors import RecipeError, nearest
from evomerge.methods._dare import DARE_LINEAR, DARE_TIES
from evomerge.methods._linear import LINEAR
from evomerge.methods._method import Method, Operands, Parameter, Value, chunks, fetch, merged_chunks
from evomerge.methods._passthrough import PASSTHROUGH
from evomerge.methods._slerp import SLERP
from evomerge.methods._task_arithmetic import TASK_ARITHMETIC
from evomerge.methods._ties import TIES

__all__ = ["METHODS", "Method", "Operands", "Parameter", "Value", "chunks", "fetch", "get_method", "merged_chunks"]

METHODS: Mapping[str, Method] = MappingProxyType(
    {method.name: method for method in (LINEAR, SLERP, TASK_ARITHMETIC, TIES, DARE_LINEAR, DARE_TIES, PASSTHROUGH)}
)


def get_method(name: str, where: str = "merge_method") -> Method:
    """The method of that name.

    Raises:
        RecipeError: there is none; the remedy names the nearest.
    """
    if name not in METHODS:
        raise RecipeError(f"unknown merge method {name!r}", where=where, remedy=nearest(name, METHODS))
    return METHODS[name]
