"""What a merge method is: two pure functions and the record that describes them."""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from evomerge.errors import RecipeError, nearest

Kind = Literal["float", "int", "bool"]
Value = float | int | bool

BASE = -1  # the place of the base in `Operands.measure`

# Temporaries of this many elements stay in the processor's cache, and are enough for torch to split over its threads.
# Threads of Python's, each with small chunks of its own, took three times as long: they wait for the interpreter.
_CPU_CHUNK = 1 << 18
_ACCELERATOR_CHUNK = 1 << 22
_ROW = 1 << 12  # elements
_LARGEST = torch.finfo(torch.float32).max


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
        beyond = self.kind == "float" and not abs(value) <= _LARGEST
        if not self.low <= value <= self.high or beyond or (self.open_low and value == self.low):
            raise RecipeError(f"{self.name} out of range", where=where, expected=self.range, found=f"{value!r}")
        return value

    @property
    def range(self) -> str:
        """The allowed values in words, such as `a number in (0, 1]`."""
        if self.kind == "bool":
            return "true or false"
        noun = "a number" if self.kind == "float" else "a whole number"
        if self.low == -math.inf and self.high == math.inf:
            return f"{noun} that float32 holds" if self.kind == "float" else noun
        return f"{noun} in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}]"


@dataclass(frozen=True)
class Coefficients:
    """What `Method.settle` makes of the parameters of one tensor.

    Attributes:
        tensors: float32 or int32, on the device of the operands. Number and shapes depend on the number of models and
            on `flags` alone.
        flags: choices that change what `combine` does, such as whether to normalize: names, booleans, numbers.
        fields: of a piece of the flat tensor, (m,) numbers each, for methods that work by rows or columns.
    """

    tensors: tuple[Tensor, ...] = ()
    flags: tuple[Hashable, ...] = ()
    fields: Callable[[slice], tuple[Tensor, ...]] | None = None


@dataclass(frozen=True)
class Chunk:
    """Some elements of all operands, for `Method.combine`; all of one shape.

    Attributes:
        base: float32; None without a base.
        models: float32, the base left out.
        coefficients: `Coefficients.tensors`.
        flags: `Coefficients.flags`.
        fields: what `Coefficients.fields` gave for these elements.
        index: int32, the low 32 bits of the place of each element in its tensor; None unless the method is positional.
    """

    base: Tensor | None
    models: tuple[Tensor, ...]
    coefficients: tuple[Tensor, ...]
    flags: tuple[Hashable, ...]
    fields: tuple[Tensor, ...]
    index: Tensor | None


Statistic = Callable[[tuple[Tensor, ...], tuple[int, ...], torch.device], Any]


@dataclass(frozen=True)
class Operands:
    """What one output tensor is made of, for `Method.settle`.

    Attributes:
        name: the output tensor.
        shape: of the output tensor; n is its number of elements.
        base: (n,) in the checkpoint's dtype; None without a base.
        models: each (n,), the base left out.
        numbers: for each model its place, from 1, among the recipe's models other than the base.
        shared: value of each parameter that is not per model.
        each: values of each per-model parameter, in the order of `models`.
        device: where to compute.
        measure: (statistic, *places) -> what the statistic, a function of a module, makes of the tensors at these
            places of `models` or `BASE`, given as (tensors, shape, device); known from earlier recipes over the same
            sources.
        measure_large: (statistic, nbytes, *places) -> as `measure`, of a statistic that is as large as the tensor; None
            where there is no room to keep it for later recipes.
        block: which 2**32 elements of the tensor the coefficients are for; only a positional method may heed it.
    """

    name: str
    shape: tuple[int, ...]
    base: Tensor | None
    models: tuple[Tensor, ...]
    numbers: tuple[int, ...]
    shared: Mapping[str, Value]
    each: Mapping[str, tuple[Value, ...]]
    device: torch.device
    measure: Callable[..., Any]
    measure_large: Callable[..., Any]
    block: int = 0

    def tensor(self, *values: float) -> Tensor:
        """(k,) float32 on the device, rounded once."""
        return torch.tensor(values, dtype=torch.float32, device=self.device)


