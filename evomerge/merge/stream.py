"""From a plan to tensors, one at a time, written where the caller wants them."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from evomerge.errors import ModelError, NonFiniteError
from evomerge.merge.kernels import Kernels, Operation, add_checks
from evomerge.merge.plan import MergePlan, Source, TensorPlan
from evomerge.merge.residency import Sources
from evomerge.merge.statistics import StatisticsCache
from evomerge.methods import BASE, Coefficients, Method, Operands, Statistic, chunks, fetch
from evomerge.recipe import ModelRef

_BLOCK = 1 << 32  # elements; what a position is counted in
_FIELDS = 1 << 20  # elements whose fields are worked out at once


class Merge:
    """One output tensor, yet to be made.

    Attributes:
        tensor: its plan.
    """

    def __init__(
        self,
        method: Method,
        tensor: TensorPlan,
        sources: Sources,
        device: torch.device,
        statistics: StatisticsCache,
        kernels: Kernels,
    ) -> None:
        self.tensor = tensor
        self._method = method
        self._sources = sources
        self._device = device
        self._statistics = statistics
        self._kernels = kernels
        self._settled: dict[int, Coefficients] = {}
        self._flats: dict[Source, Tensor] = {}
        self._compared = False  # integer tensors, with each other

    @property
    def count(self) -> int:
        """The number of elements."""
        return math.prod(self.tensor.shape)

    def whole(self) -> Tensor:
        """The tensor, of the plan's shape and dtype, on the device; raises as `write` does."""
        merged = torch.empty(self.tensor.shape, dtype=self.tensor.dtype, device=self._device)
        self.write(merged.view(-1), 0)
        return merged

    @torch.no_grad()
    def write(self, out: Tensor, start: int) -> None:
        """Make a part of the tensor.

        Args:
            out: (m,) of the plan's dtype, on the device; is written.
            start: place of the first element in the flat tensor.

        Raises:
            NonFiniteError: a source or a merged element is NaN or Inf.
            ModelError: integer tensors, which cannot be merged, differ between models.
        """
        if not self.tensor.dtype.is_floating_point:
            out.copy_(self._agreed()[start : start + out.numel()])
            return
        done = 0
        while done < out.numel():
            count = min(out.numel() - done, _BLOCK - (start + done) % _BLOCK)
            self._write(out[done : done + count], start + done)
            done += count

    def _write(self, out: Tensor, start: int) -> None:
        piece = slice(start, start + out.numel())
        flats = tuple(self._flat(source)[piece] for source in self.tensor.sources)
        settled = self._coefficients(start // _BLOCK)
        if self._verbatim(flats):
            out.copy_(flats[0])
            if not out.isfinite().all():
                raise self._why_non_finite()
            return
        checks = []
        for part, here in self._sources.on_device(flats):
            base, models = (None, here) if self.tensor.base is None else (here[0], here[1:])
            operation = Operation(self._method, base, models, settled.tensors, settled.flags, ())
            checks.append(self._run(operation, settled, out[part], start + part.start))
        if not math.isfinite(add_checks(checks, self._device)) and not out.isfinite().all():
            raise self._why_non_finite()

    def _verbatim(self, flats: tuple[Tensor, ...]) -> bool:
        """Whether a model's tensor is taken as it is, which float64 cannot be through float32."""
        of_one = self._method.name == "passthrough" and self.tensor.each["scale"] == (1.0,)
        return of_one and flats[0].dtype == self.tensor.dtype == torch.float64

    def _run(self, operation: Operation, settled: Coefficients, out: Tensor, start: int) -> Tensor:
        if settled.fields is None:
            return self._kernels.run(operation, out, start)
        checks = []
        for first in range(0, out.numel(), _FIELDS):
            piece = slice(first, min(first + _FIELDS, out.numel()))
            fields = settled.fields(slice(start + piece.start, start + piece.stop))
            part = replace(operation.part(piece), fields=fields)
            checks.append(self._kernels.run(part, out[piece], start + piece.start))
        return add_checks(checks, self._device)

    def _coefficients(self, block: int) -> Coefficients:
        """The method's coefficients, settled once; of a block of the tensor where they depend on the position."""
        if not self._method.positional:
            block = 0
        if block not in self._settled:
            tensor = self.tensor
            self._settled[block] = self._method.settle(
                Operands(
                    name=tensor.name,
                    shape=tensor.shape,
                    base=None if tensor.base is None else self._flat(tensor.base),
                    models=tuple(map(self._flat, tensor.models)),
                    numbers=tensor.numbers,
                    shared=tensor.shared,
                    each=tensor.each,
                    device=self._device,
                    measure=self._measure,
                    measure_large=self._measure_large,
                    block=block,
                )
            )
        return self._settled[block]

    def _measure(self, statistic: Statistic, *places: int) -> object:
        sources = self._at(places)
        return self._statistics.get((statistic, *sources), lambda: self._statistic(statistic, sources))

    def _measure_large(self, statistic: Statistic, nbytes: int, *places: int) -> object | None:
        sources = self._at(places)
        return self._statistics.get_large((statistic, *sources), nbytes, lambda: self._statistic(statistic, sources))

    def _at(self, places: tuple[int, ...]) -> tuple[Source, ...]:
        every = {BASE: self.tensor.base, **dict(enumerate(self.tensor.models))}
        return tuple(source for place in places if (source := every[place]) is not None)

    def _statistic(self, statistic: Statistic, sources: tuple[Source, ...]) -> object:
        return statistic(tuple(map(self._flat, sources)), self.tensor.shape, self._device)

    def _flat(self, source: Source) -> Tensor:
        """(n,) a source; read once, since an adapter is applied on reading."""
        if source not in self._flats:
            self._flats[source] = self._sources.flat(source)
        return self._flats[source]

    def _agreed(self) -> Tensor:
        """The one value that all models have."""
        first, *others = self.tensor.sources
        flat = self._flat(first)
        if self._compared:
            return flat
        self._compared = True
        for other in others:
            if not torch.equal(flat, self._flat(other)):
                raise ModelError(
                    "integer tensors differ",
                    where=f"{other.ref}: {other.name}",
                    expected=f"the values of {first.ref}, as integers cannot be merged",
                )
        return flat

    def _why_non_finite(self) -> NonFiniteError:
        """Why a merged tensor is not finite: every method lets NaN and Inf through, so a source of it is looked for."""
        for source in self.tensor.sources:
            if has_non_finite(self._flat(source)):
                return non_finite(source.ref, source.name)
        return NonFiniteError(
            "merge overflows",
            where=self.tensor.name,
            expected=f"values within {self.tensor.dtype}".replace("torch.", ""),
            remedy="lower the weights, or choose a wider dtype",
        )


def stream(
    plan: MergePlan,
    sources: Sources,
    *,
    device: torch.device,
    statistics: StatisticsCache,
    kernels: Kernels | None = None,
) -> Iterator[Merge]:
    """Merge, tensor by tensor.

    Args:
        plan: what to merge and how.
        sources: the tensors of the plan's models.
        device: where to compute, and where the tensors end up.
        statistics: of these sources.
        kernels: how to compute; eager unless given.

    Yields:
        Each output tensor once, in the plan's order, to be written before the next one is asked for.
    """
    kernels = kernels or Kernels("never")
    for tensor in plan.tensors:
        yield Merge(tensor.method, tensor, sources, device, statistics, kernels)


def non_finite(ref: ModelRef, name: str) -> NonFiniteError:
    """The error about a source tensor that holds NaN or Inf."""
    return NonFiniteError("NaN or Inf in a model", where=f"{ref}: {name}", remedy="download or train the model again")


def has_non_finite(flat: Tensor) -> bool:
    """Whether a flat tensor holds NaN or Inf."""
    return not all(
        bool(fetch(flat, piece, flat.device).isfinite().all()) for piece in chunks(flat.numel(), flat.device)
    )
