"""What is asked of a worker and what it answers. Plain values that travel between processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evomerge.study.results import CACHED
from fitness.items import Scores, summary
from fitness.racing import Items

Split = Literal["dev", "holdout"]


@dataclass(frozen=True)
class Job:
    """One recipe to merge and score.

    Attributes:
        name: what the logs call it.
        recipe: the recipe as YAML.
        split: the documents to score it on.
        number: of the candidate, None for a baseline or a finalist.
        items: task -> documents of the split to score, other tasks not at all; None scores all of every task.
        answers: score the likelihood of the reference answers, one teacher-forced pass, instead of the metric.
        folder: merge to this folder on disk and score what lies there, instead of merging into the live model.
        fresh: score it now, whatever is known of an equal recipe.
    """

    name: str
    recipe: str
    split: Split = "dev"
    number: int | None = None
    items: Items | None = None
    answers: bool = False
    folder: str | None = None
    fresh: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        scores: task -> its scores; empty when it failed.
        seconds: of the phases `merge` and `score`.
        reason: why it failed, None when it did not.
        lost: the worker died with the job, so another attempt may succeed.
        broken: the worker's accelerator may be in a bad state: it is not to be given another job.
        warnings: what the worker logged as a warning.
    """

    scores: Scores = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    lost: bool = False
    broken: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def means(self) -> dict[str, float]:
        """task -> score, in the task's own unit."""
        return summary(self.scores)

    @property
    def item_evaluations(self) -> int:
        """How many documents were scored for it, over all tasks; what was known from an equal recipe cost none."""
        return 0 if CACHED in self.seconds else sum(len(task.doc_ids) for task in self.scores.values())
