"""The floor: what it takes to move the bytes of a merge, one pass that reads the sources and writes the output."""

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from evomerge.checkpoint import open_checkpoint
from evomerge.recipe import ModelRef


def disk_floor(models: Sequence[ModelRef], out: Path) -> float:
    """Seconds to read every byte of the models, mapped as a merge maps them, and to write those of one to a file.

    Args:
        models: with tensors of the same names, of a multiple of 8 bytes each.
        out: a file to write, flush to the disk and remove.
    """
    checkpoints = [open_checkpoint(model) for model in models]
    began = time.monotonic()
    with out.open("wb", buffering=0) as file:
        for name in checkpoints[0].headers:
            first, *others = (checkpoint.read(name) for checkpoint in checkpoints)
            for other in others:
                _read(other)
            raw = first.reshape(-1).view(torch.uint8).numpy().data
            while raw:
                raw = raw[file.write(raw) :]  # the system takes 2 GiB at most
        os.fsync(file.fileno())
    seconds = time.monotonic() - began
    out.unlink()
    return seconds


def memory_floor(operands: Iterable[tuple[Sequence[Tensor], Tensor]], device: torch.device) -> float:
    """Seconds to read every byte of the sources once and to write the parameters, with all threads.

    Args:
        operands: the sources, each (n,), of a multiple of 8 bytes, and the parameter (n,) that is written.
        device: of the parameters.
    """
    synchronize(device)
    began = time.monotonic()
    for (first, *others), target in operands:
        for other in others:
            _read(other.to(device))
        target.copy_(first)
    synchronize(device)
    return time.monotonic() - began


def synchronize(device: torch.device) -> None:
    """Wait for what the device was given to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _read(tensor: Tensor) -> None:
    """A sum of whole words runs at the speed of memory; one of bfloat16 does not."""
    tensor.reshape(-1).view(torch.int64).sum()
