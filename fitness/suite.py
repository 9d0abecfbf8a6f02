"""The suite: tasks, metrics, weights, gates, and the split of their documents into dev and holdout."""

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fitness.errors import SuiteError, nearest

BASE = "base"
BEST_PARENT = "best_parent"

Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Gate(_Section):
    """A bound that the score of one task must meet.

    Without `of` the bound is the number itself. With it, the bound is the number times the score of a reference:
    `{at_least: 0.98, of: best_parent}` asks for at least 98 % of the best parent's score, and
    `{at_most: 1.05, of: base}` allows a perplexity up to 5 % above the base's.

    Attributes:
        at_least: the score must not be lower.
        at_most: the score must not be higher. Exactly one of the two is given.
        of: `base`, `best_parent` or the name of a parent.
    """

    at_least: Finite | None = None
    at_most: Finite | None = None
    of: str | None = None

    @property
    def factor(self) -> float:
        """The number that was given, whichever side it bounds."""
        return self.at_least if self.at_least is not None else self.at_most  # type: ignore[return-value]

    def __str__(self) -> str:
        side = ">=" if self.at_least is not None else "<="
        return f"{side} {self.factor:g}" + (f" x {self.of}" if self.of else "")


class TaskSpec(_Section):
    """One lm-eval task and how it counts.

    Attributes:
        name: the task's name in lm-eval or in a file under `include_path`.
        metric: one of the metrics in the task's `metric_list`.
        filter: one of the task's filters; may be left out when it has one only.
        num_fewshot: examples before each document, >= 0; None takes what the task says.
        weight: share in the objective, > 0.
        gate: the bound that the score must meet, if any.
    """

    name: str
    metric: str
    filter: str | None = None
    num_fewshot: int | None = Field(default=None, ge=0)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    gate: Gate | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if self.gate is not None and (self.gate.at_least is None) == (self.gate.at_most is None):
            raise SuiteError(
                "gate needs one bound",
                where=f"task {self.name}",
                expected="either at_least or at_most",
                found="neither" if self.gate.at_least is None else "both",
            )
        return self


class Holdout(_Section):
    """How many documents of each task the search never sees.

    Attributes:
        fraction: share of the documents, in [0, 1).
        seed: another seed chooses other documents.
    """

    fraction: float = Field(default=0.3, ge=0, lt=1)
    seed: int = 0


class SuiteConfig(_Section):
    """What a candidate is scored on, as written in a suite file.

    Attributes:
        include_path: folders with lm-eval task files; they win over lm-eval's own tasks.
        objective: how the tasks' scores become one number.
        tasks: at least one, each name once.
        holdout: the split of each task's documents.
        batch_size: requests per forward pass, > 0.
        max_length: longest sequence in tokens; None takes the model's.
        apply_chat_template: render prompts with the tokenizer's chat template.
        allow_benchmarks: permit the test splits of public benchmarks to steer the search.

    Raises:
        SuiteError: a task is listed twice, or a gate has no bound or two.
        pydantic.ValidationError: an unknown key, or a value of the wrong type or range.
    """

    include_path: tuple[str, ...] = ()
    objective: Literal["weighted_mean"] = "weighted_mean"
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    holdout: Holdout = Holdout()
    batch_size: int = Field(default=16, ge=1)
    max_length: int | None = Field(default=None, ge=1)
    apply_chat_template: bool = False
    allow_benchmarks: bool = False

    @model_validator(mode="after")
    def _each_task_once(self) -> Self:
        name, count = Counter(task.name for task in self.tasks).most_common(1)[0]
        if count > 1:
            raise SuiteError("task is listed twice", where=f"task {name}", remedy="keep one of them")
        return self

    def check_references(self, parents: Sequence[str]) -> None:
        """Check that every relative gate names a model of the study.

        Args:
            parents: names of the parents.

        Raises:
            SuiteError: a gate is relative to a model that is neither the base nor a parent.
        """
        known = [BASE, BEST_PARENT, *parents]
        for task in self.tasks:
            if task.gate is not None and task.gate.of is not None and task.gate.of not in known:
                raise SuiteError(
                    "gate refers to an unknown model",
                    where=f"task {task.name}",
                    found=repr(task.gate.of),
                    remedy=nearest(task.gate.of, known),
                )
