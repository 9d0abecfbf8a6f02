"""Which dimensions of the genome decide whether a candidate is among the best."""

from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from typing import Any
from weakref import WeakKeyDictionary

import optuna
import plotly.graph_objects as go
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from evomerge.study.document import CandidateDocument
from evomerge.study.facts import StudyFacts
from evomerge.study.figures.drawing import BLUE, Figure, FigureFacts, blank, named, spread, titled

TOP = 0.1  # share of the candidates that counts as the best
NEEDED = 20  # candidates below which a tenth of them tells nothing
SAMPLE = 400  # candidates that are looked at
SHOWN = 12  # dimensions

_ROW, _FRAME = 40, 70  # pixels of a bar with its name, and of what is around them


def importance_figures(facts: StudyFacts) -> Iterator[Figure]:
    """The importance of each dimension, once there are enough candidates to tell."""
    order = facts.order
    dimensions = len(order[0].genome) if order else 0
    if len(order) < NEEDED or dimensions < 2:
        return
    caption = (
        "How much each dimension of the genome decides whether a candidate is among the best tenth, gates before "
        "objective (PED-ANOVA). The shares add up to one; small ones may be chance."
    )
    if dimensions > SHOWN:
        caption += f" The first {SHOWN} of {dimensions} dimensions."
    figure = FigureFacts(
        name="importance",
        family="importance",
        title="Importance of parameters",
        caption=caption,
        height=_FRAME + _ROW * min(SHOWN, dimensions),
    )
    yield Figure(figure, partial(importance_figure, facts))


def importance_figure(facts: StudyFacts) -> go.Figure:
    """A bar for each of the most important dimensions, its name above it: names are long and phones are narrow."""
    shares = list(importance(facts).items())[:SHOWN]
    names = [escape(name) for name, _ in shares]
    places = list(range(len(shares)))
    figure = blank(
        _FRAME + _ROW * len(shares),
        xaxis=titled("share of the importance") | {"tickformat": ".0%", "rangemode": "tozero"},
        yaxis={"visible": False, "range": [len(shares) - 0.5, -0.85]},
        bargap=0.62,
        showlegend=False,
    )
    values = [share for _, share in shares]
    text = [f"{name}<br>{share:.1%}" for name, share in zip(names, values, strict=True)]
    figure.add_trace(
        go.Bar(
            x=values,
            y=places,
            orientation="h",
            marker={"color": BLUE},
            text=text,
            hoverinfo="text",
            textposition="none",
        )
    )
    for place, name in zip(places, names, strict=True):
        figure.add_annotation(named(name, y=place - 0.42))
    return figure


_shares: "WeakKeyDictionary[StudyFacts, dict[str, float]]" = WeakKeyDictionary()


def importance(facts: StudyFacts) -> dict[str, float]:
    """Dimension -> its share in the importance, the most important first; empty where there is too little to compare.

    It is worked out once for each document.
    """
    if facts not in _shares:
        _shares[facts] = _importance(facts.order) if len(facts.order) >= NEEDED else {}
    return _shares[facts]


def _importance(order: Sequence[CandidateDocument]) -> dict[str, float]:
    sample = spread(list(enumerate(order)), SAMPLE)
    distributions = _distributions([candidate for _, candidate in sample])
    trials = [
        FrozenTrial(
            number=place,
            trial_id=place,
            state=TrialState.COMPLETE,
            value=-float(place),
            params=dict(candidate.genome),
            distributions=distributions,
            datetime_start=None,
            datetime_complete=None,
            user_attrs={},
            system_attrs={},
            intermediate_values={},
        )
        for place, candidate in sample
    ]
    # without names of its own it asks for them in an order that differs from run to run
    return get_param_importances(
        _Sample(trials), evaluator=PedAnovaImportanceEvaluator(target_quantile=TOP), params=list(distributions)
    )


class _Sample(optuna.Study):
    """Trials as Optuna's analyses take them, without a copy of each in a storage."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        storage = InMemoryStorage()
        storage.create_new_study([StudyDirection.MAXIMIZE], "sample")
        super().__init__("sample", storage)
        self._trials = list(trials)

    def get_trials(self, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        return self._trials


def _distributions(candidates: Sequence[CandidateDocument]) -> dict[str, BaseDistribution]:
    """Each dimension with the range, or the options, that were tried."""
    found: dict[str, BaseDistribution] = {}
    for name in candidates[0].genome:
        values = [candidate.genome[name] for candidate in candidates]
        numbers = [value for value in values if not isinstance(value, str)]
        if len(numbers) == len(values):
            found[name] = FloatDistribution(min(numbers), max(numbers))
        else:
            found[name] = CategoricalDistribution(sorted({str(value) for value in values}))
    return found
