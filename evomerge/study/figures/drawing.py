"""What figures have in common: their data, their palette, their axes, and markers of candidates.

No figure carries ink: the page that shows it gives text and grid the colours of its own theme. The colours of data are
told apart by people who are colour-blind, stand out from a light and a dark ground, and never stand alone: symbols and
dashes say the same.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, TypeAlias

import plotly.graph_objects as go
from pydantic import BaseModel, ConfigDict

from evomerge.study.document import BaselineDocument, CandidateDocument, StudyDocument
from evomerge.study.facts import StudyFacts
from evomerge.study.results import Range
from evomerge.study.verdict import Kind, kind_of

Axis: TypeAlias = dict[str, Any]
"""Part of an axis, as Plotly takes it."""

POINTS = 2000  # candidates that a figure draws
BARS = 50  # candidates of a kind up to which each has its interval: more would hide each other
HEIGHT = 420  # pixels

BLUE, GREEN, RED, PURPLE, GREY = "#2b7bba", "#009e73", "#d55e00", "#b565a7", "#8a8f98"
BAND = "rgba(0,158,115,0.18)"  # GREEN
BAR = "rgba(128,128,128,0.45)"
GROUND = "rgba(128,128,128,0.2)"  # behind text: the page puts its own there
_COLORS = (PURPLE, "#17879a", "#a6761d", "#7a68d8", "#c2567a", "#5f8a2f")
_DASHES = ("dot", "dashdot", "longdash", "longdashdot")
# of the base and the parents, as often as need be
LINES = tuple(
    (_COLORS[place % len(_COLORS)], _DASHES[place % len(_DASHES)])
    for place in range(math.lcm(len(_COLORS), len(_DASHES)))
)

UNLISTED = "unlisted"  # `meta` of a trace that figures.js puts into the legend once it shows what lies out of sight

_STOPS = 32  # of a level line: Plotly tells its name near its points only


class FigureFacts(BaseModel):
    """A figure that can be drawn.

    Attributes:
        name: under which `study_figure` draws it.
        family: what it is one of, a key of `FIGURES`.
        title: in a few words.
        caption: how to read it, and what it leaves out.
        height: in pixels.
        cropped: what lies far off is out of sight, beyond the ranges of its axes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    family: str
    title: str
    caption: str
    height: int = HEIGHT
    cropped: bool = False


@dataclass(frozen=True)
class Figure:
    """A figure, and how to draw it."""

    facts: FigureFacts
    draw: Callable[[], go.Figure]


