import io
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from evomerge.cli import main
from evomerge.errors import StudyError
from evomerge.study import Candidate, Result, Study, StudyView
from evomerge.study.document import StudyDocument, study_document
from evomerge.study.report import report, write_report
from evomerge.study.table import study_table
from evomerge.study.tasks import task_facts
from evomerge.study.verdict import evidence, ranked, verdict

Add = Callable[..., Candidate]

EVIL = "</script><script>alert(1)</script>"
MARKED = "refunds <b>&amp;</b>" + EVIL
SUITE = {
    "tasks": [
        {"name": "shipping", "metric": "exact_match", "gate": {"at_least": 0.5, "of": "best_parent"}},
        {"name": "prose", "metric": "word_perplexity", "weight": 2.0, "gate": {"at_most": 1.5, "of": "base"}},
    ]
}
SOURCES = {"base": (0.2, 6.0), "x": (0.8, 8.0), "y": (0.4, 5.0)}
SOURCE = "merge_method: passthrough\nmodels:\n- model: org/x\n"


class Page(HTMLParser):
    """What a browser would make of a page: its elements, its text outside of scripts and styles, its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text, self.scripts = "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.cdata_elem == "script":
            self.scripts[-1] += data
        elif self.cdata_elem is None:
            self.text += data

    @property
    def figures(self) -> str:
        return "".join(script for script in self.scripts if script.startswith('{"data":'))


@pytest.fixture
def night(folder: Path, created: Callable[..., Study]) -> Study:
    with created(folder, models={"base": "b", "parents": ["org/x", "org/y"]}, suite=SUITE) as study:
        yield study


def add_sources(study: Study, scores: Callable[..., object], names: tuple[str, ...] = ("base", "x", "y")) -> None:
    for name in names:
        shipping, prose = SOURCES[name]
        result = Result(scores={"shipping": shipping, "prose": prose}, objective=shipping)
        study.add_baseline(name, SOURCE, result, scores(shipping))


def with_finalists(study: Study, *rows: tuple[str, int | None, float | None, bool]) -> StudyDocument:
    for name, number, objective, cleared in rows:
        reason = "worker died" if objective is None else None
        result = Result(objective=objective, reason=reason, violations={"prose": 0.0 if cleared else 0.1})
        study.add_finalist(name, number, result)
    return study_document(study)


def test_the_page_needs_nothing_but_itself(night: Study, recorded: Add):
    recorded(night, 0.5)
    page = Page(report(night))
    assert [tag for tag, _ in page.tags if tag in ("link", "iframe", "img", "object", "base", "form", "input")] == []
    # its own script hears the buttons
    assert all(attributes["data-whole"] for tag, attributes in page.tags if tag == "button")
    assert [attributes for _, attributes in page.tags if attributes.keys() & {"src", "action"}] == []
    places = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert links
    assert {link.removeprefix("#") for link in links} <= places
    policy = next(each["content"] for _, each in page.tags if each.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert sum("plotly.js v" in script[:100] for script in page.scripts) == 1


def test_each_figure_of_the_page_is_in_it(night: Study, recorded: Add):
    for objective in (0.5, 0.6):
        recorded(night, objective)
    page = Page(report(night))
    wanted = [attributes["data-figure"] for _, attributes in page.tags if "data-figure" in attributes]
    held = [attributes["id"] for tag, attributes in page.tags if tag == "script" and "id" in attributes]
    assert wanted == [f"#{name}" for name in held]
    assert {"#data-objective", "#data-task-0", "#data-pareto-0-1"} <= set(wanted)


def test_the_plots_offer_no_upload(night: Study, recorded: Add):
    recorded(night, 0.5)
    page = Page(report(night))
    (drawing,) = [script for script in page.scripts if "Plotly.react" in script and "plotly.js v" not in script[:100]]
    assert "modeBarButtons" in drawing
    assert "sendChartToCloud" not in drawing
    assert "http" not in page.figures + drawing


def test_names_and_texts_are_shown_and_never_run(folder: Path, created: Callable[..., Study], scores):
    suite = {"tasks": [{"name": MARKED, "metric": "acc", "gate": {"at_least": 0.5, "of": EVIL}}]}
    with created(folder, models={"parents": [EVIL]}, suite=suite) as study:
        for name in ("base", EVIL):
            study.add_baseline(name, SOURCE, Result(scores={MARKED: 0.5}, objective=0.5), scores(0.5))
        for objective, violation in ((0.5, 0.0), (0.6, 1.0), (None, 0.0)):
            number = study.start([0.5], {}, {}, f"# {EVIL}\n")
            reason = EVIL if objective is None else None
            result = {"scores": {MARKED: 0.5}, "violations": {MARKED: violation}}
            study.finish(number, Result(objective=objective, reason=reason, **result))
        study.note("benchmarks", [EVIL])
        study.add_finalist("0", 0, Result(scores={MARKED: 0.5}, objective=0.5, violations={MARKED: 0.0}))
        study.add_finalist(EVIL, None, Result(reason=EVIL))
        page = Page(report(study))
    # the heads of the table of candidates and of holdout, the recipe, the reason, the warning
    assert page.text.count(MARKED) >= 3
    assert f"# {EVIL}" in page.text
    assert f"Public benchmarks steered this search: {EVIL}" in page.text
    assert not any(script.lstrip().startswith("alert") for script in page.scripts)
    assert "b" not in [tag for tag, _ in page.tags]


def test_every_objective_is_in_the_page(night: Study, recorded: Add):
    objectives = [0.1234567, 0.7654321, 0.25]
    for index, objective in enumerate(objectives):
        recorded(night, objective, violation=0.1 * (index == 1))
    page = Page(report(night))
    for objective in objectives:
        assert repr(objective) in page.figures
        assert f"{objective:.4f}" in page.text


def test_the_table_ranks_feasible_ones_first_then_by_miss(night: Study, recorded: Add):
    for objective, violation in ((0.9, 0.5), (0.3, 0.0), (None, 0.0), (0.4, -0.2), (0.1, 0.1)):
        recorded(night, objective, violation)
    assert [candidate.number for candidate in ranked(study_document(night).candidates)] == [3, 1, 4, 0]


def sure(objective: float, reach: float, **fields) -> Result:
    """A result whose intervals reach as far on either side."""
    scores = {"shipping": objective, "prose": 7.0}
    intervals = {task: (score - reach, score + reach) for task, score in scores.items()}
    ends = (objective - reach, objective + reach)
    return Result(scores=scores, intervals=intervals, objective=objective, objective_interval=ends, **fields)


def add_sure(study: Study, objective: float, reach: float, **fields) -> None:
    study.finish(study.start([0.5], {}, {}, f"# {objective}\n"), sure(objective, reach, **fields))


def test_a_sure_candidate_comes_before_one_with_a_higher_mean(night: Study):
    """0.8 +- 0.2 and 0.78 +- 0.02: the lower limit decides, for the best so far, the table and the one to export."""
    for objective, reach in ((0.8, 0.2), (0.78, 0.02), (0.81, 0.1)):
        add_sure(night, objective, reach)
    document = study_document(night)
    assert document.best.number == 1
    assert (night.folder.best).read_text() == "# 0.78\n"
    assert [candidate.number for candidate in ranked(document.candidates)] == [1, 2, 0]


def test_where_a_task_has_no_interval_the_others_tell_the_lower_limit(night: Study):
    """Such a candidate is ranked among those that have an interval, and is shown without one."""
    add_sure(night, 0.7, 0.1)
    for low in (0.5, 0.65):
        result = replace(sure(0.9, 0.1), objective_interval=None, objective_floor=low)
        night.finish(night.start([0.5], {}, {}, f"# {low}\n"), result)
    add_sure(night, 0.8, 0.18)
    document = study_document(night)
    assert document.best.number == night.best.number == 2
    assert document.best.objective_interval is None
    assert [candidate.number for candidate in ranked(document.candidates)] == [2, 3, 0, 1]
    assert [each.number for each in sorted(night.candidates(), key=lambda each: each.floor)] == [1, 0, 3, 2]


def test_a_study_of_an_older_evomerge_is_ranked_by_what_it_has(night: Study, recorded: Add):
    add_sure(night, 0.8, 0.2)  # 0.6
    recorded(night, 0.7)
    add_sure(night, 0.9, 0.1)
    assert [candidate.number for candidate in ranked(study_document(night).candidates)] == [2, 1, 0]


def test_scores_have_intervals_in_tables(night: Study, recorded: Add, scores):
    add_sources(night, scores)
    add_sure(night, 0.8, 0.125, violations={"shipping": -0.1}, limits={"shipping": 0.6789})
    night.finish(night.start([0.5], {}, {}, ""), Result(scores={"shipping": 0.5, "prose": 7.0}, objective=0.5))
    add_sure(night, 0.7, math.inf)
    document = study_document(night)
    text = Page(report(night)).text
    assert "[0.6750, 0.9250]" in text
    assert "held: 0.6789" in text
    console = Console(width=200, record=True, file=io.StringIO())
    for part in study_table(document):
        console.print(part)
    shown = console.export_text()
    assert "0.8000 ±.125 (0.6789)" in shown
    assert "in brackets: held against a gate" in " ".join(shown.split())


def test_how_sure_the_winner_is(night: Study):
    add_sure(night, 0.8, 0.03)
    night.add_finalist("0", 0, sure(0.7, 0.04))
    night.add_finalist("x", None, sure(0.6, 0.04))
    differences = [("x", (0.1, 0.05, 0.15)), ("uniform", (0.02, -0.01, 0.05))]
    night.note(
        "differences",
        [
            {"candidate": 0, "rival": rival, "split": "holdout", "objective": each, "tasks": {"shipping": each}}
            for rival, each in differences
        ],
    )
    document = study_document(night)
    baseline, on_holdout = document.finalists
    # 0.03 and 0.04 add up in squares to 0.05
    assert on_holdout.optimism == pytest.approx((0.1, 0.05, 0.15))
    assert baseline.optimism is None
    assert [each.tasks["shipping"] for each in document.differences] == [each for _, each in differences]
    first, second, third = evidence(document)
    assert first == "Over the same holdout documents it leads the best parent (x) by +0.1000 [+0.0500, +0.1500]."
    assert second.endswith("the plain uniform merge by +0.0200 [-0.0100, +0.0500], which may be chance.")
    assert "kinder to it than holdout by +0.1000 [+0.0500, +0.1500]" in third
    text = Page(report(night)).text
    for sentence in (first, second, third):
        assert sentence in text
    assert text.count("+0.0200[-0.0100, +0.0500]") == 2  # the objective and the task
    assert evidence(document.model_copy(update={"best": None})) == []
    turned = document.differences[0].model_copy(update={"objective": (-0.1, -0.15, -0.05)})
    [sentence, _] = evidence(document.model_copy(update={"differences": (turned,)}))
    assert sentence.endswith(" it trails the best parent (x) by +0.1000 [+0.0500, +0.1500].")
    for value, said in ((0.1, "leads"), (-0.1, "trails")):
        unknown = {"candidate": 0, "rival": "x", "split": "dev", "objective": (value, -math.inf, math.inf), "tasks": {}}
        night.note("differences", [unknown])
        [sentence, _] = evidence(study_document(night))
        assert sentence.endswith(f" it {said} the best parent (x) by +0.1000 (no interval), which may be chance.")
        text = Page(report(night)).text
        assert f"{value:+.4f}no interval" in text
        assert "[-inf" not in text


@pytest.mark.parametrize(
    ("baselines", "good", "said"),
    [
        ([("base", 0.4, True), ("ties", 0.45, True)], True, "beats every baseline that clears the gates: "),
        ([("base", 0.5, True)], False, "does not beat the best baseline: 0.5000 against 0.5000 for base."),
        ([("base", 0.4, True), ("ties", 0.6, True)], False, "against 0.6000 for ties."),
        ([("base", 0.4, True), ("ties", 0.6, False)], True, "ties reaches 0.6000, but misses the gate of prose."),
        ([("base", 0.4, False)], True, "clears every gate with 0.5000; no baseline does."),
        ([("base", None, False)], True, "no baseline does."),
    ],
)
def test_the_verdict_on_holdout_is_honest(night: Study, recorded: Add, baselines, good, said):
    recorded(night, 0.9)
    rows = [(name, None, objective, cleared) for name, objective, cleared in baselines]
    found = verdict(with_finalists(night, ("0", 0, 0.5, True), *rows))
    assert found.good is good
    assert found.text.startswith("On holdout candidate 0 ")
    assert said in found.text


def test_the_verdict_without_holdout_or_without_a_winner(night: Study, recorded: Add, scores):
    assert verdict(study_document(night)).text == "No candidate has been scored yet."
    recorded(night, 0.9, violation=0.1)
    assert verdict(study_document(night)).text == "No candidate clears every gate: there is nothing to export."
    add_sources(night, scores)
    recorded(night, 0.5)
    on_dev = verdict(study_document(night))
    assert on_dev.text == (
        "On dev candidate 1 does not beat the best baseline: 0.5000 against 0.8000 for x. "
        "It has not been scored on holdout."
    )
    assert not on_dev.good
    night.elect(None)
    none_left = verdict(study_document(night))
    assert none_left.text == "No candidate clears every gate on holdout: there is nothing to export."


def test_an_empty_study_has_a_report_and_the_same_study_the_same(night: Study, recorded: Add):
    assert "No candidate has been scored yet." in Page(report(night)).text
    recorded(night, 0.5)
    view = StudyView(night.folder.path)
    assert report(view) == report(view)


def test_a_broken_study_is_a_study_error(night: Study, folder: Path, created: Callable[..., Study]):
    with created(folder.with_name("other")) as other, pytest.raises(StudyError, match="not the config of a search"):
        report(other)
    gate = {"name": "prose", "metric": "acc", "gate": {}}
    with (
        created(folder.with_name("gate"), models={"parents": []}, suite={"tasks": [gate]}) as other,
        pytest.raises(StudyError, match="gate needs one bound"),
    ):
        report(other)
    (folder / "environment.json").write_text("{")
    with pytest.raises(StudyError, match="study cannot be read"):
        write_report(StudyView(folder))
    assert not (folder / "report.html").exists()
    (folder / "config.yaml").unlink()
    assert main(["report", str(folder)]) == 5


def test_the_command_writes_into_the_study_or_where_it_is_told(night: Study, folder: Path, tmp_path: Path, capsys):
    assert main(["report", folder.name, "--runs-dir", str(folder.parent)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    there = tmp_path / "there.html"
    there.write_text("old")
    assert main(["report", str(folder), "-o", str(there)]) == 0
    assert Page(there.read_text(encoding="utf-8")).tags[0][0] == "html"
    assert list(folder.glob(".*")) == []


@pytest.mark.parametrize("name", ["missing/report.html", "file/report.html", ".", "/"])
def test_a_place_that_cannot_be_written_is_one_line(night: Study, folder: Path, tmp_path: Path, name, capsys):
    (tmp_path / "file").write_text("")
    assert main(["report", str(folder), "-o", name if name in (".", "/") else str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("evomerge: cannot write the report")
    assert len(said.splitlines()) == 1


def test_the_report_of_a_search(calm: Path, tmp_path: Path):
    folder = tmp_path / "copy"
    shutil.copytree(calm, folder)
    assert main(["report", str(folder)]) == 0
    text = Page((folder / "report.html").read_text(encoding="utf-8")).text
    assert (folder / "best.yaml").read_text() in text
    assert "On holdout candidate" in text
    assert "Public benchmarks" not in text
    study = StudyView(folder)
    document = study_document(study)
    choice, prose = task_facts(study, document)
    assert (choice.bound, list(prose.references)) == (0.0, ["base", "first", "second"])
    for candidate in document.candidates:  # the search has judged by the same bound
        miss = (candidate.scores["prose"] - prose.bound) / prose.bound
        assert candidate.violations["prose"] == pytest.approx(miss)
