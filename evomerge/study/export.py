"""Handing over recipes: which candidate, its YAML, and the sidecar that says where it comes from."""

from pathlib import Path

from evomerge.errors import NothingFeasibleError, UsageError
from evomerge.study.folder import replace_file
from evomerge.study.journal import understanding
from evomerge.study.provenance import provenance
from evomerge.study.results import Candidate, Result
from evomerge.study.view import StudyView


def choose(study: StudyView, number: int | None = None) -> Candidate:
    """The candidate to export: the one of that number, or the study's winner.

    Raises:
        NothingFeasibleError: no number is given and no candidate clears every gate.
        UsageError: there is no candidate of that number.
        StudyError: the records of the study are damaged.
    """
    with understanding(study.folder.path):
        if number is not None:
            return study.candidate(number)
        winner = study.winner
    if winner is None:
        raise nothing_feasible(study)
    return winner


def pareto(study: StudyView) -> tuple[Candidate, ...]:
    """The feasible candidates that no other one beats: as good on every task and better on one. By number.

    Of candidates with equal scores the first stands for all.

    Raises:
        NothingFeasibleError: no candidate clears every gate.
    """
    signs = {task: 1 if facts["higher_is_better"] else -1 for task, facts in study.tasks().items()}
    first_with: dict[tuple[float, ...], Candidate] = {}
    for candidate in study.candidates():
        if candidate.feasible:
            first_with.setdefault(tuple(signs[task] * candidate.scores[task] for task in signs), candidate)
    if not first_with:
        raise nothing_feasible(study)
    return tuple(
        candidate
        for utilities, candidate in first_with.items()
        if not any(other != utilities and all(map(float.__ge__, other, utilities)) for other in first_with)
    )


def write_export(study: StudyView, candidate: Candidate, path: Path) -> Path:
    """Write a candidate's recipe, and its provenance beside it.

    Args:
        study: the candidate's study.
        candidate: what to export.
        path: of the YAML file; an older one is replaced.

    Returns:
        The path of the sidecar, `<stem>.provenance.json`.

    Raises:
        UsageError: the files cannot be written.
    """
    if path.is_dir():  # before the sidecar is written
        raise UsageError("cannot write the recipe", where=path, expected="a file", found="a folder")
    sidecar = path.with_name(f"{path.stem}.provenance.json")
    facts = provenance(study.name, candidate, study.finalists(), study.benchmarks, study.environment, study.config)
    try:
        replace_file(sidecar, facts.model_dump_json(indent=2).encode() + b"\n")
        replace_file(path, candidate.recipe.encode())
    except OSError as error:
        raise UsageError("cannot write the recipe", where=path, found=error.strerror) from error
    return sidecar


def make_folder(path: Path) -> None:
    """Make a folder for exports unless it is there. Raises UsageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("cannot write the recipes", where=path, expected="a folder", found=error.strerror) from error


def caution(study: StudyView, candidate: Candidate) -> str | None:
    """What speaks against handing over a candidate, in one line: a gate that it misses, or a race that stopped it."""
    finalist = next((each for each in study.finalists() if each.number == candidate.number), None)
    faults = [] if candidate.feasible else [_fault(candidate, "dev")]
    if finalist is not None and not finalist.feasible:
        faults.append(_fault(finalist, "holdout"))
    return " ".join(f"candidate {candidate.number} {' and '.join(faults)}".split()) if faults else None


def nothing_feasible(study: StudyView) -> NothingFeasibleError:
    """Why there is nothing to hand over: the finalists that holdout refused, else the candidate that came nearest."""
    candidates = study.candidates()
    resume = f"evomerge resume {study.folder.path} budget.candidates=N with a larger N"
    if any(candidate.feasible for candidate in candidates):
        refused = [each for each in study.finalists() if each.number is not None and not each.feasible]
        return NothingFeasibleError(
            "no finalist clears every gate on holdout",
            where=f"study {study.name}",
            found=", ".join(f"candidate {each.number} {_fault(each, 'holdout')}" for each in refused) or None,
            remedy=f"{resume}, or start a study with a wider genome",
        )
    scored = [candidate for candidate in candidates if candidate.objective is not None]
    # one that a race stopped may clear every gate so far
    nearest = min((each for each in scored if each.missed), key=lambda each: each.violation, default=None)
    found = f"{len(scored)} scored candidates"
    if nearest is not None:
        found += f", the nearest is number {nearest.number}, which misses {', '.join(nearest.missed)}"
    return NothingFeasibleError(
        "no candidate clears every gate",
        where=f"study {study.name}",
        found=found,
        remedy=f"{resume}, or start a study with wider gates",
    )


def _fault(result: Result, split: str) -> str:
    if result.objective is None:
        return f"failed on {split}: {result.reason}" if result.reason else f"has no score on {split} yet"
    if result.stopped is not None:
        return f"was stopped on {split}: {result.stopped}"
    return f"misses {', '.join(result.missed)} on {split}"
