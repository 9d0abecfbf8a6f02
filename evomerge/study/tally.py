"""What can be counted of candidates one by one, so that a long study need not be gone through at every look."""

from collections.abc import Iterable
from dataclasses import dataclass

from evomerge.study.results import Candidate


@dataclass(frozen=True)
class Tally:
    """Counts over candidates.

    Attributes:
        candidates: how many there are.
        done: how many have their result.
        feasible: how many clear every gate.
        best: the feasible one whose objective has the highest lower limit, the earliest among equals.
        nearest: of those with an objective the one that misses the gates by least, the earliest among equals; none that
            a race stopped before it missed any.
        item_evaluations: how many documents were scored for them, over all tasks.
    """

    candidates: int = 0
    done: int = 0
    feasible: int = 0
    best: Candidate | None = None
    nearest: Candidate | None = None
    item_evaluations: int = 0

    def plus(self, candidates: Iterable[Candidate]) -> "Tally":
        """With these candidates, which come later than all so far."""
        count, done, feasible, evaluations = self.candidates, self.done, self.feasible, self.item_evaluations
        best, nearest = self.best, self.nearest
        for each in candidates:
            count += 1
            if each.state == "running":
                evaluations += each.rungs[-1].item_evaluations if each.rungs else 0
                continue
            done += 1
            evaluations += each.item_evaluations
            if each.feasible:
                feasible += 1
                if best is None or each.floor > best.floor:
                    best = each
            judged = each.objective is not None and (each.feasible or each.missed)
            if judged and (nearest is None or each.violation < nearest.violation):
                nearest = each
        return Tally(count, done, feasible, best, nearest, evaluations)
