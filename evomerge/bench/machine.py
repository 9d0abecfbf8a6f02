"""The machine that a measurement holds for."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Machine:
    """What a reader needs to compare figures.

    Attributes:
        processor: its name.
        cores: that this process may use.
        memory: bytes; None where the system does not tell.
        accelerator: its name if merges are computed there.
        system, python, torch: versions.
        threads: of torch.
    """

    processor: str
    cores: int
    memory: int | None
    accelerator: str | None
    system: str
    python: str
    torch: str
    threads: int

    def __str__(self) -> str:
        memory = "" if self.memory is None else f", {self.memory / 2**30:.0f} GiB"
        accelerator = "" if self.accelerator is None else f", {self.accelerator}"
        versions = f"{self.system}, Python {self.python}, torch {self.torch} with {self.threads} threads"
        return f"{self.processor}, {self.cores} cores{memory}{accelerator}; {versions}"


def describe_machine(device: torch.device) -> Machine:
    """This machine, with the device that merges are computed on."""
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None,
        accelerator=_accelerator(device),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        torch=torch.__version__,
        threads=torch.get_num_threads(),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _accelerator(device: torch.device) -> str | None:
    if device.type == "cpu":
        return None
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
