"""Studies as tables for a terminal."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from evomerge.study.document import CandidateDetail, ResultDocument, StudyDocument, StudyEntry, StudySummary

SHOWN = 15  # candidates that the table of a study holds


def studies_table(entries: Iterable[StudyEntry]) -> Table:
    """One row for each study."""
    table = Table("study", "state", "candidates", "feasible", "best", "hours", box=None)
    for entry in entries:
        if isinstance(entry, StudySummary):
            best = "-" if entry.objective is None else f"{entry.objective:.4f}"
            counts = (str(entry.candidates), str(entry.feasible), best, f"{entry.hours:.2f}")
            table.add_row(Text(entry.study), entry.state, *counts)
        else:
            table.add_row(Text(entry.study), Text("broken", style="red"), Text(entry.reason))
    return table


def study_table(study: StudyDocument) -> Sequence[RenderableType]:
    """The study, its baselines, its best candidates, and the finalists on holdout."""
    ranked = sorted(study.candidates, key=_order)
    tasks = list(dict.fromkeys(task for row in (*study.baselines, *ranked) for task in row.scores))
    dev = Table("dev", *tasks, "objective", "gates", box=None)
    for baseline in study.baselines:
        _add(dev, baseline.name, tasks, baseline)
    dev.add_section()
    for candidate in ranked[:SHOWN]:
        _add(dev, f"candidate {candidate.number}", tasks, candidate)
    failed = sum(candidate.state == "failed" for candidate in study.candidates)
    feasible = sum(candidate.feasible for candidate in study.candidates)
    head = f"{study.study}: {study.state}, {len(study.candidates)} candidates, {feasible} feasible, {failed} failed"
    parts: list[RenderableType] = [Text(f"{head}, {study.hours:.2f} h", style="bold"), dev]
    if study.finalists:
        holdout = Table("holdout", *tasks, "objective", "gates", box=None)
        for finalist in study.finalists:
            name = finalist.name if finalist.number is None else f"candidate {finalist.number}"
            _add(holdout, name, tasks, finalist)
        parts.append(holdout)
    return parts


def candidate_table(candidate: CandidateDetail) -> Sequence[RenderableType]:
    """A candidate's scores on dev and holdout, and its recipe."""
    tasks = list(candidate.scores)
    table = Table(f"candidate {candidate.number}", *tasks, "objective", "gates", box=None)
    _add(table, f"dev ({candidate.state})", tasks, candidate)
    if candidate.holdout is not None:
        _add(table, "holdout", tasks, candidate.holdout)
    return [table, Syntax(candidate.recipe, "yaml", background_color="default")]


def _order(result: ResultDocument) -> tuple[bool, bool, float, float]:
    """Feasible ones by objective, then the others by their miss; failed and running ones last."""
    missed = sum(max(0.0, miss) for miss in result.violations.values())
    return (result.objective is None, not result.feasible, missed, -(result.objective or 0.0))


def _add(table: Table, name: str, tasks: Sequence[str], result: ResultDocument) -> None:
    if result.objective is None:
        table.add_row(Text(name), *["-"] * (len(tasks) + 1), Text(result.reason or "running"))
        return
    cells = [_score(task, result.scores, result.gates) for task in tasks]
    cleared = f"{sum(result.gates.values())}/{len(result.gates)}"
    table.add_row(Text(name), *cells, f"{result.objective:.4f}", Text(cleared, "green" if result.feasible else "red"))


def _score(task: str, scores: Mapping[str, float], gates: Mapping[str, bool]) -> Text:
    style = "" if task not in gates else "green" if gates[task] else "red"
    return Text(f"{scores[task]:.4f}" + ("" if gates.get(task, True) else " !"), style)
