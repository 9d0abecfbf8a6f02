"""What is asked of a worker and what it answers. Plain values that travel between processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fitness.items import Scores, summary

Split = Literal["dev", "holdout"]


@dataclass(frozen=True)
class Job:
    """One recipe to merge and score.

    Attributes:
        name: what the logs call it.
        recipe: the recipe as YAML.
        split: the documents to score it on.
        number: of the candidate, None for a baseline or a finalist.
        folder: merge to this folder on disk and score what lies there, instead of merging into the live model.
    """

    name: str
    recipe: str
    split: Split = "dev"
    number: int | None = None
    folder: str | None = None


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
