import io
import json
import math
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from evomerge.cli import main
from evomerge.errors import StudyError
from evomerge.study import Candidate, Result, Study, StudyView
from evomerge.study.document import StudyDocument, study_document
from evomerge.study.figures import best_so_far, objective_figure, task_figure
from evomerge.study.report import failures, report, task_facts, write_report
from evomerge.study.table import study_table
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
    """What a browser would make of a page: its elements, its text outside of scripts, its scripts."""

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
    assert [tag for tag, _ in page.tags if tag in ("link", "iframe", "img", "object", "base")] == []
    assert [attributes for _, attributes in page.tags if attributes.keys() & {"src", "href", "action"}] == []
    policy = next(each["content"] for _, each in page.tags if each.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert sum("plotly.js v" in script[:100] for script in page.scripts) == 1


def test_the_plots_offer_no_upload(night: Study, recorded: Add):
    recorded(night, 0.5)
    for script in Page(report(night)).scripts:
        if "Plotly.newPlot" in script and "plotly.js v" not in script[:100]:
            assert '"modeBarButtons"' in script
            assert "sendChartToCloud" not in script
            assert "http" not in script


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
        figures = [task_figure(study_document(study), task) for task in task_facts(study, study_document(study))]
    # the heads of the table of candidates and of holdout, the recipe, the reason, the warning
    assert page.text.count(MARKED) >= 3
    assert f"# {EVIL}" in page.text
    assert f"Public benchmarks steered this search: {EVIL}" in page.text
    assert not any(script.lstrip().startswith("alert") for script in page.scripts)
    assert "b" not in [tag for tag, _ in page.tags]
    # Plotly takes tags in its texts for markup
    texts = json.loads(figures[0].to_json())["data"]
    assert not any(f"<{tag}" in json.dumps(texts) for tag in ("script", "b>", "/"))


def test_every_objective_is_in_the_page(night: Study, recorded: Add):
    objectives = [0.1234567, 0.7654321, 0.25]
    for index, objective in enumerate(objectives):
        recorded(night, objective, violation=0.1 * (index == 1))
    page = Page(report(night))
    plots = "".join(script for script in page.scripts if "plotly.js v" not in script[:100])
    for objective in objectives:
        assert repr(objective) in plots
        assert f"{objective:.4f}" in page.text


def test_best_so_far_rises_and_sees_feasible_candidates_only(night: Study, recorded: Add):
    for objective, violation in ((0.9, 0.5), (0.3, 0.0), (None, 0.0), (0.2, 0.0), (0.95, 0.1), (0.4, 0.0), (0.4, 0.0)):
        recorded(night, objective, violation)
    document = study_document(night)
    # by hand: nothing before candidate 1, candidate 2 failed, 4 misses a gate
    expected = [(1, 0.3), (3, 0.3), (4, 0.3), (5, 0.4), (6, 0.4)]
    assert best_so_far(document.candidates) == expected
    traces = {trace.name: trace for trace in objective_figure(document).data}
    line = traces["best so far, feasible"]
    assert list(zip(line.x, line.y, strict=True)) == expected
    assert list(traces["feasible"].x) == [1, 3, 5, 6]
    grey = traces["misses a gate"]
    assert (list(grey.x), list(grey.y)) == ([0, 4], [0.9, 0.95])
    assert (traces["to export: candidate 5"].x, traces["to export: candidate 5"].y) == ((5,), (0.4,))


def test_baselines_are_lines_and_the_best_feasible_one_is_named(night: Study, recorded: Add, scores):
    add_sources(night, scores)
    cheat = Result(scores={"shipping": 1.0, "prose": 99.0}, objective=0.99, violations={"prose": 10.0})
    night.add_baseline("cheat", SOURCE.replace("passthrough", "linear"), cheat)
    night.add_baseline("broken", SOURCE.replace("passthrough", "linear"), Result(reason="out of memory"))
    recorded(night, 0.5)
    traces = objective_figure(study_document(night)).data
    assert [set(trace.y) for trace in traces if trace.name == "best baseline: x"] == [{0.8}]
    others = [trace for trace in traces if trace.name == "other baselines"]
    assert [(trace.text, set(trace.y)) for trace in others] == [
        ("base<br>objective 0.2000", {0.2}),
        ("y<br>objective 0.4000", {0.4}),
        ("cheat<br>objective 0.9900<br>misses prose", {0.99}),
    ]
    assert [trace.showlegend for trace in others] == [True, False, False]


def test_bounds_and_references_of_the_tasks(night: Study, recorded: Add, scores):
    add_sources(night, scores, ("base", "x"))
    recorded(night, 0.5, shipping=0.7, prose=7.0)
    recorded(night, 0.6, 0.25, shipping=0.3, prose=7.5)
    # with one parent still to come nobody knows the best one
    assert [task.bound for task in task_facts(night, study_document(night))] == [None, None]
    add_sources(night, scores, ("y",))
    document = study_document(night)
    shipping, prose = task_facts(night, document)
    assert (shipping.bound, prose.bound) == (pytest.approx(0.5 * 0.8), pytest.approx(1.5 * 6.0))
    assert (shipping.gate, shipping.higher_is_better) == (">= 0.5 x best_parent", True)
    assert (prose.weight, prose.higher_is_better) == (2.0, False)
    assert prose.references == {"base": 6.0, "x": 8.0, "y": 5.0}
    traces = {trace.name: trace for trace in task_figure(document, shipping).data}
    assert set(traces["gate &gt;= 0.5 x best_parent"].y) == {0.4}
    assert {name: set(traces[name].y) for name in SOURCES} == {"base": {0.2}, "x": {0.8}, "y": {0.4}}
    assert [(name, traces[name].x, traces[name].y) for name in ("feasible", "misses a gate")] == [
        ("feasible", (0,), (0.7,)),
        ("misses a gate", (1,), (0.3,)),
    ]


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
    assert best_so_far(document.candidates) == [(0, 0.8), (1, 0.78), (2, 0.78)]


def test_scores_have_bars_in_plots_and_intervals_in_tables(night: Study, recorded: Add, scores):
    add_sources(night, scores)
    add_sure(night, 0.8, 0.125, violations={"shipping": -0.1}, limits={"shipping": 0.6789})
    night.finish(night.start([0.5], {}, {}, ""), Result(scores={"shipping": 0.5, "prose": 7.0}, objective=0.5))
    add_sure(night, 0.7, math.inf)
    document = study_document(night)
    for figure in (objective_figure(document), task_figure(document, task_facts(night, document)[0])):
        bars = next(trace.error_y for trace in figure.data if trace.name == "feasible")
        assert bars.array == pytest.approx((0.125, 0, 0))  # none where nothing is known, or no end
        assert bars.arrayminus == pytest.approx((0.125, 0, 0))
        json.loads(figure.to_json(), parse_constant=pytest.fail)
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
    on_holdout, baseline = document.finalists
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
    assert text.count("+0.0200 [-0.0100, +0.0500]") == 3  # the sentence, the objective and the task
    assert evidence(document.model_copy(update={"best": None})) == []


def test_failures_are_grouped_by_reason(night: Study, recorded: Add):
    number = night.start([0.5], {}, {}, "")
    night.finish(number, Result(reason="NaN in its logits"))
    recorded(night, None)
    recorded(night, 0.5)
    night.add_baseline("ties", SOURCE, Result(reason="worker died"))
    found = failures(study_document(night))
    assert list(found.items()) == [
        ("worker died", ["candidate 1", "baseline ties"]),
        ("NaN in its logits", ["candidate 0"]),
    ]
    assert "candidate 1, baseline ties" in Page(report(night)).text


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
