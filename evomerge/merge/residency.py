"""Where source tensors are kept between merges: with the accelerator if they fit, else in host memory, else on disk."""

import os
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from evomerge.checkpoint import Checkpoint
from evomerge.errors import UsageError
from evomerge.merge.plan import Source
from evomerge.merge.transfer import Transfer
from evomerge.recipe import ModelRef

Residency = Literal["device", "host", "disk"]

_DEVICE_SHARE = 0.5  # of the accelerator's free memory; the rest is for the live model and its activations
_HOST_SHARE = 0.5  # of the machine's memory
_STATISTICS_SHARE = 0.25  # of what the sources may take


def resolve_device(name: str) -> torch.device:
    """The device of a name: `auto` (the accelerator, or else the CPU), `cpu`, `cuda`, `cuda:1`, ...

    Raises:
        UsageError: there is no such device.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return accelerator or torch.device("cpu")
    known = "auto, cpu" + (f", {accelerator.type}, {accelerator.type}:0 ..." if accelerator else "")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError("unknown device", where="device", expected=known, found=repr(name)) from None
    if device.type == "cpu":
        return torch.device("cpu")
    if accelerator is None or device.type != accelerator.type:
        raise UsageError("device not available", where="device", expected=known, found=repr(name))
    count = torch.accelerator.device_count()
    if device.index is not None and device.index >= count:
        raise UsageError("device not available", where="device", expected=f"an index below {count}", found=repr(name))
    return device


class Sources:
    """The source tensors, flat, wherever there is room for all of them.

    Args:
        checkpoints: the models.
        device: where merges are computed.
        keep: keep tensors between merges; a single merge reads each once and keeps none.
        device_share, host_share: of the device's and of the machine's memory that this process may count on, in (0, 1].

    Attributes:
        residency: `device`, `host` (pinned for an accelerator) or `disk` (mapped, read anew for each merge).
        room: bytes where merges are computed, for statistics that are as large as tensors; none for a single merge.
    """

    def __init__(
        self,
        checkpoints: Mapping[ModelRef, Checkpoint],
        device: torch.device,
        *,
        keep: bool = True,
        device_share: float = 1.0,
        host_share: float = 1.0,
    ) -> None:
        self.checkpoints = checkpoints
        self.device = device
        nbytes = sum(header.nbytes for each in checkpoints.values() for header in each.headers.values())
        on_device, on_host = _limits(device, device_share, host_share)
        self.residency: Residency = "disk"
        if keep and nbytes <= max(on_device, on_host):
            self.residency = "device" if nbytes <= on_device else "host"
        self.room = int(_STATISTICS_SHARE * (on_device if device.type == "cuda" else on_host)) if keep else 0
        self._kept: dict[Source, Tensor] = {}
        self._transfer = None if device.type == "cpu" else Transfer(device)

    def flat(self, source: Source) -> Tensor:
        """(n,) a tensor of a model, in the checkpoint's dtype. Never write to it.

        Raises:
            ModelError: the model has no such tensor.
        """
        if source in self._kept:
            return self._kept[source]
        made = self._read(source.ref, source.name) if source.rows is None else source.rows.take(self._read)
        flat = made.reshape(-1)
        if self.residency == "disk":
            return flat
        if self.residency == "device":
            flat = flat.to(self.device)
        elif self.device.type == "cuda":
            flat = flat.pin_memory()
        self._kept[source] = flat
        return flat

    def _read(self, ref: ModelRef, name: str) -> Tensor:
        return self.checkpoints[ref].read(name)

    def on_device(self, flats: tuple[Tensor, ...]) -> Iterator[tuple[slice, tuple[Tensor, ...]]]:
        """Operands of one length where they are computed with, piece by piece: the next is on its way meanwhile.

        Args:
            flats: (m,) each, from `flat`.

        Yields:
            The place of the piece, and the operands' parts there, in their dtypes, until the next is asked for.
        """
        if self._transfer is None or self.residency == "device":
            yield slice(0, flats[0].numel()), flats
        else:
            yield from self._transfer.pieces(flats)

    def release(self) -> None:
        """Give the memory that reading from disk has filled back to the system."""
        for checkpoint in self.checkpoints.values():
            checkpoint.release()


def _limits(device: torch.device, device_share: float, host_share: float) -> tuple[float, float]:
    """Bytes that sources may take of an accelerator's own memory, 0 if it has none, and of the machine's."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return _DEVICE_SHARE * device_share * free, _HOST_SHARE * host_share * host
