"""The objective and the score on each task, candidate by candidate."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape

import plotly.graph_objects as go

from evomerge.study.document import BaselineDocument, CandidateDocument
from evomerge.study.facts import StudyFacts
from evomerge.study.figures.drawing import (
    BAND,
    GREEN,
    GREY,
    LINES,
    PURPLE,
    RED,
    STAR,
    Axis,
    Figure,
    FigureFacts,
    Point,
    add_no_candidate,
    add_points,
    blank,
    by_number,
    focus,
    in_sight,
    kept,
    label,
    last_number,
    left_out,
    level,
    titled,
    told,
)
from evomerge.study.filters import gate as in_print
from evomerge.study.results import Range
from evomerge.study.tasks import TaskFacts
from evomerge.study.verdict import best_result


@dataclass(frozen=True)
class Step:
    """The best feasible candidate up to `number`: its objective, and the interval of it."""

    number: int
    objective: float
    interval: Range | None


def best_so_far(candidates: Iterable[CandidateDocument]) -> list[Step]:
    """A step for each candidate that was the best when it ended, and a last one at the last that was scored.

    The best is the one whose objective has the highest lower limit, as winners are chosen: the line may fall.

    Args:
        candidates: by number.
    """
    steps: list[Step] = []
    best: CandidateDocument | None = None
    last = 0
    for candidate in candidates:
        if candidate.objective is None:
            continue
        last = candidate.number
        if candidate.feasible and (best is None or candidate.floor > best.floor):
            best = candidate
            steps.append(Step(last, candidate.objective, candidate.objective_interval))
    if steps and steps[-1].number < last:
        steps.append(Step(last, steps[-1].objective, steps[-1].interval))
    return steps


def objective_figures(facts: StudyFacts) -> Iterator[Figure]:
    """The objective over the search."""
    caption = (
        "The weighted mean of the tasks on dev, with bars from limit to limit. Candidates that miss a gate are grey "
        "and never best; among the others the one with the highest lower limit is, not the one with the highest mean. "
        "The star is the one to export."
    )
    figure = FigureFacts(
        name="objective",
        family="objective",
        title="Objective",
        caption=caption + left_out(facts),
        cropped=True,
    )
    yield Figure(figure, partial(objective_figure, facts))


def task_figures(facts: StudyFacts) -> Iterator[Figure]:
    """The score on each task over the search."""
    for index, task in enumerate(facts.tasks):
        gate = "It has no gate." if task.gate is None else f"The dashed line is its gate, {in_print(task.gate)}."
        figure = FigureFacts(
            name=f"task-{index}",
            family="task",
            title=task.name,
            caption=f"{task.metric} on dev. {gate}{left_out(facts)}",
            cropped=True,
        )
        yield Figure(figure, partial(task_figure, facts, task))


def objective_figure(facts: StudyFacts) -> go.Figure:
    """Every scored candidate by number, the best feasible one so far with its interval, and the baselines as lines.

    One baseline is named: the best feasible one, or where none is feasible the one with the highest objective.
    """
    study = facts.document
    baselines = [(each, each.objective) for each in study.baselines if each.objective is not None]
    top = best_result(study.baselines) or max(baselines, key=lambda each: each[1], default=(None, 0.0))[0]
    points = [
        Point(each, each.number, each.objective, each.objective_interval, label(each))
        for each in kept(facts)
        if each.objective is not None
    ]
    needed = [height for each, height in baselines if each is top or not points]
    sight = focus((each.y for each in points), _feasible(points), needed)
    figure = blank(xaxis=by_number(study), yaxis=titled("objective, higher is better") | sight)
    _add_baselines(figure, last_number(study), baselines, top, sight)
    if not points:
        add_no_candidate(figure)
        return figure
    steps = best_so_far(study.candidates)
    _add_band(figure, steps)
    add_points(figure, points)
    figure.add_trace(
        go.Scatter(
            name="best so far",
            x=[step.number for step in steps],
            y=[step.objective for step in steps],
            mode="lines",
            line={"color": GREEN, "width": 2.5, "shape": "hv"},
            hoverinfo="skip",
        )
    )
    if study.best is not None:
        figure.add_trace(
            go.Scatter(
                name=f"candidate {study.best.number}",
                x=[study.best.number],
                y=[study.best.objective],
                mode="markers",
                marker=STAR,
                hoverinfo="skip",
            )
        )
    return figure


def _add_baselines(
    figure: go.Figure,
    last: int,
    baselines: Sequence[tuple[BaselineDocument, float]],
    top: BaselineDocument | None,
    sight: Axis,
) -> None:
    """A line for each, at its height: one is named, the others share an entry in the legend."""
    others = [pair for pair in baselines if pair[0] is not top]
    others.sort(key=lambda pair: not in_sight(pair[1], sight))  # the first has the entry
    for index, (each, height) in enumerate(others):
        style = {"color": GREY, "width": 1, "dash": "dot"}
        line = level(height, last, "other baselines", label(each), style, sight).update(legendgroup="others")
        figure.add_trace(line if index == 0 else line.update(showlegend=False, meta=None))
    for each, height in baselines:
        if each is top:
            name = escape(f"best baseline{'' if each.feasible else ', misses a gate'}: {each.name}")
            style = {"color": PURPLE, "width": 2, "dash": "dash"}
            figure.add_trace(level(height, last, name, label(each), style, sight))


def _add_band(figure: go.Figure, steps: list[Step]) -> None:
    """The interval of the best so far, where it has both ends."""
    ends = [(step.number, *step.interval) for step in steps if step.interval and all(map(math.isfinite, step.interval))]
    if len(ends) < max(2, len(steps)):  # it would join what lies apart
        return
    numbers, lows, highs = zip(*ends, strict=True)
    edge = {"x": numbers, "mode": "lines", "hoverinfo": "skip", "legendgroup": "best", "showlegend": False}
    line = {"width": 0, "shape": "hv"}
    figure.add_trace(go.Scatter(name="lower limit of the best", y=lows, line=line, **edge))
    figure.add_trace(
        go.Scatter(name="upper limit of the best", y=highs, line=line, fill="tonexty", fillcolor=BAND, **edge)
    )


def task_figure(facts: StudyFacts, task: TaskFacts) -> go.Figure:
    """Every candidate's dev score on a task, the bound of its gate, the base and the parents as lines."""
    last = last_number(facts.document)
    direction = {None: "", True: ", higher is better", False: ", lower is better"}[task.higher_is_better]
    points = []
    for each in kept(facts):
        if each.objective is not None and task.name in each.scores:
            y, interval = each.scores[task.name], each.intervals.get(task.name)
            text = f"{escape(task.name)} {told(y, interval)}<br>{label(each)}"
            points.append(Point(each, each.number, y, interval, text))
    upwards = task.higher_is_better is not False
    needed = [task.bound, *(() if points else task.references.values())]
    sight = focus((each.y for each in points), _feasible(points), needed, higher_is_better=upwards)
    figure = blank(xaxis=by_number(facts.document), yaxis=titled(escape(task.metric) + direction) | sight)
    for index, (model, score) in enumerate(task.references.items()):
        color, dash = LINES[index % len(LINES)]
        name, style = escape(model), {"color": color, "width": 1.5, "dash": dash}
        figure.add_trace(level(score, last, name, f"{name}<br>{score:.4f}", style, sight))
    if task.bound is not None:
        text = f"gate {escape(in_print(str(task.gate)))}<br>{task.bound:.4f}"
        figure.add_trace(level(task.bound, last, "gate", text, {"color": RED, "width": 2, "dash": "dash"}, sight))
    add_points(figure, points)
    if not points:
        add_no_candidate(figure)
    return figure


def _feasible(points: Sequence[Point]) -> list[float]:
    """The heights of the feasible candidates, and the ends of their intervals."""
    return [end for point in points if point.candidate.feasible for end in point.ends]
