"""What was measured, for a terminal."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from evomerge.bench.merge import Report


def bench_table(report: Report) -> Sequence[RenderableType]:
    """The machine, start-up, and one row for each method."""
    ratio = report.startup / report.import_torch
    head = (
        f"{report.parents} parents and a base of {report.parameters / 1e6:.0f}M parameters in {report.dtype}, "
        f"median of {report.repeat} runs, compile: {report.kernels}"
    )
    startup = (
        f"start-up of `evomerge merge`: {report.startup:.2f} s, {ratio:.2f} x `python -c 'import torch'` "
        f"({report.import_torch:.2f} s)"
    )
    table = Table(box=None, pad_edge=False, collapse_padding=True)  # fits into 80 columns
    table.add_column("method\n", no_wrap=True)
    table.add_column("models\n", justify="right")
    for title in (
        "to disk\ns",
        "\nx floor",
        "\nGB/s",
        "peak\nMB",
        "live\nfirst s",
        "\ncached s",
        "\nx floor",
        "\nGB/s",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for cost in report.methods:
        disk, live = cost.disk, cost.live
        table.add_row(
            cost.method,
            str(cost.models),
            f"{disk.seconds:.2f}",
            f"{disk.ratio:.2f}",
            f"{disk.gbps:.2f}",
            "-" if disk.anonymous is None else f"{disk.anonymous / 1e6:.0f}",
            f"{live.first:.2f}",
            f"{live.seconds:.3f}",
            f"{live.ratio:.2f}",
            f"{live.gbps:.1f}",
        )
    floor = "floor: one pass that reads the same source bytes and writes the output bytes, measured in the same run"
    peak = "peak: anonymous memory of a merge to disk, beyond that of an interpreter with torch loaded"
    return [Text(str(report.machine)), Text(head), Text(startup), table, Text(f"{floor}\n{peak}", style="dim")]