def kept(facts: StudyFacts, points: int = POINTS) -> list[CandidateDocument]:
    """The candidates that a figure draws, by number: all, or of more than `points` the ones that matter.

    Half of them are those that rank highest, up to a quarter failures; the others are spread evenly over the search.
    """
    candidates = facts.document.candidates
    if len(candidates) <= points:
        return list(candidates)
    chosen = {each.number for each in facts.order[: points // 2]}
    if facts.document.best is not None:
        chosen.add(facts.document.best.number)
    failed = [number for number, kind in enumerate(facts.kinds) if kind == "failed"]
    chosen.update(spread(failed, points // 4))
    others = [number for number in range(len(candidates)) if number not in chosen]
    chosen.update(spread(others, points - len(chosen)))
    return [candidates[number] for number in sorted(chosen)]


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the values, at equal distances."""
    if len(values) <= count:
        return list(values)
    return [values[place * len(values) // count] for place in range(count)]


def left_out(facts: StudyFacts, points: int = POINTS) -> str:
    """What a caption says of the candidates that `kept` leaves out; nothing where it keeps all."""
    found = len(facts.document.candidates)
    if found <= points:
        return ""
    return f" Of {found:,} candidates {points:,} are drawn: the best, failures, and an even sample of the others."


def blank(height: int = HEIGHT, **layout: Any) -> go.Figure:
    """A figure without data."""
    axis = {"zeroline": False, "automargin": True}
    axes = {key: axis | layout.pop(key, {}) for key in ("xaxis", "yaxis")}
    return go.Figure(
        layout={
            "template": "none",
            "height": height,
            "font": {"family": "system-ui, sans-serif", "size": 13},
            "margin": {"l": 8, "r": 12, "t": 8, "b": 8},  # axes make the room that they need
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "entrywidth": 0},
            "modebar": {"orientation": "v"},
            "hovermode": "closest",
            "dragmode": False,  # on a phone a finger scrolls the page
            "uirevision": "kept",  # what the reader has zoomed or hidden stays so when new data arrive
            **axes,
            **layout,
        }
    )


def titled(text: str) -> Axis:
    """The title of an axis."""
    return {"title": {"text": text, "font": {"size": 13}, "standoff": 10}}


def by_number(study: StudyDocument) -> Axis:
    """A horizontal axis over all candidates."""
    last = last_number(study)
    ends = {"range": [-0.03 * last, 1.03 * last]} | ({"dtick": 1} if last < 12 else {})
    return titled("candidate") | ends


def last_number(study: StudyDocument) -> int:
    """The number of the last candidate, at least 1."""
    return max(1, len(study.candidates) - 1)


def named(text: str, **place: Any) -> dict[str, Any]:
    """A name inside of the drawing: beside it, on a phone, there is no room for one.

    Args:
        text: Plotly's markup.
        **place: of a Plotly annotation; its left end is at x = 0, and y in the middle of its height, unless this says
            otherwise.
    """
    return {
        "text": text,
        "x": 0,
        "xanchor": "left",
        "yanchor": "middle",
        "showarrow": False,
        "font": {"size": 12},
    } | place


def level(value: float, last: int, name: str, text: str, style: Mapping[str, Any], sight: Axis) -> go.Scatter:
    """A horizontal line over all candidates; one that is out of sight is not in the legend either.

    Args:
        value: its height.
        last: the number of the last candidate.
        name: in the legend, as Plotly's markup.
        text: what it tells when it is pointed at, as Plotly's markup.
        style: as Plotly takes it.
        sight: of the vertical axis, as `focus` gives it.
    """
    x = [last * stop / _STOPS for stop in range(_STOPS + 1)]
    line = go.Scatter(name=name, x=x, y=[value] * len(x), mode="lines", line=style, text=text, hoverinfo="text")
    return line if in_sight(value, sight) else line.update(showlegend=False, meta=UNLISTED)


def add_no_candidate(figure: go.Figure) -> None:
    """Say that no candidate is in the figure yet; an empty one has no axes."""
    text = "No candidate has been scored yet."
    middle = {"x": 0.5, "xref": "paper", "xanchor": "center", "y": 0.5, "yref": "paper"}
    figure.add_annotation(named(text, bgcolor=GROUND, **middle))
    if not figure.data:
        figure.update_xaxes(visible=False).update_yaxes(visible=False)


MARKERS: Mapping[Kind, tuple[str, Mapping[str, Any]]] = {
    "stopped": ("stopped early", {"color": GREY, "size": 5, "opacity": 0.5, "symbol": "circle-open"}),
    "infeasible": ("misses a gate", {"color": GREY, "size": 7, "opacity": 0.75, "symbol": "x-thin-open"}),
    "feasible": ("feasible", {"color": BLUE, "size": 7}),
}
STAR = {"symbol": "star", "size": 15, "color": GREEN, "line": {"width": 1, "color": "#ffffff"}}


@dataclass(frozen=True)
class Point:
    """A candidate in a figure: where it stands, the interval of its height, and what it tells."""

    candidate: CandidateDocument
    x: float
    y: float
    interval: Range | None
    text: str

    @property
    def ends(self) -> tuple[float, ...]:
        """Its height, and the ends of its interval if it has one."""
        return (self.y, *(self.interval or ()))


def focus(values: Iterable[float], *needed: Iterable[float | None], higher_is_better: bool = True) -> Axis:
    """The range of an axis: all values but the worst twentieth, and all that is needed.

    A few candidates or baselines that lie far off would squeeze all others into a line.
    """
    order = sorted(values)
    off = len(order) // 20
    seen = order[off:] if higher_is_better else order[: len(order) - off]
    seen += [each for group in needed for each in group if each is not None and math.isfinite(each)]
    if not seen:
        return {}
    room = 0.06 * (max(seen) - min(seen)) or 0.01
    return {"range": [min(seen) - room, max(seen) + room]}


def in_sight(value: float, axis: Axis) -> bool:
    """Whether a value is within the range that `focus` gives an axis."""
    low, high = axis.get("range", (-math.inf, math.inf))
    return bool(low <= value <= high)


def add_points(figure: go.Figure, points: Iterable[Point]) -> None:
    """Markers of candidates that have a score: those that a race stopped, whose score is over part of the items, the
    infeasible ones, and the feasible ones."""
    by_kind: dict[Kind, list[Point]] = {}
    for point in points:
        by_kind.setdefault(kind_of(point.candidate), []).append(point)
    for kind, (name, marker) in MARKERS.items():
        if found := by_kind.get(kind):
            trace = go.Scatter(
                name=name,
                x=[point.x for point in found],
                y=[point.y for point in found],
                text=[point.text for point in found],
                mode="markers",
                marker=marker,
                hoverinfo="text",
            )
            if len(found) <= BARS and any(point.interval for point in found):
                trace.update(error_y=_bars(found))
            figure.add_trace(trace)


def _bars(points: Sequence[Point]) -> dict[str, Any]:
    """Thin error bars; none where there is no interval or where it has no end."""
    ends = [(point.y, *(point.interval or (point.y, point.y))) for point in points]
    up, down = [high - value for value, _, high in ends], [value - low for value, low, _ in ends]
    finite = {"array": list(map(_finite, up)), "arrayminus": list(map(_finite, down))}
    return {"type": "data", "symmetric": False, **finite, "thickness": 1, "width": 0, "color": BAR}


def _finite(length: float) -> float:
    return length if math.isfinite(length) else 0.0


def told(value: float | None, interval: Range | None) -> str:
    """A value with its interval, as text."""
    return f"{value:.4f}" + ("" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]")


def label(result: CandidateDocument | BaselineDocument) -> str:
    """What a result tells when it is pointed at, as Plotly's markup."""
    name = f"candidate {result.number}" if isinstance(result, CandidateDocument) else result.name
    lines = [name, f"objective {told(result.objective, result.objective_interval)}"]
    missed = [task for task, cleared in result.gates.items() if not cleared]
    return "<br>".join(map(escape, lines + ([f"misses {', '.join(missed)}"] if missed else [])))
