"""The commands `evomerge bench merge` and `evomerge bench candidate`."""

import argparse
from pathlib import Path

from evomerge.terminal import add_compile, add_config_dir, add_device, add_json, show


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


def _bench_merge(options: argparse.Namespace) -> int:
    from rich.console import Console

    from evomerge.bench.merge import bench_merge
    from evomerge.bench.table import bench_table

    with Console(stderr=True).status("starting") as status:
        report = bench_merge(
            options.params,
            options.parents,
            options.dtype,
            methods=options.methods,
            device=options.device,
            repeat=options.repeat,
            kernels=options.compile,
            keep=options.keep,
            say=status.update,
        )
    if options.json:
        print(report.to_json())
    else:
        show(*bench_table(report))
    return 0


def _bench_candidate(options: argparse.Namespace) -> int:
    from rich.console import Console

    from evomerge.bench.candidate import bench_candidate
    from evomerge.bench.table import candidate_table

    with Console(stderr=True).status("starting") as status:
        report = bench_candidate(
            options.overrides,
            options.config_dir,
            parameters=options.params,
            shots=options.shots,
            repeat=options.repeat,
            compare=not options.overrides if options.compare is None else options.compare,
            say=status.update,
        )
    if options.json:
        print(report.to_json())
    else:
        show(*candidate_table(report))
    return 0
