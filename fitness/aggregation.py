"""Aggregation: a metric's values, one per document and as its task keeps them, become a score."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral, Real
from typing import Any

from lm_eval.api import metrics
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

# lm-eval's aggregations (0.4.13) that count each document by itself, then score the sums of these counts
_COUNTED: dict[Any, Callable[[], Any]] = {
    metrics.bleu: BLEU,
    metrics.chrf: CHRF,
    metrics.chrfpp: partial(CHRF, word_order=2),
    metrics.ter: TER,
}


class Aggregation:
    """A task's aggregation over the documents that a model was scored on.

    Args:
        aggregate: the task's own: values -> score.
        values: of the metric, one per document; lm-eval may keep them as tuples until it aggregates.

    Attributes:
        score: over all documents.
        items: one number per document: the metric's value for it; where that is a log-likelihood and what to divide it
            by, the log-likelihood in nats; 0 where the aggregation is not defined for that document alone.
        weights: the words or bytes of each document, where lm-eval keeps them beside its log-likelihood; else None.

    Raises:
        Whatever the task's own code may raise.
    """

    def __init__(self, aggregate: Callable[[list[Any]], float], values: Sequence[Any]) -> None:
        self._aggregate, self._values = aggregate, values
        self.score = float(aggregate(list(values)))
        # to count is what takes time, and each document is counted alike among any others
        self._metric = _COUNTED[aggregate]() if aggregate in _COUNTED and values else None
        self._counts = [] if self._metric is None else _counts(self._metric, values)
        self.items = tuple(map(self._item, range(len(values))))
        self.weights = _weights(values)

    def over(self, places: Sequence[int]) -> float:
        """The score over some of the documents, by their places among the values."""
        if self._metric is not None:
            return float(self._metric._aggregate_and_compute([self._counts[place] for place in places]).score)
        return float(self._aggregate([self._values[place] for place in places]))

    def _item(self, place: int) -> float:
        match self._values[place]:
            case Real() as value:
                return float(value)
            case (Integral() as gold, Integral() as predicted):
                return float(gold == predicted)
            case (Real() as loglikelihood, Integral()):
                return float(loglikelihood)
            case _:
                return self._alone(place)

    def _alone(self, place: int) -> float:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                value = self.over([place])
        except Exception:  # of a task's own code, such as a correlation, which is fine with all documents
            return 0.0
        return value if math.isfinite(value) else 0.0


def _counts(metric: Any, values: Sequence[Any]) -> list[Any]:
    """What sacrebleu counts in each document; its own bootstrap reads it the same way."""
    references, predictions = metrics._sacreformat([value[0] for value in values], [value[1] for value in values])
    counts: list[Any] = metric._extract_corpus_statistics(predictions, references)
    return counts


def _weights(values: Sequence[Any]) -> tuple[float, ...] | None:
    weights: list[float] = []
    for value in values:
        match value:
            case (Real() as loglikelihood, Integral() as length) if not isinstance(loglikelihood, Integral):
                weights.append(float(length))
            case _:
                return None
    return tuple(weights)
