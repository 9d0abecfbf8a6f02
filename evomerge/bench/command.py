"""The commands `evomerge bench merge`, `evomerge bench candidate` and `evomerge bench dashboard`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from evomerge.terminal import add_compile, add_config_dir, add_device, add_json, show

if TYPE_CHECKING:
    from rich.console import RenderableType


class _Report(Protocol):
    def to_json(self) -> str: ...


R = TypeVar("R", bound=_Report)


def add_merge(parser: argparse.ArgumentParser) -> None:
    """The options of `evomerge bench merge`."""
    parser.description = (
        "Make synthetic models, merge them to disk and into a live model, and compare with the floor: one pass that "
        "reads the same source bytes and writes the output bytes. Methods for two models get two."
    )
    parser.add_argument("--params", default="350M", metavar="N", help="parameters of each model (default: 350M)")
    parser.add_argument("--parents", type=int, default=3, metavar="N", help="models besides the base (default: 3)")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    parser.add_argument("--methods", default="all", metavar="A,B", help="names, or all (the default)")
    add_device(parser)
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs to take the median of (default: 3)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the models there, and leave them")
    add_compile(parser, "always")
    add_json(parser)
    parser.set_defaults(run=_bench_merge)


def add_candidate(parser: argparse.ArgumentParser) -> None:
    """The options of `evomerge bench candidate`."""
    parser.description = (
        "Merge candidates into a live model, score and judge them, and compare with their forward passes alone; and "
        "with the way through the disk: merge, load, simple_evaluate."
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as of search (default: experiment=demo)")
    add_config_dir(parser)
    parser.add_argument("--params", metavar="N", help="synthetic models of N parameters, such as 30M, instead")
    parser.add_argument("--shots", type=int, metavar="N", help="a generated task with N examples each, instead")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="candidates to take the median of")
    parser.add_argument(
        "--compare",
        action=argparse.BooleanOptionalAction,
        help="also through the disk (default: unless there are overrides)",
    )
    add_json(parser)
    parser.set_defaults(run=_bench_candidate)


def add_dashboard(parser: argparse.ArgumentParser) -> None:
    """The options of `evomerge bench dashboard`."""
    parser.description = (
        "Write a large study of drawn scores, measure how soon a dashboard shows its pages, and how many candidates an "
        "hour a search of the demo loses to a page that follows it."
    )
    parser.add_argument("--candidates", type=int, default=10_000, metavar="N", help="of that study (default: 10000)")
    parser.add_argument("--tasks", type=int, default=5, metavar="N", help="of that study (default: 5)")
    parser.add_argument(
        "--repeat", type=int, default=5, metavar="N", help="requests to take the median of (default: 5)"
    )
    parser.add_argument(
        "--windows", type=int, default=10, metavar="N", help="of time with a page, and as many without (0: no search)"
    )
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="that each lasts (default: 20)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the study there, or use the one that is there")
    add_json(parser)
    parser.set_defaults(run=_bench_dashboard)


def _bench_merge(options: argparse.Namespace) -> int:
    from evomerge.bench.merge import Report, bench_merge
    from evomerge.bench.table import bench_table

    def measure(say: Callable[[str], None]) -> Report:
        return bench_merge(
            options.params,
            options.parents,
            options.dtype,
            methods=options.methods,
            device=options.device,
            repeat=options.repeat,
            kernels=options.compile,
            keep=options.keep,
            say=say,
        )

    return _bench(options, measure, bench_table)


def _bench_candidate(options: argparse.Namespace) -> int:
    from evomerge.bench.candidate import CandidateReport, bench_candidate
    from evomerge.bench.table import candidate_table

    def measure(say: Callable[[str], None]) -> CandidateReport:
        return bench_candidate(
            options.overrides,
            options.config_dir,
            parameters=options.params,
            shots=options.shots,
            repeat=options.repeat,
            compare=not options.overrides if options.compare is None else options.compare,
            say=say,
        )

    return _bench(options, measure, candidate_table)


def _bench_dashboard(options: argparse.Namespace) -> int:
    from evomerge.bench.dashboard import DashboardReport, bench_dashboard
    from evomerge.bench.table import dashboard_table

    def measure(say: Callable[[str], None]) -> DashboardReport:
        return bench_dashboard(
            options.candidates,
            options.tasks,
            repeat=options.repeat,
            windows=options.windows,
            seconds=options.seconds,
            keep=options.keep,
            say=say,
        )

    return _bench(options, measure, dashboard_table)


def _bench(
    options: argparse.Namespace,
    measure: Callable[[Callable[[str], None]], R],
    table: "Callable[[R], Sequence[RenderableType]]",
) -> int:
    """Measure, telling what is under way, and print the report."""
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        report = measure(status.update)
    if options.json:
        print(report.to_json())
    else:
        show(*table(report))
    return 0
