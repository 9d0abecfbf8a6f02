"""What commands share: options, and how they print."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """Where the user's own options are."""
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="your models/, suite/, experiment/ ... folders")


def add_runs_dir(parser: argparse.ArgumentParser) -> None:
    """Where studies are."""
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")


def add_study(parser: argparse.ArgumentParser) -> None:
    """Which study."""
    parser.add_argument("study", metavar="STUDY", help="a name under the runs folder, or a path")
    add_runs_dir(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Where merges are computed."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda[:n] or any accelerator that torch knows")


def add_compile(parser: argparse.ArgumentParser, default: str) -> None:
    """When kernels are compiled."""
    parser.add_argument(
        "--compile",
        choices=["auto", "always", "never"],
        default=default,
        help="kernels: auto compiles where that saves more than it costs, and uses those of earlier runs "
        f"(default: {default})",
    )


def add_json(parser: "argparse.ArgumentParser | argparse._MutuallyExclusiveGroup") -> None:
    """A document instead of a table."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def show(*renderables: "RenderableType") -> None:
    """Print on standard output, one after another."""
    from rich.console import Console

    console = Console()
    for renderable in renderables:
        console.print(renderable)
