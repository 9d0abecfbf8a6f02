"""Plots of a study, as Plotly figures that suit a light and a dark page."""

from collections.abc import Callable, Iterator, Mapping

import plotly.graph_objects as go

from evomerge.errors import UsageError, nearest
from evomerge.study.document import StudyDocument
from evomerge.study.facts import StudyFacts, study_facts
from evomerge.study.figures.drawing import Figure, FigureFacts
from evomerge.study.figures.durations import duration_figures
from evomerge.study.figures.importance import importance_figures
from evomerge.study.figures.layers import layer_figures
from evomerge.study.figures.parallel import parallel_figures
from evomerge.study.figures.pareto import pareto_figures
from evomerge.study.figures.scores import objective_figures, task_figures
from evomerge.study.figures.slices import slice_figures
from evomerge.study.view import StudyView

__all__ = ["FIGURES", "FigureFacts", "figure_facts", "study_figure", "study_figures"]

FIGURES: Mapping[str, Callable[[StudyFacts], Iterator[Figure]]] = {
    "objective": objective_figures,
    "task": task_figures,
    "importance": importance_figures,
    "parallel": parallel_figures,
    "slices": slice_figures,
    "layers": layer_figures,
    "pareto": pareto_figures,
    "durations": duration_figures,
}
"""Family -> the figures of that family that a study has; none is drawn before it is asked for."""


def figure_facts(facts: StudyFacts) -> tuple[FigureFacts, ...]:
    """What can be drawn of a study."""
    return tuple(figure.facts for figure in _figures(facts))


def study_figure(study: StudyView, document: StudyDocument, name: str) -> go.Figure:
    """Draw the figure of that name.

    Raises:
        StudyError: the study is damaged.
        UsageError: the study has no such figure.
    """
    figures = {figure.facts.name: figure for figure in _figures(study_facts(study, document))}
    if name not in figures:
        remedy = nearest(name, figures)
        raise UsageError("no such figure", where=f"study {document.study}", found=name, remedy=remedy)
    return figures[name].draw()


def study_figures(study: StudyView, document: StudyDocument) -> dict[str, go.Figure]:
    """Draw all figures of a study: name -> figure. Raises StudyError."""
    return {figure.facts.name: figure.draw() for figure in _figures(study_facts(study, document))}


def _figures(facts: StudyFacts) -> Iterator[Figure]:
    for family in FIGURES.values():
        yield from family(facts)
