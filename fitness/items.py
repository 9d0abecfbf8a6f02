"""Items: which documents of a task the search may see, and what each one scored."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

from fitness.errors import SuiteError
from fitness.suite import Holdout

Split = Literal["dev", "holdout", "all"]


@dataclass(frozen=True)
class TaskScores:
    """What one model scored on one task.

    Attributes:
        name: the task.
        metric: the metric.
        doc_ids: documents in ascending order, as indices into the task's own list.
        values: one finite number per document: the metric's value for it, 0 if it has none for a document alone. For
            perplexity-like metrics, which weigh a document by its length, it is its log-likelihood in nats.
        score: the task's own aggregation over these documents.
        higher_is_better: the metric's direction.
        weights: per document, the words or bytes that a perplexity-like metric divides by; None: all count the same.
        answers: per document, what the model answered, as `fitness.answers.given_answer` has it; None: none at all.
        jackknife: the score without each of a few groups of documents, as `fitness.jackknife.left_out` has it; None for
            a mean over items, for a single document, and where the aggregation needs them all.
    """

    name: str
    metric: str
    doc_ids: tuple[int, ...]
    values: tuple[float, ...]
    score: float
    higher_is_better: bool
    weights: tuple[float, ...] | None = None
    answers: tuple[str | None, ...] | None = None
    jackknife: tuple[float, ...] | None = None


Scores = dict[str, TaskScores]


def summary(scores: Mapping[str, TaskScores]) -> dict[str, float]:
    """The score of each task, without its items."""
    return {name: task.score for name, task in scores.items()}


def split(
    documents: Sequence[Mapping[str, Any]], holdout: Holdout, task_name: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split a task's documents into dev and holdout.

    Documents are ordered by a hash of (seed, content) and the first share is held out, so the split depends on nothing
    else: no generator, no platform, no order. Tasks over the same documents are split alike, and equal documents stay
    together: what one task holds out is never dev in another. A group of equal documents that would exceed the share
    stays in dev.

    Args:
        documents: the task's documents, JSON-like.
        holdout: share and seed.
        task_name: for the message of an error only.

    Returns:
        (dev, holdout), ids of documents, each ascending; holdout is empty when the fraction is 0.

    Raises:
        SuiteError: one of the two would be empty.
    """
    groups: dict[bytes, list[int]] = {}
    for number, document in enumerate(documents):
        groups.setdefault(sha256(f"{holdout.seed}/{canonical(document)}".encode()).digest(), []).append(number)
    room = round(holdout.fraction * len(documents))
    held: list[int] = []
    for digest in sorted(groups):
        if len(groups[digest]) <= room - len(held):
            held += groups[digest]
    if len(held) == len(documents) or (not held and holdout.fraction > 0):
        raise SuiteError(
            "split is empty",
            where=f"task {task_name}",
            expected="documents in both dev and holdout" if holdout.fraction > 0 else "at least one document",
            found=f"{len(documents)} documents, {len(groups)} of them distinct, holdout.fraction {holdout.fraction:g}",
            remedy="add documents or change holdout.fraction",
        )
    return tuple(sorted(set(range(len(documents))).difference(held))), tuple(sorted(held))


def race_order(documents: Sequence[Mapping[str, Any]], ids: Sequence[int], seed: int) -> tuple[int, ...]:
    """Documents by a hash of (seed, content), as `split` has them but drawn anew: a random order, and always the same.

    Args:
        documents: all documents of a task, JSON-like.
        ids: those to order, as indices into `documents`.
        seed: another seed gives another order.
    """
    return tuple(sorted(ids, key=lambda i: (sha256(f"race/{seed}/{canonical(documents[i])}".encode()).digest(), i)))


def canonical(value: Any) -> str:
    """The JSON of a value, the same for equal values, whatever the order of their keys; functions by their names."""
    return json.dumps(value, sort_keys=True, default=_text)


def _text(value: Any) -> str:
    # the text of a function holds its address
    return getattr(value, "__qualname__", type(value).__qualname__) if callable(value) else str(value)
