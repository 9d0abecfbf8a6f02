"""What candidates cost."""

from collections.abc import Iterator
from functools import partial
from html import escape
from statistics import median

import plotly.graph_objects as go

from evomerge.study.facts import StudyFacts
from evomerge.study.figures.drawing import (
    BLUE,
    GREEN,
    GREY,
    RED,
    Figure,
    FigureFacts,
    blank,
    by_number,
    kept,
    left_out,
    titled,
)
from evomerge.study.results import Candidate

_MARKERS = {
    "scored": {"color": BLUE, "size": 6},
    "stopped early": {"color": GREY, "size": 6, "symbol": "circle-open"},
    "scores known": {"color": GREEN, "size": 6, "symbol": "diamond-open"},
    "failed": {"color": RED, "size": 7, "symbol": "x-thin-open"},
}


def duration_figures(facts: StudyFacts) -> Iterator[Figure]:
    """How long candidates took, once one has ended."""
    seconds = [each.seconds for each in facts.document.candidates if each.seconds is not None]
    if seconds:
        caption = (
            f"Merging and scoring. Half of them took less than {median(seconds):.3g} s. Scores are known where an "
            f"equal recipe was scored before.{left_out(facts)}"
        )
        figure = FigureFacts(name="durations", family="durations", title="Durations", caption=caption)
        yield Figure(figure, partial(duration_figure, facts))


def duration_figure(facts: StudyFacts) -> go.Figure:
    """The seconds of every candidate that has ended, with its phases."""
    figure = blank(xaxis=by_number(facts.document), yaxis=titled("seconds") | {"rangemode": "tozero"})
    by_kind: dict[str, list[Candidate]] = {}
    for each in kept(facts):
        if each.seconds is not None:
            candidate = facts.results[each.number]
            by_kind.setdefault(_kind(candidate), []).append(candidate)
    for kind, marker in _MARKERS.items():
        if found := by_kind.get(kind):
            figure.add_trace(
                go.Scatter(
                    name=kind,
                    x=[each.number for each in found],
                    y=[each.seconds for each in found],
                    text=[_text(each) for each in found],
                    mode="markers",
                    marker=marker,
                    hoverinfo="text",
                )
            )
    return figure


def _kind(candidate: Candidate) -> str:
    if candidate.reason is not None:
        return "failed"
    if candidate.cached:
        return "scores known"
    return "scored" if candidate.stopped is None else "stopped early"


def _text(candidate: Candidate) -> str:
    phases = [f"{escape(phase)} {seconds:.3g} s" for phase, seconds in candidate.timings.items()]
    return "<br>".join([f"candidate {candidate.number}", *phases])
