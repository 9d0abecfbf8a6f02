"""Studies as tables for a terminal."""

from collections.abc import Iterable, Mapping, Sequence

from rich.console import RenderableType
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from evomerge.study.document import CandidateDetail, ResultDocument, StudyDocument, StudyEntry, StudySummary
from evomerge.study.verdict import ranked, verdict

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
    """The study: benchmarks that steered it, baselines and best candidates on dev, then holdout and the verdict."""
    best = ranked(study.candidates)
    rows: list[tuple[str, ResultDocument]] = [(baseline.name, baseline) for baseline in study.baselines]
    rows += [(f"candidate {candidate.number}", candidate) for candidate in best[:SHOWN]]
    failed = sum(candidate.state == "failed" for candidate in study.candidates)
    feasible = sum(candidate.feasible for candidate in study.candidates)
    head = f"{study.study}: {study.state}, {len(study.candidates)} candidates, {feasible} feasible, {failed} failed"
    title = Text(f"{head}, {study.hours:.2f} h", style="bold")
    return [*_warning(study), title, _table("dev", rows), *_ending(study)]


def ending_table(study: StudyDocument) -> Sequence[RenderableType]:
    """Benchmarks that steered it, baselines and finalists on holdout, where they have met it, and the verdict."""
    return [*_warning(study), *_ending(study)]


def candidate_table(candidate: CandidateDetail) -> Sequence[RenderableType]:
    """A candidate's scores on dev and holdout, and its recipe."""
    rows: list[tuple[str, ResultDocument]] = [(f"dev ({candidate.state})", candidate)]
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
    return [*([_table("holdout", rows)] if rows else []), Text(verdict(study).text)]


def _table(title: str, rows: Sequence[tuple[str, ResultDocument]]) -> Table:
    """One row for each result: its score on each task, its objective, and how many gates it clears."""
    tasks = list(dict.fromkeys(task for _, result in rows for task in result.scores))
    table = Table(title, *tasks, "objective", "gates", box=None)
    for name, result in rows:
        if result.objective is None:
            table.add_row(Text(name), *["-"] * (len(tasks) + 1), Text(result.reason or "running"))
            continue
        cells = [_score(task, result.scores, result.gates) for task in tasks]
        cleared = f"{sum(result.gates.values())}/{len(result.gates)}"
        style = "green" if result.feasible else "red"
        table.add_row(Text(name), *cells, f"{result.objective:.4f}", Text(cleared, style))
    return table


def _score(task: str, scores: Mapping[str, float], gates: Mapping[str, bool]) -> Text:
    style = "" if task not in gates else "green" if gates[task] else "red"
    return Text(f"{scores[task]:.4f}" + ("" if gates.get(task, True) else " !"), style)
