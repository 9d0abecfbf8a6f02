"""Plots of a study, as Plotly figures whose ink suits a light and a dark page."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from evomerge.study.document import BaselineDocument, CandidateDocument, StudyDocument
from evomerge.study.results import Range
from evomerge.study.verdict import best_result

_FEASIBLE, _GREY, _BEST, _BASELINE = "#3b82c4", "#999999", "#2a9d63", "#e08e0b"
_BOUND, _TEXT = "#d1495b", "#767676"
_REFERENCES = ("#e08e0b", "#b565a7", "#17a2a2", "#8c6d31", "#7a68d8", "#c05a2c")
_GRID = "rgba(128,128,128,0.22)"
_BAR = "rgba(128,128,128,0.45)"
_STOPS = 32  # of a reference line: Plotly tells its name near its points only


@dataclass(frozen=True)
class TaskFacts:
    """A task of the suite and what its dev scores are held against.

    Attributes:
        name: the task.
        metric: its metric; scores, references and bound are in its unit.
        higher_is_better: None until something was scored.
        weight: share in the objective.
        gate: as in the suite, such as ">= 0.98 x best_parent"; None without one.
        bound: the gate's, relative gates resolved; None without a gate or until the base and all parents are scored.
        references: `base` and the parents -> score.
    """

    name: str
    metric: str
    higher_is_better: bool | None
    weight: float
    gate: str | None
    bound: float | None
    references: Mapping[str, float]


def best_so_far(candidates: Iterable[CandidateDocument]) -> list[tuple[int, float]]:
    """(number, objective of the best feasible candidate up to it) for each scored one from the first feasible on.

    The best is the one whose objective has the highest lower limit, as winners are chosen: the line may fall.

    Args:
        candidates: by number.
    """
    line: list[tuple[int, float]] = []
    best: CandidateDocument | None = None
    for candidate in candidates:
        if candidate.objective is not None:
            if candidate.feasible and (best is None or candidate.floor > best.floor):
                best = candidate
            if best is not None and best.objective is not None:
                line.append((candidate.number, best.objective))
    return line


def objective_figure(study: StudyDocument) -> go.Figure:
    """Every scored candidate by number, the best feasible one so far, and the baselines as lines."""
    scored = [candidate for candidate in study.candidates if candidate.objective is not None]
    last = _last(study)
    top = best_result(study.baselines)
    figure = _figure("objective on dev, higher is better", last)
    others = [each for each in study.baselines if each.objective is not None and each is not top]
    for index, baseline in enumerate(others):
        style = {"color": _GREY, "width": 1, "dash": "dot"}
        line = _level(baseline.objective, last, _label(baseline), style)
        figure.add_trace(line.update(name="other baselines", legendgroup="others", showlegend=index == 0))
    if top is not None:
        line = _level(top.objective, last, _label(top), {"color": _BASELINE, "width": 2, "dash": "dash"})
        figure.add_trace(line.update(name=escape(f"best baseline: {top.name}")))
    _add_candidates(figure, [(each, each.objective or 0.0, each.objective_interval, _label(each)) for each in scored])
    so_far = best_so_far(study.candidates)
    figure.add_trace(
        go.Scatter(
            name="best so far, feasible",
            x=[number for number, _ in so_far],
            y=[value for _, value in so_far],
            mode="lines",
            line={"color": _BEST, "width": 2.5, "shape": "hv"},
            hoverinfo="skip",
        )
    )
    if study.best is not None:
        figure.add_trace(
            go.Scatter(
                name=f"to export: candidate {study.best.number}",
                x=[study.best.number],
                y=[study.best.objective],
                mode="markers",
                marker={"symbol": "star", "size": 15, "color": _BEST, "line": {"width": 1, "color": "#ffffff"}},
                hoverinfo="skip",
            )
        )
    return figure


def task_figure(study: StudyDocument, task: TaskFacts) -> go.Figure:
    """Every candidate's dev score on a task, the bound of its gate, the base and the parents as lines."""
    last = _last(study)
    direction = {None: "", True: ", higher is better", False: ", lower is better"}[task.higher_is_better]
    figure = _figure(escape(task.metric) + direction, last)
    for index, (model, score) in enumerate(task.references.items()):
        style = {"color": _REFERENCES[index % len(_REFERENCES)], "width": 1.5, "dash": "dot"}
        name = escape(model)
        figure.add_trace(_level(score, last, f"{name}<br>{score:.4f}", style).update(name=name))
    if task.bound is not None:
        name = escape(f"gate {task.gate}")
        style = {"color": _BOUND, "width": 2, "dash": "dash"}
        figure.add_trace(_level(task.bound, last, f"{name}<br>{task.bound:.4f}", style).update(name=name))
    points = []
    for each in study.candidates:
        if each.objective is not None:
            y, interval = each.scores[task.name], each.intervals.get(task.name)
            points.append((each, y, interval, f"{escape(task.name)} {_told(y, interval)}<br>{_label(each)}"))
    _add_candidates(figure, points)
    return figure


