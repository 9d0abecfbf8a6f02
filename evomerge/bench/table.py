"""What was measured, for a terminal."""

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from evomerge.bench.candidate import CandidateReport
from evomerge.bench.dashboard import DashboardReport
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
        "to disk\nfirst s",
        "\nthen s",
        "\nx floor",
        "\nGB/s",
        "peak\nMB",
        "live\nfirst s",
        "\nthen s",
        "\nx floor",
        "\nGB/s",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    for cost in report.methods:
        disk, live = cost.disk, cost.live
        table.add_row(
            cost.method,
            str(cost.models),
            f"{disk.first:.2f}",
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


def candidate_table(report: CandidateReport) -> Sequence[RenderableType]:
    """The machine, what was scored, and the parts of a candidate: in a worker, and through the disk."""
    documents = ", ".join(f"{count} of {task}" for task, count in report.documents.items())
    head = f"{report.parameters / 1e6:.1f}M parameters in {report.dtype}, median of {report.repeat} candidates"
    live, disk = report.live, report.disk
    table = Table("seconds", "in a worker", *([] if disk is None else ["through the disk"]), box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    rows = [
        ("merge", live.merge, disk and disk.merge),
        ("load", None, disk and disk.load),
        ("score", live.score, disk and disk.evaluate),
        ("  of it passes", None, disk and disk.passes),
        ("judge", live.judge, None),
        ("whole candidate", live.whole, disk and disk.whole),
        ("bare forward passes", live.bare, None),
    ]
    for name, *seconds in rows:
        cells = ["" if each is None else f"{each:.4f}" for each in seconds]
        if any(cells[: len(table.columns) - 1]):
            table.add_row(name, *cells[: len(table.columns) - 1])
    told = [f"whole candidate: {live.ratio:.2f} x bare forward passes; {live.per_hour:,.0f} candidates/h per worker"]
    if disk is not None:
        told.append(
            f"through the disk: {disk.whole / live.whole:.1f} x; simple_evaluate's passes: "
            f"{disk.passes / live.score:.1f} x scoring; largest difference of a score: {disk.difference:g}"
        )
    return [Text(str(report.machine)), Text(head), Text(f"dev documents: {documents}"), table, *map(Text, told)]


def dashboard_table(report: DashboardReport) -> Sequence[RenderableType]:
    """The machine, the large study, one row for each page, and what a search loses."""
    head = (
        f"{report.candidates:,} candidates x {report.tasks} tasks, {report.dimensions} dimensions, "
        f"journal of {report.journal / 1e6:.0f} MB"
    )
    opening = (
        f"start-up: {report.startup:.2f} s; first byte of the Study page of a dashboard that has just started: "
        f"{1000 * report.cold:.0f} ms; study shown {report.ready:.1f} s after the start"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("page\n", overflow="fold")
    for title in ("first byte\nms", "slowest\nms", "last byte\nms", "size\nkB"):
        table.add_column(title, justify="right", no_wrap=True)
    for page in report.pages:
        cells = (1000 * page.first_byte, 1000 * page.slowest, 1000 * page.whole, page.size / 1e3)
        table.add_row(page.path, *(f"{cell:.0f}" for cell in cells))
    told = [f"Study page just after a candidate was added: first byte after {1000 * report.changed:.0f} ms"]
    if report.memory is not None:
        told.append(f"memory of the dashboard: {report.memory / 1e6:,.0f} MB at most")
    if (seen := report.seen) is None:
        told.append("no browser was found")
    else:
        told.append(
            f"in a browser: first byte {seen.first_byte:.2f} s, scripts run {seen.listening:.2f} s, usable with its "
            f"first figure {seen.usable:.2f} s"
        )
    if (search := report.search) is not None:
        value, low, high = search.loss
        told.append(
            f"a search: {search.without:,.0f} candidates/h alone, {search.following:,.0f} with a page that follows; "
            f"loss {value:.1%} [{low:.1%}, {high:.1%}] over {search.windows} windows of each kind"
        )
        if search.busy is not None and search.idle is not None:
            told.append(f"the dashboard takes {search.busy:.1%} of a core meanwhile, {search.idle:.1%} when idle")
    return [Text(str(report.machine)), Text(head), Text(opening), table, *map(Text, told)]
