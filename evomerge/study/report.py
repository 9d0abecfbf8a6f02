"""The report: one HTML file that shows a study and needs nothing else, no network and no evomerge."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from pydantic import BaseModel, ValidationError

from evomerge.errors import StudyError, SuiteError, UsageError
from evomerge.recipe import Recipe
from evomerge.study.document import (
    BaselineDocument,
    ResultDocument,
    StudyDocument,
    study_document,
)
from evomerge.study.figures import TaskFacts, objective_figure, task_figure
from evomerge.study.folder import replace_file
from evomerge.study.verdict import evidence, ranked, signed, verdict
from evomerge.study.view import StudyView
from fitness.gates import bounds
from fitness.suite import SuiteConfig

SHOWN = 30  # candidates in the table of gates
# named one by one: Plotly's own choice holds one that uploads the plot to its makers
_BUTTONS = {
    "displaylogo": False,
    "modeBarButtons": [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
    "showSendToCloud": False,
    "responsive": True,
}


class _Models(BaseModel):
    parents: tuple[Any, ...]


class _Config(BaseModel):
    """As much of a study's config as the report needs."""

    models: _Models
    suite: SuiteConfig


def write_report(study: StudyView, path: Path | None = None) -> Path:
    """Write the report of a study.

    Args:
        study: to show, as it is now.
        path: of the HTML file, an older one is replaced; None: report.html in the study's folder.

    Returns:
        The path of the file.

    Raises:
        StudyError: the study is damaged.
        UsageError: the file cannot be written.
    """
    path = study.folder.path / "report.html" if path is None else path
    if path.is_dir():
        raise UsageError("cannot write the report", where=path, expected="the name of a file", found="a folder")
    content = report(study).encode()
    try:
        replace_file(path, content)
    except OSError as error:
        raise UsageError("cannot write the report", where=path, found=error.strerror) from error
    return path


def report(study: StudyView) -> str:
    """The report as HTML. The same study gives the same text.

    Raises:
        StudyError: the study is damaged.
    """
    document = study_document(study)
    tasks = task_facts(study, document)
    jinja = Environment(
        autoescape=True,
        loader=FileSystemLoader(Path(__file__).parent),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    jinja.filters["signed"] = lambda difference: "–" if difference is None else signed(difference)
    jinja.filters["interval"] = lambda ends: "" if ends is None else f"[{ends[0]:.4f}, {ends[1]:.4f}]"
    jinja.filters["number"] = lambda value: "–" if value is None else f"{value:.4f}"
    return jinja.get_template("report.html.jinja").render(
        study=document,
        tasks=tasks,
        recipe=None if document.best is None else study.candidate(document.best.number).recipe,
        verdict=verdict(document),
        evidence=evidence(document),
        candidates={candidate.number: candidate for candidate in document.candidates},
        ranked=ranked(document.candidates)[:SHOWN],
        failures=failures(document),
        environment=study.environment,
        plotly=Markup(get_plotlyjs()),
        objective_plot=_html(objective_figure(document), "objective"),
        task_plots=[_html(task_figure(document, task), f"task-{index}") for index, task in enumerate(tasks)],
    )


def task_facts(study: StudyView, document: StudyDocument) -> tuple[TaskFacts, ...]:
    """The suite's tasks, in its order, with the bounds of their gates on dev.

    Raises:
        StudyError: the study's config is not that of a search.
    """
    config, facts = _config(study), study.tasks()
    references = {
        each.name: each.scores for each in document.baselines if each.objective is not None and _is_source(each)
    }
    resolved: dict[str, float] = {}
    # the best parent is not known before all are
    if len(references) == 1 + len(config.models.parents):
        resolved = {task: bound for task, (bound, _) in bounds(config.suite, references).items()}
    return tuple(
        TaskFacts(
            name=task.name,
            metric=task.metric,
            higher_is_better=facts[task.name]["higher_is_better"] if task.name in facts else None,
            weight=task.weight,
            gate=None if task.gate is None else str(task.gate),
            bound=resolved.get(task.name),
            references={model: scores[task.name] for model, scores in references.items()},
        )
        for task in config.suite.tasks
    )


def failures(study: StudyDocument) -> dict[str, list[str]]:
    """Reason -> the names of what failed for it, the most frequent reason first."""
    rows: list[tuple[str, ResultDocument]] = [(f"candidate {each.number}", each) for each in study.candidates]
    rows += [(f"baseline {each.name}", each) for each in study.baselines]
    rows += [(f"{each.name} on holdout", each) for each in study.finalists]
    by_reason: dict[str, list[str]] = {}
    for name, result in rows:
        if result.reason is not None:
            by_reason.setdefault(result.reason, []).append(name)
    return dict(sorted(by_reason.items(), key=lambda each: -len(each[1])))


def _is_source(baseline: BaselineDocument) -> bool:
    """Whether it is the base or a parent as it is, which gates may refer to."""
    return Recipe.from_yaml(baseline.recipe).merge_method == "passthrough"


def _config(study: StudyView) -> _Config:
    try:
        return _Config.model_validate(study.config)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{study.folder.config}: {'.'.join(map(str, first['loc']))}"
        raise StudyError("not the config of a search", where=where, found=first["msg"]) from error
    except SuiteError as error:
        raise StudyError("not the config of a search", where=study.folder.config, found=error) from error


def _html(figure: Any, name: str) -> Markup:
    # Plotly writes < and > in its JSON as \u003c and \u003e, so no name can end the script
    return Markup(figure.to_html(config=_BUTTONS, include_plotlyjs=False, full_html=False, div_id=name))
