"""Items: which documents of a task the search may see, and what each one scored."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

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
        values: one finite number per document: the metric's value for it. For perplexity-like metrics, which weigh a
            document by its length, it is the document's log-likelihood in nats.
        score: the task's own aggregation over these documents.
        higher_is_better: the metric's direction.
    """

    name: str
    metric: str
    doc_ids: tuple[int, ...]
    values: tuple[float, ...]
    score: float
    higher_is_better: bool


Scores = dict[str, TaskScores]


def summary(scores: Mapping[str, TaskScores]) -> dict[str, float]:
    """The score of each task, without its items."""
    return {name: task.score for name, task in scores.items()}


def split(doc_count: int, holdout: Holdout, task_name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Split a task's documents into dev and holdout.

    Documents are ordered by a hash of (seed, task, index) and the first share is held out, so the split depends on
    nothing else: no generator, no platform, no other task.

    Args:
        doc_count: how many documents the task has.
        holdout: share and seed.
        task_name: enters the hash, so that tasks over one file are split independently.

    Returns:
        (dev, holdout), each ascending; holdout is empty when the fraction is 0.

    Raises:
        SuiteError: one of the two would be empty.
    """
    count = round(holdout.fraction * doc_count)
    if count == doc_count or (count == 0 and holdout.fraction > 0):
        raise SuiteError(
            "split is empty",
            where=f"task {task_name}",
            expected="documents in both dev and holdout" if holdout.fraction > 0 else "at least one document",
            found=f"{doc_count} documents, holdout.fraction {holdout.fraction:g}",
            remedy="add documents or change holdout.fraction",
        )
    order = sorted(range(doc_count), key=lambda doc: sha256(f"{holdout.seed}/{task_name}/{doc}".encode()).digest())
    return tuple(sorted(order[count:])), tuple(sorted(order[:count]))
