"""Which dimensions of the genome decide whether a candidate is among the best."""

from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from weakref import WeakKeyDictionary

import plotly.graph_objects as go
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from evomerge.study.document import CandidateDocument
from evomerge.study.facts import StudyFacts
from evomerge.study.figures.drawing import BLUE, Figure, FigureFacts, blank, named, spread, titled
from evomerge.study.figures.sample import sampled

TOP = 0.1  # share of the candidates that counts as the best
NEEDED = 20  # candidates below which a tenth of them tells nothing
SAMPLE = 400  # candidates that are looked at
SHOWN = 12  # dimensions

_ROW, _FRAME = 40, 70  # pixels of a bar with its name, and of what is around them


def importance_figures(facts: StudyFacts) -> Iterator[Figure]:
    """The importance of each dimension, once there are enough candidates to tell."""
    dimensions = compared(facts)
    if not dimensions:
        return
    caption = (
        "How much each dimension of the genome decides whether a candidate is among the best tenth, gates before "
        "objective (PED-ANOVA). The shares add up to one; small ones may be chance."
    )
    figure = FigureFacts(
        name="importance",
        family="importance",
        title="Importance of parameters",
        caption=caption + unshown(dimensions, SHOWN),
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


def compared(facts: StudyFacts) -> int:
    """How many dimensions there are to compare: 0 if there is one, or too few candidates to tell."""
    order = facts.order
    dimensions = len(order[0].genome) if len(order) >= NEEDED else 0
    return dimensions if dimensions >= 2 else 0


def unshown(dimensions: int, shown: int) -> str:
    """What a caption adds where a figure shows the first dimensions only."""
    return f" The first {shown} of {dimensions} dimensions." if dimensions > shown else ""


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
    names = list(order[0].genome)
    study = sampled([candidate for _, candidate in sample], [-float(place) for place, _ in sample], names)
    # without names of its own it asks for them in an order that differs from run to run
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=TOP), params=names)
