"""lm-eval's own way of scoring a model, for the harness to be measured against."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from lm_eval import evaluator
from lm_eval import utils as lm_eval_utils
from lm_eval.models.huggingface import HFLM

from fitness.items import Split
from fitness.suite import SuiteConfig
from fitness.tasks import load_tasks, no_bars, quiet

ROWS = 16  # of a batch where the suite says `auto`: lm-eval's own `auto` would try lengths that no prompt has


@dataclass(frozen=True)
class Reference:
    """What `lm_eval.simple_evaluate` found, and what it took.

    Attributes:
        scores: task -> score.
        seconds: of the call.
        passes: of these, those within the methods of its model: batching, forward passes and generation.
    """

    scores: dict[str, float]
    seconds: float
    passes: float


class SimpleEvaluate:
    """`lm_eval.simple_evaluate` on a suite, whose tasks are loaded once.

    Args:
        suite: the tasks.

    Raises:
        SuiteError: as of `Harness`.
    """

    def __init__(self, suite: SuiteConfig) -> None:
        self.suite = suite
        with quiet(), no_bars():
            self._tasks = load_tasks(suite)

    def __call__(self, model: torch.nn.Module, tokenizer: Any, split: Split) -> Reference:
        """Score a model that is loaded, in eval mode and on its device."""
        with quiet(), no_bars(), _templates_as_shipped():
            began = perf_counter()
            lm = _TimedLM(
                model, tokenizer=tokenizer, batch_size=self.suite.batch_size, max_length=self.suite.max_length
            )
            found = evaluator.simple_evaluate(
                lm,
                tasks=[each.task for each in self._tasks],
                samples={each.spec.name: list(each.documents[split]) for each in self._tasks},
                bootstrap_iters=0,
                apply_chat_template=self.suite.apply_chat_template,
            )
            seconds = perf_counter() - began
        scores = {
            each.spec.name: found["results"][each.spec.name][f"{each.spec.metric},{each.filter.name}"]
            for each in self._tasks
        }
        return Reference(scores, seconds, lm.seconds)


class _TimedLM(HFLM):  # type: ignore[misc]
    """lm-eval's Hugging Face model, and the seconds that were spent in it."""

    seconds = 0.0

    def loglikelihood(self, *arguments: Any, **options: Any) -> Any:
        return self._timed(super().loglikelihood, *arguments, **options)

    def loglikelihood_rolling(self, *arguments: Any, **options: Any) -> Any:
        return self._timed(super().loglikelihood_rolling, *arguments, **options)

    def generate_until(self, *arguments: Any, **options: Any) -> Any:
        return self._timed(super().generate_until, *arguments, **options)

    def _timed(self, method: Any, *arguments: Any, **options: Any) -> Any:
        began = perf_counter()
        try:
            return method(*arguments, **options)
        finally:
            self.seconds += perf_counter() - began


@contextmanager
def _templates_as_shipped() -> Iterator[None]:
    """Without the cache of compiled templates that `fitness.tasks` gives to lm-eval."""
    cached = lm_eval_utils.env.__dict__.pop("from_string")
    try:
        yield
    finally:
        lm_eval_utils.env.from_string = cached
