"""The suite: tasks, metrics, weights, gates, and the split of their documents into dev and holdout."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, field_validator, model_validator

from fitness.errors import SuiteError, nearest

BASE = "base"
BEST_PARENT = "best_parent"

Finite = Annotated[float, Field(allow_inf_nan=False)]

_ROWS: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=1)])


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
        confidence: of the score's two-sided interval, in [0.5, 1), whose lower end (upper for `at_most`) must meet the
            bound; None: the score itself must.
    """

    at_least: Finite | None = None
    at_most: Finite | None = None
    of: str | None = None
    confidence: float | None = Field(default=None, ge=0.5, lt=1)

    @property
    def factor(self) -> float:
        """The number that was given, whichever side it bounds."""
        return self.at_least if self.at_least is not None else self.at_most  # type: ignore[return-value]

    def __str__(self) -> str:
        side = ">=" if self.at_least is not None else "<="
        bound = f"{side} {self.factor:g}" + (f" x {self.of}" if self.of else "")
        return bound if self.confidence is None else f"{bound} with confidence {self.confidence:g}"


class TaskSpec(_Section):
    """One lm-eval task and how it counts.

    Attributes:
        name: the task's name in lm-eval or in a file under `include_path`.
        metric: one of the metrics in the task's `metric_list`.
        filter: one of the task's filters; may be left out when it has one only.
        num_fewshot: examples before each document, >= 0; None takes what the task says.
        weight: share in the objective, > 0.
        gate: the bound that the score must meet, if any.
        range: (low, high) that the metric cannot leave, neither for a document where the score is a mean over them nor
            for all, but for rounding; None where that is not known, the metric is one that evomerge knows (acc and its
            kin, exact_match), or that the base and the parents stay within [0, 1] is enough.
    """

    name: str
    metric: str
    filter: str | None = None
    num_fewshot: int | None = Field(default=None, ge=0)
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    gate: Gate | None = None
    range: tuple[Finite, Finite] | None = None

    @model_validator(mode="after")
    def _some_room(self) -> Self:
        if self.range is not None and self.range[0] >= self.range[1]:
            raise SuiteError(
                "range is empty",
                where=f"task {self.name}: range",
                expected="two numbers, the lower one first",
                found=list(self.range),
            )
        return self

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


class Racing(_Section):
    """How soon a candidate may be stopped.

    Candidates of a generation climb rungs: each rung is a share of every task's dev items, the same items for all, and
    holds those of the rung before. After a rung the best of those on it go on. The next generation has other items on
    its lower rungs.

    Attributes:
        rungs: shares of the items, increasing, in (0, 1]; the last is 1.
        keep: share of the candidates on a rung that go on, in (0, 1].
        alpha: how likely at most it is that the gates stop a candidate that would clear them on all items, in (0, 0.5].

    Raises:
        SuiteError: the rungs do not increase, or the last is not 1.
    """

    rungs: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(0.1, 0.25, 0.5, 1.0), min_length=1)
    keep: float = Field(default=0.34, gt=0, le=1)
    alpha: float = Field(default=0.05, gt=0, le=0.5)

    @field_validator("rungs")
    @classmethod
    def _climb(cls, rungs: tuple[float, ...]) -> tuple[float, ...]:
        if rungs[-1] != 1 or any(lower >= upper for lower, upper in pairwise(rungs)):
            raise SuiteError(
                "rungs of a race do not fit",
                where="racing.rungs",
                expected="increasing shares of the items, the last of them 1.0",
                found=list(rungs),
            )
        return rungs


class SuiteConfig(_Section):
    """What a candidate is scored on, as written in a suite file.

    Attributes:
        include_path: folders with lm-eval task files; they win over lm-eval's own tasks.
        objective: how the tasks' scores become one number.
        tasks: at least one, each name once.
        holdout: the split of each task's documents.
        racing: how soon a candidate may be stopped; None, or `none`, scores each on all items.
        batch_size: requests per forward pass, > 0, or `auto`: as many as suit the machine and fit its memory.
        max_length: longest sequence in tokens; None takes the model's.
        apply_chat_template: render prompts with the tokenizer's chat template.
        allow_benchmarks: permit the test splits of public benchmarks to steer the search.

    Raises:
        SuiteError: a task is listed twice, a gate has no bound or two, or a range is empty.
        pydantic.ValidationError: an unknown key, or a value of the wrong type or range.
    """

    include_path: tuple[str, ...] = ()
    objective: Literal["weighted_mean"] = "weighted_mean"
    tasks: tuple[TaskSpec, ...] = Field(min_length=1)
    holdout: Holdout = Holdout()
    racing: Racing | None = None
    batch_size: int | Literal["auto"] = "auto"
    max_length: int | None = Field(default=None, ge=1)
    apply_chat_template: bool = False
    allow_benchmarks: bool = False

    @field_validator("batch_size", mode="plain")
    @classmethod
    def _some_rows(cls, value: Any) -> Any:
        return value if value == "auto" else _ROWS.validate_python(value)

    @field_validator("racing", mode="before")
    @classmethod
    def _no_racing(cls, value: Any) -> Any:
        return None if value == "none" else value

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