def _add_candidates(figure: go.Figure, points: Sequence[tuple[CandidateDocument, float, Range | None, str]]) -> None:
    """Traces of markers from (candidate, y, its interval, what it tells): those that a race stopped, whose y is over
    part of the items, the infeasible ones, and the feasible ones."""
    for kind, name, marker in (
        (None, "stopped early", {"color": _GREY, "size": 5, "opacity": 0.5, "symbol": "circle-open"}),
        (False, "misses a gate", {"color": _GREY, "size": 7, "opacity": 0.75, "symbol": "x-thin-open"}),
        (True, "feasible", {"color": _FEASIBLE, "size": 7}),
    ):
        of_kind = [point for point in points if (point[0].feasible if point[0].stopped is None else None) is kind]
        if of_kind:
            candidates, y, intervals, text = zip(*of_kind, strict=True)
            x = [candidate.number for candidate in candidates]
            trace = go.Scatter(name=name, x=x, y=y, text=text, mode="markers", marker=marker, hoverinfo="text")
            if any(intervals):
                trace.update(error_y=_bars(y, intervals))
            figure.add_trace(trace)


def _bars(y: Sequence[float], intervals: Sequence[Range | None]) -> dict[str, Any]:
    """Thin error bars; none where there is no interval or where it has no end."""
    ends = [(value, *(interval or (value, value))) for value, interval in zip(y, intervals, strict=True)]
    up, down = [high - value for value, _, high in ends], [value - low for value, low, _ in ends]
    finite = {"array": [_finite(each) for each in up], "arrayminus": [_finite(each) for each in down]}
    return {"type": "data", "symmetric": False, **finite, "thickness": 1, "width": 0, "color": _BAR}


def _finite(length: float) -> float:
    return length if math.isfinite(length) else 0.0


def _told(value: float | None, interval: Range | None) -> str:
    return f"{value:.4f}" + ("" if interval is None else f" [{interval[0]:.4f}, {interval[1]:.4f}]")


def _label(result: CandidateDocument | BaselineDocument) -> str:
    name = f"candidate {result.number}" if isinstance(result, CandidateDocument) else result.name
    lines = [name, f"objective {_told(result.objective, result.objective_interval)}"]
    missed = [task for task, cleared in result.gates.items() if not cleared]
    return "<br>".join(map(escape, lines + ([f"misses {', '.join(missed)}"] if missed else [])))


def _level(value: float | None, last: int, text: str, style: Mapping[str, Any]) -> go.Scatter:
    """A horizontal line over all candidates."""
    x = [last * stop / _STOPS for stop in range(_STOPS + 1)]
    return go.Scatter(x=x, y=[value] * len(x), mode="lines", line=style, text=text, hoverinfo="text")


def _last(study: StudyDocument) -> int:
    return max(1, len(study.candidates) - 1)


def _figure(y_title: str, last: int) -> go.Figure:
    axis = {"gridcolor": _GRID, "linecolor": _GRID, "zeroline": False}
    x_axis = {"title": {"text": "candidate", "font": {"size": 13}}, "range": [-0.03 * last, 1.03 * last]}
    return go.Figure(
        layout={
            "template": "none",
            "height": 420,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": _TEXT},
            "margin": {"l": 64, "r": 32, "t": 12, "b": 48},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "modebar": {"orientation": "v", "bgcolor": "rgba(0,0,0,0)", "color": _GREY, "activecolor": _FEASIBLE},
            "hovermode": "closest",
            "dragmode": False,  # on a phone a finger scrolls the page
            "xaxis": axis | x_axis | ({"dtick": 1} if last < 12 else {}),
            "yaxis": axis | {"title": {"text": y_title, "font": {"size": 13}}},
        }
    )
