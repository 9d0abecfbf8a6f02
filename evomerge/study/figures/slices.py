"""The objective against each of the dimensions that matter most: Optuna's slice plot, a row for each dimension."""

from collections.abc import Iterator, Sequence
from functools import partial
from html import escape

import plotly.graph_objects as go
from optuna.visualization import plot_slice

from evomerge.study.document import CandidateDocument
from evomerge.study.facts import StudyFacts
from evomerge.study.figures.drawing import (
    GREY,
    GROUND,
    MARKERS,
    Figure,
    FigureFacts,
    blank,
    focus,
    kept,
    left_out,
    named,
)
from evomerge.study.figures.importance import compared, importance, unshown
from evomerge.study.figures.sample import sampled

SHOWN = 6  # dimensions
POINTS = 400  # candidates in each row

_ROW, _FRAME = 150, 40  # pixels of a row, and of what is around them
_GAP = 0.32  # of a row: for its name, and for the numbers of the one above
_LATER = ((0.0, "#a9cfee"), (1.0, "#1f6aa8"))  # colour of the first candidate, and of the last


def slice_figures(facts: StudyFacts) -> Iterator[Figure]:
    """A row for each of the most important dimensions, once there are enough candidates to tell which these are."""
    dimensions = compared(facts)
    if not dimensions:
        return
    caption = (
        "The objective on dev against one dimension at a time, the most important one first. Candidates that clear "
        "every gate are blue, the later the darker; those that miss one are grey."
    )
    figure = FigureFacts(
        name="slices",
        family="slices",
        title="Slices",
        caption=caption + unshown(dimensions, SHOWN) + left_out(facts, POINTS),
        height=_FRAME + _ROW * min(SHOWN, dimensions),
        cropped=True,
    )
    yield Figure(figure, partial(slice_figure, facts))


def slice_figure(facts: StudyFacts) -> go.Figure:
    """Every candidate that was scored on all items, at its value of each of the dimensions."""
    names = list(importance(facts))[:SHOWN]
    candidates = [each for each in kept(facts, POINTS) if each.objective is not None and each.stopped is None]
    objectives = [each.objective for each in candidates if each.objective is not None]
    study = sampled(candidates, objectives, names)
    sight = focus(objectives, [each.objective for each in candidates if each.feasible])
    figure = blank(_FRAME + _ROW * len(names), showlegend=False)
    for row, name in enumerate(names):
        drawn = plot_slice(study, [name])
        x, y, top = f"x{row + 1}", f"y{row + 1}", 1 - (row + _GAP) / len(names)
        axis = {"zeroline": False, "automargin": True}
        options = {repr(each): escape(each) for each in _options(candidates, name)}
        across = {"type": "category", "categoryarray": list(options.values())} if options else {}
        figure.layout[f"xaxis{row + 1}"] = axis | across | {"anchor": y}
        figure.layout[f"yaxis{row + 1}"] = axis | sight | {"anchor": x, "domain": [1 - (row + 1) / len(names), top]}
        for trace in reversed(drawn.data):  # what is feasible lies on top
            feasible = trace.name == "Feasible Trial"
            if feasible:
                trace.marker.update(size=7, colorscale=_LATER, showscale=False, line={"width": 0.5, "color": GREY})
            else:
                trace.marker = MARKERS["infeasible"][1]
            if options:
                trace.x = [options[each] for each in trace.x]
            told = "candidate %{marker.color}" if feasible else "misses a gate"
            trace.hovertemplate = f"{told}<br>{escape(name)} %{{x}}<br>objective %{{y:.4f}}<extra></extra>"
            figure.add_trace(trace.update(xaxis=x, yaxis=y))
        figure.add_annotation(named(escape(name), xref="paper", yref="paper", y=top, yanchor="bottom", bgcolor=GROUND))
    return figure


def _options(candidates: Sequence[CandidateDocument], name: str) -> list[str]:
    """The options of a dimension that were tried; none where it has numbers."""
    values = {candidate.genome[name] for candidate in candidates}
    return sorted(value for value in values if isinstance(value, str))
