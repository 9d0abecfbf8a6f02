"""What one task costs another: pairs of tasks, and the candidates that no other one beats on both."""

from collections.abc import Iterator, Sequence
from functools import partial
from html import escape
from itertools import combinations
from typing import Any

import plotly.graph_objects as go

from evomerge.study.document import CandidateDocument
from evomerge.study.facts import StudyFacts
from evomerge.study.figures.drawing import (
    GREEN,
    PURPLE,
    RED,
    STAR,
    Figure,
    FigureFacts,
    Point,
    add_points,
    blank,
    focus,
    kept,
    label,
    left_out,
    titled,
)
from evomerge.study.tasks import TaskFacts

TASKS = 5  # whose pairs are drawn: ten


def pareto_figures(facts: StudyFacts) -> Iterator[Figure]:
    """One figure for each pair of the first tasks."""
    if all(each.objective is None for each in facts.document.candidates):
        return
    more = f" The first {TASKS} of {len(facts.tasks)} tasks have pairs here." if len(facts.tasks) > TASKS else ""
    for (i, one), (j, other) in combinations(enumerate(facts.tasks[:TASKS]), 2):
        caption = (
            "Scores on dev of two tasks. No candidate beats those on the line on both. Dashed lines are gates, "
            "diamonds are baselines, the star is the one to export."
        )
        figure = FigureFacts(
            name=f"pareto-{i}-{j}",
            family="pareto",
            title=f"{one.name} against {other.name}",
            caption=caption + more + left_out(facts),
            cropped=True,
        )
        yield Figure(figure, partial(pareto_figure, facts, one, other))


def pareto_figure(facts: StudyFacts, one: TaskFacts, other: TaskFacts) -> go.Figure:
    """Candidates and baselines by their dev scores on two tasks, the gates of both, and the front."""
    study = facts.document
    points = [
        Point(each, each.scores[one.name], each.scores[other.name], None, _text(each, one, other))
        for each in kept(facts)
        if each.objective is not None and {one.name, other.name} <= each.scores.keys()
    ]
    feasible = [point for point in points if point.candidate.feasible]
    figure = blank(
        xaxis=_axis(one, [each.x for each in points], [each.x for each in feasible]),
        yaxis=_axis(other, [each.y for each in points], [each.y for each in feasible]),
    )
    add_points(figure, points)
    baselines = [each for each in study.baselines if each.objective is not None]
    figure.add_trace(
        go.Scatter(
            name="baselines",
            x=[each.scores[one.name] for each in baselines],
            y=[each.scores[other.name] for each in baselines],
            text=[label(each) for each in baselines],
            mode="markers",
            marker={"symbol": "diamond-open", "size": 9, "color": PURPLE},
            hoverinfo="text",
        )
    )
    line = front([each for each in study.candidates if each.feasible], one, other)
    figure.add_trace(
        go.Scatter(
            name="front",
            x=[each.scores[one.name] for each in line],
            y=[each.scores[other.name] for each in line],
            mode="lines",
            line={"color": GREEN, "width": 2},
            hoverinfo="skip",
        )
    )
    for task, add in ((one, figure.add_vline), (other, figure.add_hline)):
        if task.bound is not None:
            add(task.bound, line={"color": RED, "width": 1.5, "dash": "dash"})
    if study.best is not None:
        best = study.best.scores
        figure.add_trace(
            go.Scatter(
                name=f"candidate {study.best.number}",
                x=[best[one.name]],
                y=[best[other.name]],
                mode="markers",
                marker=STAR,
                hoverinfo="skip",
            )
        )
    return figure


def front(candidates: Sequence[CandidateDocument], one: TaskFacts, other: TaskFacts) -> list[CandidateDocument]:
    """The candidates that no other one beats: as good on both tasks and better on one. By their score on the first.

    Of candidates with equal scores the first stands for all.
    """
    signs = [-1 if task.higher_is_better is False else 1 for task in (one, other)]
    worth = {each.number: (signs[0] * each.scores[one.name], signs[1] * each.scores[other.name]) for each in candidates}
    found: list[CandidateDocument] = []
    for each in sorted(candidates, key=lambda each: (*worth[each.number], -each.number), reverse=True):
        if not found or worth[each.number][1] > worth[found[-1].number][1]:
            found.append(each)
    return found


def _axis(task: TaskFacts, scores: Sequence[float], feasible: Sequence[float]) -> dict[str, Any]:
    direction = ", lower is better" if task.higher_is_better is False else ""
    sight = focus(scores, feasible, [task.bound], higher_is_better=task.higher_is_better is not False)
    return titled(escape(f"{task.name}: {task.metric}{direction}")) | sight


def _text(candidate: CandidateDocument, one: TaskFacts, other: TaskFacts) -> str:
    scores = [f"{escape(task.name)} {candidate.scores[task.name]:.4f}" for task in (one, other)]
    return "<br>".join([*scores, label(candidate)])
