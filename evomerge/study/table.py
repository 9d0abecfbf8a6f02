"""Studies as tables for a terminal."""

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from evomerge.study.document import CandidateDetail, ResultDocument, StudyDocument, StudyEntry, StudySummary
from evomerge.study.results import Range
from evomerge.study.status import duration
from evomerge.study.verdict import evidence, ranked, verdict

SHOWN = 15  # candidates that the table of a study holds


def studies_table(entries: Iterable[StudyEntry]) -> Table:
    """One row for each study."""
    table = Table("study", "state", "candidates", "feasible", "best", "gates", "hours", "left", box=None)
    for entry in entries:
        if isinstance(entry, StudySummary):
            table.add_row(
                Text(entry.study),
                entry.state,
                f"{entry.done}/{entry.total or '?'}",
                str(entry.feasible),
                "-" if entry.objective is None else _value(entry.objective, entry.objective_interval),
                "-" if entry.gates is None else f"{entry.gates_cleared}/{entry.gates}",
                f"{entry.hours:.2f}",
                "-" if entry.seconds_left is None else duration(entry.seconds_left),
            )
        else:
            table.add_row(Text(entry.study), Text("broken", style="red"), Text(entry.reason))
    return table


def study_table(study: StudyDocument) -> Sequence[RenderableType]:
    """The study: benchmarks that steered it, baselines and best candidates on dev, then holdout and the verdict."""
    best = ranked(study.candidates)
    rows: list[tuple[str, ResultDocument]] = [(baseline.name, baseline) for baseline in study.baselines]
    rows += [(f"candidate {candidate.number}", candidate) for candidate in best[:SHOWN]]
    failed = sum(candidate.state == "failed" for candidate in study.candidates)
    feasible = sum(candidate.feasible for candidate in study.candidates)
    head = f"{study.study}: {study.state}, {len(study.candidates)} candidates, {feasible} feasible, {failed} failed"
    if stopped := sum(candidate.stopped is not None for candidate in study.candidates):
        head += f", {stopped} stopped early"
    title = Text(f"{head}, {study.hours:.2f} h", style="bold")
    cut = [Text(f"the best {SHOWN} of {len(best)} that were scored; --json has all")] if len(best) > SHOWN else []
    return [*_warning(study), title, _table("dev", rows), *cut, *_ending(study)]


def ending_table(study: StudyDocument) -> Sequence[RenderableType]:
    """Benchmarks that steered it, baselines and finalists on holdout, where they have met it, and the verdict."""
    return [*_warning(study), *_ending(study)]


def candidate_table(candidate: CandidateDetail) -> Sequence[RenderableType]:
    """A candidate's scores on dev and holdout, and its recipe."""
    state = candidate.state if candidate.stopped is None else f"stopped: {candidate.stopped}"
    rows: list[tuple[str, ResultDocument]] = [(f"dev ({state})", candidate)]
    if candidate.holdout is not None:
        rows.append(("holdout", candidate.holdout))
    recipe = Syntax(candidate.recipe, "yaml", background_color="default")
    return [_table(f"candidate {candidate.number}", rows), recipe]


def _warning(study: StudyDocument) -> Sequence[Text]:
    if not study.benchmarks:
        return []
    text = f"Public benchmarks steered this search: {', '.join(study.benchmarks)}. Do not report its scores on them."
    return [Text(text, style="bold red")]


def _ending(study: StudyDocument) -> Sequence[RenderableType]:
    rows = [
        (finalist.name if finalist.number is None else f"candidate {finalist.number}", finalist)
        for finalist in study.finalists
    ]
    return [*([_table("holdout", rows)] if rows else []), Text(" ".join([verdict(study).text, *evidence(study)]))]


def _table(title: str, rows: Sequence[tuple[str, ResultDocument]]) -> Table:
    """One row for each result: its score on each task, its objective, and how many gates it clears."""
    tasks = list(dict.fromkeys(task for _, result in rows for task in result.scores))
    doubts = any(result.objective_interval for _, result in rows)
    limits = any(result.limits for _, result in rows)
    notes = ["±: to the farther limit of a 95 % interval"] * doubts + ["in brackets: held against a gate"] * limits
    table = Table(title, *tasks, "objective", "gates", box=None, caption="; ".join(notes) or None)
    table.caption_justify = "left"
    table.columns[0].overflow = "fold"
    for name, result in rows:
        if result.objective is None:
            ended = result.reason or result.stopped or "running"
            table.add_row(Text(name), *["-"] * (len(tasks) + 1), Text(ended))
            continue
        cells = [_score(task, result) for task in tasks]
        cleared = f"{sum(result.gates.values())}/{len(result.gates)}"
        style = "green" if result.feasible else "red"
        objective = _value(result.objective, result.objective_interval)
        table.add_row(Text(name), *cells, objective, Text(cleared, style))
    return table


def _score(task: str, result: ResultDocument) -> Text:
    style = "" if task not in result.gates else "green" if result.gates[task] else "red"
    limit = f" ({result.limits[task]:.4f})" if task in result.limits else ""
    missed = "" if result.gates.get(task, True) else " !"
    return Text(_value(result.scores[task], result.intervals.get(task)) + limit + missed, style)


def _value(value: float, interval: Range | None) -> str:
    if interval is None:
        return f"{value:.4f}"
    reach = f"{max(value - interval[0], interval[1] - value):.3f}"
    return f"{value:.4f} ±{reach.removeprefix('0')}"
