"""The jackknife: an interval for a score that only all documents together have, such as corpus BLEU or F1.

The documents are dealt into groups, and the score without each group in turn tells how much it depends on which
documents were drawn: the delete-a-group jackknife of Shao and Tu, "The Jackknife and Bootstrap" (1995), and of Kott,
"The delete-a-group jackknife" (2001).
"""

import math
from collections.abc import Callable, Sequence
from hashlib import sha256

import numpy as np
from scipy.special import stdtrit

from fitness.confidence import CONFIDENCE, Estimate, Values, alike

GROUPS = 20


def left_out(ids: Sequence[int], score: Callable[[Sequence[int]], float]) -> tuple[float, ...] | None:
    """The score without each group of documents in turn.

    Documents are dealt in an order that depends on nothing but their ids, so models that were scored on the same ones
    share their groups. There are `GROUPS` of them, as equal as can be; of fewer documents, each is a group.

    Args:
        ids: of the documents.
        score: places in `ids`, ascending -> score over these documents.

    Returns:
        One score per group; None for fewer than two documents.

    Raises:
        ValueError: a score is not finite.
        Whatever `score` raises.
    """
    if len(ids) < 2:
        return None
    dealt = sorted(range(len(ids)), key=lambda place: sha256(f"jackknife/{ids[place]}".encode()).digest())
    groups = [set(dealt[first::GROUPS]) for first in range(min(GROUPS, len(ids)))]
    scores = tuple(score([place for place in range(len(ids)) if place not in group]) for group in groups)
    if not all(map(math.isfinite, scores)):
        raise ValueError("without some of them it is not finite")
    return scores


def estimate(value: float, without: Values, confidence: float = CONFIDENCE) -> Estimate:
    """A value and its two-sided interval: Student's, with one degree of freedom less than there are groups.

    The variance is (G - 1) / G times the sum of the squared deviations of the G values from their mean.

    Args:
        value: over all documents.
        without: (G,), the same without each group in turn, G >= 2.
        confidence: in [0.5, 1).

    Returns:
        The limits are infinite where the G are equal: that no group matters is no proof that no document does.
    """
    if alike(without):
        return Estimate(value, -math.inf, math.inf)
    x = np.asarray(without, dtype=np.float64)
    error = math.sqrt((len(x) - 1) * x.var())
    reach = float(stdtrit(len(x) - 1, (1 + confidence) / 2)) * error
    return Estimate(value, value - reach, value + reach)
