"""What a study came to: the order of its candidates, and whether the search was worth it, in words."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from evomerge.study.document import (
    BaselineDocument,
    CandidateDocument,
    FinalistDocument,
    Lead,
    ResultDocument,
    StudyDocument,
)
from fitness.ranking import violation

R = TypeVar("R", bound=ResultDocument)

Kind: TypeAlias = Literal["feasible", "infeasible", "stopped", "failed", "running"]
"""What became of a candidate: scored on all items and every gate cleared, or not; stopped by a race; failed; or none
of these yet."""


@dataclass(frozen=True)
class Verdict:
    """Whether the search was worth it, in words.

    Attributes:
        text: whole sentences.
        good: the candidate to export beats every baseline that clears the gates.
    """

    text: str
    good: bool


def verdict(study: StudyDocument) -> Verdict:
    """What became of the search: on holdout where the candidate to export was scored there, else on dev."""
    best = study.best
    if all(candidate.objective is None for candidate in study.candidates):
        return Verdict("No candidate has been scored yet.", good=False)
    if best is None:
        where = " on holdout" if any(candidate.feasible for candidate in study.candidates) else ""
        return Verdict(f"No candidate clears every gate{where}: there is nothing to export.", good=False)
    on_holdout = next((each for each in study.finalists if each.number == best.number), None)
    if on_holdout is not None:
        return _compare(f"On holdout candidate {best.number}", on_holdout, _baselines(study.finalists))
    compared = _compare(f"On dev candidate {best.number}", best, study.baselines)
    return Verdict(f"{compared.text} It has not been scored on holdout.", compared.good)


def evidence(study: StudyDocument) -> list[str]:
    """How sure the lead of the candidate to export is, and how far dev flattered it, in sentences."""
    best = study.best
    if best is None:
        return []
    sentences = []
    for each in study.differences:
        if each.candidate == best.number:
            kind = "the plain uniform merge" if each.rival == "uniform" else f"the best parent ({each.rival})"
            leads = each.objective[0] >= 0
            by = each.objective if leads else _turned(each.objective)
            ahead = f"{'leads' if leads else 'trails'} {kind} by {signed(by)}"
            doubt = "" if by[1] is not None and by[1] > 0 else ", which may be chance"
            where = "holdout documents" if each.split == "holdout" else "dev documents, which steered the search,"
            sentences.append(f"Over the same {where} it {ahead}{doubt}.")
    for finalist in study.finalists:
        if finalist.number == best.number and finalist.optimism is not None:
            sentences.append(
                f"Dev was kinder to it than holdout by {signed(finalist.optimism)}: the winner's optimism."
            )
    return sentences


def signed(difference: Lead) -> str:
    """A difference with its interval, as text."""
    value, low, high = difference
    return f"{value:+.4f} (no interval)" if low is None or high is None else f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def kind_of(candidate: CandidateDocument) -> Kind:
    """What became of a candidate."""
    if candidate.state != "complete":
        return candidate.state
    if candidate.stopped is not None:
        return "stopped"
    return "feasible" if candidate.feasible else "infeasible"


def ranked(candidates: Iterable[CandidateDocument]) -> list[CandidateDocument]:
    """Those scored on all items: feasible ones by the objective's lower limit, then the others by how far they miss."""

    def place(candidate: CandidateDocument) -> tuple[bool, float, float, int]:
        missed = violation(candidate.violations.values())
        return (not candidate.feasible, missed, -candidate.floor, candidate.number)

    whole = (each for each in candidates if each.objective is not None and each.stopped is None)
    return sorted(whole, key=place)


def best_result(results: Iterable[R]) -> R | None:
    """The feasible one with the highest objective, the first among equals; None if there is none."""
    feasible = (result for result in results if result.feasible)
    return max(feasible, key=lambda result: result.objective or 0.0, default=None)


def _compare(subject: str, result: ResultDocument, baselines: Sequence[BaselineDocument | FinalistDocument]) -> Verdict:
    if result.objective is None:
        return Verdict(f"{subject} failed.", good=False)
    top = best_result(baselines)
    if not result.feasible:
        text, good = f"{subject} misses {_missed(result)}.", False
    elif top is None:
        text, good = f"{subject} clears every gate with {result.objective:.4f}; no baseline does.", True
    else:
        against = f"{result.objective:.4f} against {top.objective:.4f} for {top.name}"
        good = result.objective > (top.objective or 0.0)
        claim = "beats every baseline that clears the gates" if good else "does not beat the best baseline"
        text = f"{subject} {claim}: {against}."
    for rival in baselines:
        if rival.objective is not None and not rival.feasible and rival.objective >= result.objective:
            text += f" {rival.name} reaches {rival.objective:.4f}, but misses {_missed(rival)}."
    return Verdict(text, good)


def _turned(lead: Lead) -> Lead:
    """The same, as the other is ahead."""
    value, low, high = lead
    return -value, None if high is None else -high, None if low is None else -low


def _missed(result: ResultDocument) -> str:
    names = [task for task, cleared in result.gates.items() if not cleared]
    return f"the gate{'s' if len(names) > 1 else ''} of {', '.join(names)}"


def _baselines(finalists: Iterable[FinalistDocument]) -> list[FinalistDocument]:
    return [each for each in finalists if each.number is None]
