"""Parallel coordinates: which values of the dimensions the best candidates share.

Drawn as lines of our own: Plotly's trace for it, which Optuna uses too, needs WebGL and compiles code in the browser,
which the dashboard's Content-Security-Policy forbids; and it has no room for names on a phone.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from html import escape

import plotly.graph_objects as go

from evomerge.study.document import CandidateDocument
from evomerge.study.facts import StudyFacts
from evomerge.study.figures.drawing import (
    BLUE,
    GREEN,
    GREY,
    GROUND,
    Figure,
    FigureFacts,
    blank,
    named,
    spread,
)
from evomerge.study.figures.importance import importance

SHOWN = 8  # dimensions
BEST = 0.1  # share of the candidates in colour
LINES = 200  # candidates: more would be a carpet

_ROW, _FRAME = 58, 64  # pixels of a dimension, and of what is around them


def parallel_figures(facts: StudyFacts) -> Iterator[Figure]:
    """The candidates as lines, once there are enough to tell which are the best."""
    order = facts.order
    if len(order) < 1 / BEST or not order[0].genome:
        return
    dimensions = min(SHOWN, len(order[0].genome))
    caption = (
        "Each line is a candidate and crosses every dimension at its value, between the lowest and the highest that "
        "were tried. The best tenth is blue, the best one green. Where blue lines meet, the best agree."
    )
    if dimensions < len(order[0].genome):
        caption += f" The {dimensions} most important of {len(order[0].genome)} dimensions."
    if len(order) > LINES:
        caption += f" {LINES} of {len(order):,} candidates."
    figure = FigureFacts(
        name="parallel",
        family="parallel",
        title="Parallel coordinates",
        caption=caption,
        height=_FRAME + _ROW * dimensions,
    )
    yield Figure(figure, partial(parallel_figure, facts))


def parallel_figure(facts: StudyFacts) -> go.Figure:
    """A row for each of the most important dimensions, and a line for each candidate."""
    order = facts.order
    names = list(importance(facts) or order[0].genome)[:SHOWN]
    rows = [_Row(name, order) for name in names]
    figure = blank(
        _FRAME + _ROW * len(rows),
        xaxis={"visible": False, "range": [-0.02, 1.02]},
        yaxis={"visible": False, "range": [len(rows) - 0.75, -0.65]},
    )
    best = max(1, math.ceil(BEST * len(order)))
    leaders = spread(order[1:best], LINES // 2)
    for name, color, width, opacity, found in (
        ("the others", GREY, 1, 0.35, spread(order[best:], LINES - len(leaders))),
        ("the best tenth", BLUE, 2, 0.9, leaders),
        (f"candidate {order[0].number}", GREEN, 3, 1, order[:1]),
    ):
        # None lifts the pen between two candidates
        x = [value for candidate in found for value in (*(row.place(candidate) for row in rows), None)]
        y = [value for _ in found for value in (*range(len(rows)), None)]
        line = {"color": color, "width": width}
        figure.add_trace(go.Scatter(name=name, x=x, y=y, mode="lines", line=line, opacity=opacity, hoverinfo="skip"))
    for place, row in enumerate(rows):
        figure.add_shape(type="line", x0=0, x1=1, y0=place, y1=place, line={"color": GREY, "width": 1}, layer="below")
        text = f"<b>{escape(row.name)}</b> {escape(row.low)} – {escape(row.high)}"
        figure.add_annotation(named(text, y=place - 0.05, yanchor="bottom", bgcolor=GROUND))
    return figure


class _Row:
    """A dimension, and where a candidate's value lies between its ends, in [0, 1]."""

    def __init__(self, name: str, candidates: Sequence[CandidateDocument]) -> None:
        values = [candidate.genome[name] for candidate in candidates]
        numbers = [value for value in values if not isinstance(value, str)]
        self.name = name
        self._options = sorted({str(value) for value in values}) if len(numbers) < len(values) else []
        if self._options:
            self.low, self.high = self._options[0], self._options[-1]
        else:
            self._first, self._last = min(numbers), max(numbers)
            self.low, self.high = f"{round(self._first, 4):.3g}", f"{round(self._last, 4):.3g}"

    def place(self, candidate: CandidateDocument) -> float:
        value = candidate.genome[self.name]
        if isinstance(value, str):
            return self._options.index(value) / max(1, len(self._options) - 1)
        return (value - self._first) / (self._last - self._first or 1.0)