@dataclass(frozen=True)
class Method:
    """A merge method.

    `settle` turns parameters and statistics into coefficients, once for each output tensor. `combine` is then called
    for the elements. Both are pure.

    Attributes:
        name: the recipe's `merge_method`.
        parameters: all that a recipe may set.
        base: `required` merges task vectors, or positions, relative to the base model; `optional` does so if there is
            one; `unused` treats it as any other.
        min_models, max_models: how many models a tensor is merged from besides the base, if that is not `unused`.
        settle: coefficients of one tensor.
        combine: elementwise, traceable, and of plain additions, products and selections, so that it gives the same bits
            eager and compiled; a NaN or Inf of a source comes through as NaN or Inf.
        summary: what it does, in one line.
        source: where it was published.
        check: (values of shared parameters, of per-model parameters, place) -> None, or a RecipeError about values that
            are allowed alone but not together; None if there are no such.
        positional: `combine` needs the place of each element.
    """

    name: str
    parameters: tuple[Parameter, ...]
    base: Literal["required", "optional", "unused"]
    min_models: int
    max_models: int | None
    settle: Callable[[Operands], Coefficients]
    combine: Callable[[Chunk], Tensor]
    summary: str
    source: str
    check: Callable[[Mapping[str, Value], Mapping[str, tuple[Value, ...]], str], None] | None = None
    positional: bool = False

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


def merged(
    method: Method,
    base: Tensor | None,
    models: tuple[Tensor, ...],
    coefficients: tuple[Tensor, ...],
    flags: tuple[Hashable, ...],
    fields: tuple[Tensor, ...],
    start: Tensor,
) -> Tensor:
    """Merge elements: what is compiled, and what runs chunk by chunk where nothing is.

    Args:
        method: the method.
        base: any shape, as stored; None without a base.
        models: of that shape, as stored, the base left out.
        coefficients, flags: what `settle` made.
        fields: of that shape.
        start: () int32, the low 32 bits of the place of the first element.

    Returns:
        Of that shape, float32.
    """
    index = None
    if method.positional:
        like = models[0] if base is None else base
        index = torch.arange(like.numel(), dtype=torch.int32, device=like.device).view(like.shape) + start
    floats = tuple(model.float() for model in models)
    return method.combine(Chunk(None if base is None else base.float(), floats, coefficients, flags, fields, index))


def columns_of(shape: tuple[int, ...]) -> int:
    """The length of a row, which is along the last dimension; 1 if there are none."""
    return max(1, shape[-1] if shape else 1)


def chunks(count: int, device: torch.device) -> Iterator[slice]:
    """Slices that cover `count` elements in order, the same for any number of threads."""
    size = _CPU_CHUNK if device.type == "cpu" else _ACCELERATOR_CHUNK
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def add_up(values: Tensor, dtype: torch.dtype) -> Tensor:
    """() the sum, in `dtype`, of (n,) values that are added row by row in their own dtype.

    In an order of its own, because torch's for a sum of many elements hangs on the number of threads.
    """
    whole = values.numel() // _ROW * _ROW
    rows = values[:whole].view(-1, _ROW).sum(1)
    return torch.cat([rows, values[whole:].sum().view(1)]).sum(dtype=dtype)


def fetch(flat: Tensor, piece: slice, device: torch.device) -> Tensor:
    """A chunk as float32 on the device; may share memory with `flat`, so never write to it."""
    # On MPS a copy that does not block may read a source that is gone (pytorch/pytorch#189690).
    return flat[piece].to(device=device, dtype=torch.float32, non_blocking=device.type == "cuda")


def accumulator(device: torch.device) -> torch.dtype:
    """The widest dtype that sums can be taken in."""
    return torch.float32 if device.type == "mps" else torch.float64
