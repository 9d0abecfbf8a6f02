"""The report: one HTML file that shows a study and needs nothing else, no network and no evomerge."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from evomerge.errors import UsageError
from evomerge.study.document import study_document
from evomerge.study.figures import study_figures
from evomerge.study.filters import FILTERS
from evomerge.study.folder import replace_file
from evomerge.study.page import CandidateQuery, study_page
from evomerge.study.view import StudyView

SHOWN = 200  # candidates in the table

_TEMPLATES = Path(__file__).parent / "templates"


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
    """The report as HTML: the study page of the dashboard without its links. The same study gives the same text.

    Raises:
        StudyError: the study is damaged.
    """
    document = study_document(study)
    jinja = Environment(
        autoescape=True,
        loader=FileSystemLoader(_TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    jinja.filters.update(FILTERS)
    return jinja.get_template("report.html.jinja").render(
        page=study_page(study, document, CandidateQuery(size=SHOWN)),
        url=None,
        style=_own("app.css"),
        script=_own("figures.js"),
        plotly=Markup(get_plotlyjs()),
        figures={name: _in_a_script(figure.to_json()) for name, figure in study_figures(study, document).items()},
    )


def _own(name: str) -> Markup:
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def _in_a_script(document: str) -> Markup:
    """JSON in which no text can end the script element that holds it."""
    return Markup(document.replace("<", "\\u003c"))
