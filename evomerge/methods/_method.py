"""What a merge method is: two pure functions and the record that describes them."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from evomerge.errors import RecipeError, nearest

Kind = Literal["float", "int", "bool"]
Value = float | int | bool

# For each thread: temporaries of this many elements stay in a core's cache, 20 times the speed of whole tensors, seen.
# torch does not split an operation on fewer.
_CPU_CHUNK = 1 << 15
_ACCELERATOR_CHUNK = 1 << 22


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method, declared once: checks, search space and documentation derive from it.

    Attributes:
        name: the key in a recipe.
        kind: the type of its values.
        default: the value where a recipe gives none; None if it must give one.
        low, high: the values allowed, both included unless `open_low`.
        open_low: `low` itself is not allowed.
        search: bounds that a search takes unless told otherwise; None if it is not worth searching.
        per_model: one value for each model (the base left out where the method needs one), else one for the tensor.
        inert: accepted because mergekit accepts it, but without effect.
        doc: its meaning, in one line.
    """

    name: str
    kind: Kind
    default: Value | None
    doc: str
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    search: tuple[float, float] | None = None
    per_model: bool = False
    inert: bool = False

    def check(self, value: Value, where: str) -> Value:
        """The value, if it is in range.

        Raises:
            RecipeError: it is not.
        """
        if not self.low <= value <= self.high or not math.isfinite(value) or (self.open_low and value == self.low):
            raise RecipeError(f"{self.name} out of range", where=where, expected=self.range, found=f"{value!r}")
        return value

    @property
    def range(self) -> str:
        """The allowed values in words, such as `a number in (0, 1]`."""
        if self.kind == "bool":
            return "true or false"
        noun = "a number" if self.kind == "float" else "a whole number"
        if self.low == -math.inf and self.high == math.inf:
            return f"{noun} that is finite"
        return f"{noun} in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Operands:
    """What one output tensor is made of, for `Method.settle`.

    Attributes:
        name: the output tensor.
        base: (n,) any floating dtype; None for a method that has no base.
        models: each (n,), the base left out.
        numbers: for each model its place, from 1, among the recipe's models other than the base.
        shared: value of each parameter that is not per model.
        each: values of each per-model parameter, in the order of `models`.
        device: where to compute.
        statistic: the method's statistic of (base, models[i]), by i; measured when first asked for.
    """

    name: str
    base: Tensor | None
    models: tuple[Tensor, ...]
    numbers: tuple[int, ...]
    shared: Mapping[str, Value]
    each: Mapping[str, tuple[Value, ...]]
    device: torch.device
    statistic: Callable[[int], Any]


@dataclass(frozen=True)
class Method:
    """A merge method.

    `settle` turns parameters and statistics into coefficients, once for each output tensor. `combine` is then called
    for each chunk of elements. Both are pure.

    Attributes:
        name: the recipe's `merge_method`.
        parameters: all that a recipe may set.
        base: `required` merges task vectors, or positions, relative to the base model; `unused` treats it as any other.
        min_models, max_models: how many models a tensor is merged from, the base included.
        check: (values of shared parameters, of per-model parameters, place) -> None, or a RecipeError about values that
            are allowed alone but not together; None if there are no such.
        statistics: (base (n,), model (n,), device) -> what depends on the sources alone; None if nothing does.
        settle: coefficients of one tensor.
        combine: (base (m,) float32 or None, models each (m,) float32, coefficients, offset of the chunk in the
            tensor) -> (m,) float32. Elementwise; a NaN or Inf of a source comes through as NaN or Inf.
        summary: what it does, in one line.
        source: where it was published.
    """

    name: str
    parameters: tuple[Parameter, ...]
    base: Literal["required", "unused"]
    min_models: int
    max_models: int | None
    settle: Callable[[Operands], Any]
    combine: Callable[[Tensor | None, Sequence[Tensor], Any, int], Tensor]
    summary: str
    source: str
    check: Callable[[Mapping[str, Value], Mapping[str, tuple[Value, ...]], str], None] | None = None
    statistics: Callable[[Tensor, Tensor, torch.device], Any] | None = None

    def parameter(self, name: str, where: str) -> Parameter:
        """The parameter of that name.

        Raises:
            RecipeError: the method has no such parameter; the remedy names the nearest.
        """
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        remedy = nearest(name, [parameter.name for parameter in self.parameters])
        raise RecipeError(f"{self.name} has no parameter {name!r}", where=where, remedy=remedy)


def merged_chunks(method: Method, operands: Operands) -> Iterator[tuple[slice, Tensor]]:
    """Merge one tensor: the chunks of the result in order, each with its place, (m,) float32."""
    coefficients = method.settle(operands)
    base, device = operands.base, operands.device
    count = (operands.models[0] if base is None else base).numel()
    for piece in chunks(count, device):
        part = None if base is None else fetch(base, piece, device)
        parts = [fetch(model, piece, device) for model in operands.models]
        yield piece, method.combine(part, parts, coefficients, piece.start)


def chunks(count: int, device: torch.device, *, to_sum: bool = False) -> Iterator[slice]:
    """Slices that cover `count` elements in order; none crosses a multiple of 2**32.

    Args:
        count: number of elements.
        device: where they are computed on.
        to_sum: make the slices the same for any number of threads, so that sums over them are, too.
    """
    size = _ACCELERATOR_CHUNK
    if device.type == "cpu":
        size = _CPU_CHUNK if to_sum else _CPU_CHUNK << (torch.get_num_threads().bit_length() - 1)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def fetch(flat: Tensor, piece: slice, device: torch.device) -> Tensor:
    """A chunk as float32 on the device; may share memory with `flat`, so never write to it."""
    # On MPS a copy that does not block may read a source that is gone (pytorch/pytorch#189690).
    return flat[piece].to(device=device, dtype=torch.float32, non_blocking=device.type == "cuda")


def accumulator(device: torch.device) -> torch.dtype:
    """The widest dtype that sums can be taken in."""
    return torch.float32 if device.type == "mps" else torch.float64
