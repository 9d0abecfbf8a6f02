import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from evomerge.errors import UsageError
from evomerge.recipe import ModelRef, Recipe
from evomerge.study import Candidate, Result, Study
from evomerge.study.document import CandidateDocument, study_document
from evomerge.study.facts import StudyFacts, study_facts
from evomerge.study.figures import FIGURES, figure_facts, study_figure, study_figures
from evomerge.study.figures.drawing import GREY, UNLISTED, focus, kept
from evomerge.study.figures.importance import importance
from evomerge.study.figures.layers import STEPS, LayerMap, layer_maps
from evomerge.study.figures.pareto import front
from evomerge.study.figures.scores import Step, best_so_far, objective_figure, task_figure
from evomerge.study.tasks import TaskFacts

Add = Callable[..., Candidate]

EVIL = "</script><script>alert(1)</script>"
SUITE = {
    "tasks": [
        {"name": "shipping", "metric": "exact_match", "gate": {"at_least": 0.5, "of": "best_parent"}},
        {"name": "prose", "metric": "word_perplexity", "weight": 2.0, "gate": {"at_most": 1.5, "of": "base"}},
    ]
}
SOURCES = {"base": (0.2, 6.0), "x": (0.8, 8.0), "y": (0.4, 5.0)}
SOURCE = "merge_method: passthrough\nmodels:\n- model: org/{}\n"
SLICES = """\
merge_method: task_arithmetic
base_model: org/base
slices:
- sources:
  - {model: org/base, layer_range: [0, 2]}
  - {model: org/x, layer_range: [0, 2], parameters: {weight: 0.25}}
  - {model: org/y, layer_range: [0, 2], parameters: {weight: 0.5}}
- sources:
  - {model: org/base, layer_range: [2, 3]}
  - {model: org/x, layer_range: [2, 3], parameters: {weight: 0.75}}
  - {model: org/y, layer_range: [2, 3], parameters: {weight: 0.5}}
"""


@pytest.fixture
def night(folder: Path, created: Callable[..., Study]) -> Study:
    with created(folder, models={"base": "b", "parents": ["org/x", "org/y"]}, suite=SUITE) as study:
        yield study


def facts_of(study: Study) -> StudyFacts:
    return study_facts(study, study_document(study))


def add_sources(study: Study, scores: Callable[..., object]) -> None:
    for name, (shipping, prose) in SOURCES.items():
        result = Result(scores={"shipping": shipping, "prose": prose}, objective=shipping)
        study.add_baseline(name, SOURCE.format(name), result, scores(shipping))


def add_many(study: Study, count: int) -> None:
    """Candidates whose objective is the first of their two dimensions."""
    space = {"decides": (0.0, 1.0), "idle": (0.0, 1.0)}
    for number in range(count):
        value = number * 37 % count / count  # all different, in no order
        genome = {"decides": value, "idle": number * 11 % count / count}
        result = Result(
            scores={"shipping": value, "prose": 7.0}, objective=value, timings={"merge": 1.0, "score": value}
        )
        study.finish(study.start([0.5, 0.5], genome, space, SLICES), result)


def add_sure(study: Study, objective: float, reach: float) -> None:
    interval = (objective - reach, objective + reach)
    result = Result(
        scores={"shipping": objective, "prose": 7.0},
        intervals={"shipping": interval},
        objective=objective,
        objective_interval=interval,
    )
    study.finish(study.start([0.5], {}, {}, f"# {objective}\n"), result)


def document(number: int, scores: dict[str, float], **fields) -> CandidateDocument:
    """A feasible candidate."""
    usual = {field: {} for field in ("genome", "intervals", "gates", "violations", "limits")}
    usual |= dict.fromkeys(("objective_interval", "seconds", "reason", "stopped", "rung"))
    usual |= {"state": "complete", "feasible": True, "objective": 0.5, "cached": False}
    return CandidateDocument(number=number, scores=scores, **usual | {"item_evaluations": 0, "attempts": 1} | fields)


def task(name: str, higher_is_better: bool = True) -> TaskFacts:
    return TaskFacts(
        name=name,
        metric="acc",
        higher_is_better=higher_is_better,
        weight=1,
        gate=None,
        bound=None,
        references={},
    )


def test_every_family_is_drawn_by_name_and_as_json(night: Study, recorded: Add, scores):
    add_sources(night, scores)
    add_many(night, 24)
    recorded(night, None)
    page = study_document(night)
    facts = figure_facts(facts_of(night))
    assert {each.family for each in facts} == set(FIGURES)
    assert len({each.name for each in facts}) == len(facts)
    drawn = study_figures(night, page)
    for each in facts:
        figure = study_figure(night, page, each.name)
        assert figure == drawn[each.name]
        assert figure.layout.height == each.height
        assert "color" not in figure.layout.font.to_plotly_json()  # the page gives it
        json.loads(figure.to_json(), parse_constant=pytest.fail)


def test_a_figure_that_the_study_does_not_have_is_one_line(night: Study, recorded: Add):
    recorded(night, 0.5)
    with pytest.raises(UsageError, match=r"no such figure .*did you mean 'objective'"):
        study_figure(night, study_document(night), "objectiv")


def test_figures_appear_once_there_is_something_to_show(night: Study, recorded: Add):
    assert {each.family for each in figure_facts(facts_of(night))} == {"objective", "task"}
    recorded(night, 0.5)
    families = {each.family for each in figure_facts(facts_of(night))}
    assert families == {"objective", "task", "pareto", "durations"}


def test_the_best_so_far_sees_feasible_candidates_only(night: Study, recorded: Add):
    for objective, violation in ((0.9, 0.5), (0.3, 0.0), (None, 0.0), (0.2, 0.0), (0.95, 0.1), (0.4, 0.0), (0.4, 0.0)):
        recorded(night, objective, violation)
    facts = facts_of(night)
    # by hand: nothing before candidate 1, candidate 2 failed, 4 misses a gate, 6 is no better than 5
    expected = [(1, 0.3), (5, 0.4), (6, 0.4)]
    steps = best_so_far(facts.document.candidates)
    assert [(step.number, step.objective) for step in steps] == expected
    traces = {trace.name: trace for trace in objective_figure(facts).data}
    line = traces["best so far"]
    assert list(zip(line.x, line.y, strict=True)) == expected
    assert list(traces["feasible"].x) == [1, 3, 5, 6]
    grey = traces["misses a gate"]
    assert (list(grey.x), list(grey.y)) == ([0, 4], [0.9, 0.95])
    assert (traces["candidate 5"].x, traces["candidate 5"].y) == ((5,), (0.4,))
    assert "lower limit of the best" not in traces  # nothing is known of it


def test_a_sure_candidate_is_the_best_so_far_and_has_a_band(night: Study):
    """0.8 +- 0.2, then 0.78 +- 0.02: the lower limit decides, and the line falls."""
    for objective, reach in ((0.8, 0.2), (0.78, 0.02), (0.81, 0.1)):
        add_sure(night, objective, reach)
    facts = facts_of(night)
    steps = best_so_far(facts.document.candidates)
    assert [(step.number, step.objective) for step in steps] == [(0, 0.8), (1, 0.78), (2, 0.78)]
    assert steps[1].interval == pytest.approx((0.76, 0.8))
    traces = {trace.name: trace for trace in objective_figure(facts).data}
    assert traces["lower limit of the best"].y == pytest.approx((0.6, 0.76, 0.76))
    assert traces["upper limit of the best"].y == pytest.approx((1.0, 0.8, 0.8))


def test_the_first_feasible_candidate_is_the_best_however_unsure():
    candidate = document(0, {}, objective=0.3, objective_interval=(-math.inf, math.inf))
    assert best_so_far([candidate]) == [Step(0, 0.3, (-math.inf, math.inf))]


def test_bars_are_none_where_nothing_is_known_or_where_they_have_no_end(night: Study):
    add_sure(night, 0.8, 0.125)
    night.finish(night.start([0.5], {}, {}, ""), Result(scores={"shipping": 0.5, "prose": 7.0}, objective=0.5))
    add_sure(night, 0.7, math.inf)
    facts = facts_of(night)
    for figure in (objective_figure(facts), task_figure(facts, facts.tasks[0])):
        bars = next(trace.error_y for trace in figure.data if trace.name == "feasible")
        assert bars.array == pytest.approx((0.125, 0, 0))
        assert bars.arrayminus == pytest.approx((0.125, 0, 0))
        json.loads(figure.to_json(), parse_constant=pytest.fail)


def test_baselines_are_lines_and_the_best_feasible_one_is_named(night: Study, recorded: Add, scores):
    add_sources(night, scores)
    cheat = Result(scores={"shipping": 1.0, "prose": 99.0}, objective=0.99, violations={"prose": 10.0})
    night.add_baseline("cheat", "merge_method: linear\nmodels:\n- model: org/x\n", cheat)
    night.add_baseline("broken", "merge_method: linear\nmodels:\n- model: org/x\n", Result(reason="out of memory"))
    recorded(night, 0.5)
    traces = objective_figure(facts_of(night)).data
    assert [set(trace.y) for trace in traces if trace.name == "best baseline: x"] == [{0.8}]
    others = [trace for trace in traces if trace.name == "other baselines"]
    assert [(trace.text, set(trace.y)) for trace in others] == [
        ("base<br>objective 0.2000", {0.2}),
        ("y<br>objective 0.4000", {0.4}),
        ("cheat<br>objective 0.9900<br>misses prose", {0.99}),
    ]
    # the figure shows 0.5 to 0.8: the entry of the three is there once all of it is shown
    assert [(trace.showlegend, trace.meta) for trace in others] == [(False, UNLISTED), (False, None), (False, None)]
    recorded(night, 0.3)
    others = [trace for trace in objective_figure(facts_of(night)).data if trace.name == "other baselines"]
    assert [(set(trace.y), trace.showlegend, trace.meta) for trace in others] == [
        ({0.4}, None, None),
        ({0.2}, False, None),
        ({0.99}, False, None),
    ]


def test_where_no_baseline_clears_the_gates_the_highest_one_is_named(night: Study, recorded: Add, scores):
    for name, objective in (("base", 0.4), ("x", 0.7), ("y", 0.6)):
        result = Result(scores={"shipping": objective, "prose": 9.0}, objective=objective, violations={"prose": 0.1})
        night.add_baseline(name, SOURCE.format(name), result, scores(objective))
    recorded(night, 0.9)
    figure = objective_figure(facts_of(night))
    assert [set(trace.y) for trace in figure.data if trace.name == "best baseline, misses a gate: x"] == [{0.7}]
    low, high = figure.layout.yaxis.range
    assert 0.6 < low < 0.7 < 0.9 < high


def test_before_the_first_candidate_figures_say_so_and_show_the_known_baselines(night: Study, recorded, scores):
    for named in ("objective", "task-0"):
        figure = study_figure(night, study_document(night), named)
        assert [each.text for each in figure.layout.annotations] == ["No candidate has been scored yet."]
        assert (figure.layout.xaxis.visible, figure.layout.yaxis.visible) == (False, False)
    add_sources(night, scores)
    for named in ("objective", "task-0"):
        figure = study_figure(night, study_document(night), named)
        assert [each.text for each in figure.layout.annotations] == ["No candidate has been scored yet."]
        low, high = figure.layout.yaxis.range
        assert low < 0.2 < 0.8 < high
        assert figure.layout.yaxis.visible is None
    recorded(night, 0.5)
    assert not study_figure(night, study_document(night), "objective").layout.annotations


def test_a_task_has_its_gate_and_its_references(night: Study, recorded: Add, scores):
    add_sources(night, scores)
    recorded(night, 0.5, shipping=0.7, prose=7.0)
    recorded(night, 0.6, 0.25, shipping=0.3, prose=7.5)
    facts = facts_of(night)
    traces = {trace.name: trace for trace in task_figure(facts, facts.tasks[0]).data}
    assert traces["gate"].y == pytest.approx([0.4] * len(traces["gate"].y))
    assert traces["gate"].text == "gate ≥ 0.5 × best parent<br>0.4000"
    assert {name: set(traces[name].y) for name in SOURCES} == {"base": {0.2}, "x": {0.8}, "y": {0.4}}
    # what the axis, from 0.3 to 0.7, leaves out has no entry in the legend until all of it is shown
    assert {name: (traces[name].showlegend, traces[name].meta) for name in SOURCES} == {
        "base": (False, UNLISTED),
        "x": (False, UNLISTED),
        "y": (None, None),
    }
    assert [(name, traces[name].x, traces[name].y) for name in ("feasible", "misses a gate")] == [
        ("feasible", (0,), (0.7,)),
        ("misses a gate", (1,), (0.3,)),
    ]


def test_names_are_no_markup(folder: Path, created: Callable[..., Study], scores):
    marked = f"refunds <b>&amp;</b>{EVIL}"
    tasks = [{"name": name, "metric": "acc", "gate": {"at_least": 0.5, "of": EVIL}} for name in (marked, "other")]
    with created(folder, models={"parents": [EVIL]}, suite={"tasks": tasks}) as study:
        for name in ("base", EVIL):
            result = Result(scores={marked: 0.5, "other": 0.5}, objective=0.5)
            study.add_baseline(name, SOURCE.format("x"), result, scores(0.5))
        space = {EVIL: ("<b>one</b>", "<i>two</i>"), "idle": (0.0, 1.0)}
        for number in range(24):
            genome = {EVIL: space[EVIL][number % 2], "idle": number / 24}
            result = Result(scores={marked: 0.5, "other": 0.4}, objective=0.5, timings={EVIL: 1.0})
            study.finish(study.start([0.5, 0.5], genome, space, SLICES.replace("org/x", f'"{EVIL}"')), result)
        figures = study_figures(study, study_document(study))
    assert {"importance", "parallel", "layers-0", "pareto-0-1", "durations"} <= figures.keys()
    # Plotly takes tags in its texts for markup; the only ones are ours
    for figure in figures.values():
        text = json.dumps(figure.to_plotly_json(), default=list)  # Plotly's own JSON hides what would be markup
        text = text.replace("<br>", "").replace("<b>&lt;/script", "").replace("<extra></extra>", "")
        assert not any(f"<{tag}" in text for tag in ("script", "/script", "i>", "b>one", "b>&amp"))


def test_far_off_values_do_not_squeeze_the_others():
    values = [0.01, *(0.9 + 0.001 * place for place in range(40))]
    low, high = focus(values, [0.85, None, math.inf])["range"]
    assert 0.8 < low < 0.85
    assert 0.939 < high < 0.96
    low, high = focus([9.0, *(1 - 0.001 * place for place in range(40))], higher_is_better=False)["range"]
    assert low < 0.961
    assert high < 1.1
    assert focus([0.1, 0.9])["range"] == pytest.approx([0.1 - 0.048, 0.9 + 0.048])
    assert focus([]) == {}


def test_a_large_study_keeps_the_best_the_failures_and_a_sample(night: Study, recorded: Add):
    add_many(night, 60)
    recorded(night, None)
    facts = facts_of(night)
    assert [each.number for each in kept(facts)] == list(range(61))
    few = kept(facts, 20)
    numbers = [each.number for each in few]
    assert len(few) == 20
    assert numbers == sorted(numbers)
    assert {each.number for each in facts.order[:10]} <= set(numbers)
    assert 60 in numbers
    assert max(later - sooner for sooner, later in pairwise(numbers)) < 20


def test_the_dimension_that_decides_is_the_important_one(night: Study):
    add_many(night, 19)
    assert importance(facts_of(night)) == {}  # too few to tell
    add_many(night, 61)
    facts = facts_of(night)
    shares = importance(facts)
    assert list(shares) == ["decides", "idle"]
    assert shares["decides"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert importance(facts) is shares


def test_the_front_of_two_tasks():
    points = [(0.5, 0.5), (0.9, 0.1), (0.5, 0.6), (0.9, 0.1), (0.7, 0.4), (0.6, 0.4)]
    candidates = [document(number, {"a": a, "b": b}) for number, (a, b) in enumerate(points)]
    # by hand: 0 and 5 are beaten, 3 is equal to 1
    assert [each.number for each in front(candidates, task("a"), task("b"))] == [1, 4, 2]
    lower = [each.model_copy(update={"scores": {"a": each.scores["a"], "b": -each.scores["b"]}}) for each in candidates]
    assert [each.number for each in front(lower, task("a"), task("b", higher_is_better=False))] == [1, 4, 2]


def test_the_layers_of_slices():
    names = {ModelRef("org/x"): "x"}
    # layers 0 and 1 are alike, as is all of y
    assert layer_maps(Recipe.from_yaml(SLICES), names) == (
        LayerMap("weight", ("x", "org/y"), ("0–1", "2"), ((0.25, 0.75), (0.5, 0.5))),
    )


def test_the_layers_of_a_gradient_are_places_along_the_depth():
    text = """\
    merge_method: ties
    base_model: org/base
    models:
    - {model: org/x, parameters: {weight: [0.0, 1.0, 0.0], density: 0.5}}
    parameters: {normalize: true, lambda: 1.0}
    """
    weight, density = layer_maps(Recipe.from_yaml(text), {})
    assert (weight.parameter, weight.rows) == ("weight", ("org/x",))
    assert (weight.columns[0], weight.columns[-1], len(weight.columns)) == ("0 %", "100 %", STEPS)
    assert (weight.values[0][0], weight.values[0][STEPS // 2], weight.values[0][-1]) == (0.0, 1.0, 0.0)
    assert (density.columns, density.values) == (("0 %–100 %",), ((0.5,),))


def test_filters_have_rows_of_their_own_where_they_differ():
    text = """\
    merge_method: slerp
    base_model: org/base
    slices:
    - sources:
      - {model: org/base, layer_range: [0, 1]}
      - {model: org/x, layer_range: [0, 1]}
      parameters: {t: [{filter: self_attn, value: 0.25}, {value: 0.75}]}
    - sources:
      - {model: org/base, layer_range: [1, 2]}
      - {model: org/x, layer_range: [1, 2]}
      parameters: {t: [{filter: self_attn, value: 0.5}, {value: 0.75}]}
    """
    (t,) = layer_maps(Recipe.from_yaml(text), {})
    assert t.rows == ("all models: self_attn", "all models: other tensors")
    assert (t.columns, t.values) == (("0", "1"), ((0.25, 0.5), (0.75, 0.75)))
    alike = text.replace("value: 0.75", "value: 0.25", 1).replace("value: 0.75", "value: 0.5")
    (t,) = layer_maps(Recipe.from_yaml(alike), {})
    assert (t.rows, t.values) == (("all models",), ((0.25, 0.5),))
    # what is the same in every layer needs no map
    assert layer_maps(Recipe.from_yaml(alike.replace("0.5", "0.25")), {}) == ()


def test_layers_that_are_taken_whole():
    text = """\
    merge_method: passthrough
    slices:
    - sources: [{model: org/x, layer_range: [0, 2]}]
    - sources: [{model: org/y, layer_range: [2, 3]}]
    """
    assert layer_maps(Recipe.from_yaml(text), {}) == (
        LayerMap("taken", ("org/x", "org/y"), ("0–1", "2"), ((1.0, 0.0), (0.0, 1.0))),
    )
    assert layer_maps(Recipe.from_yaml(SOURCE.format("x")), {}) == ()


def test_slices_tell_what_misses_a_gate_and_have_a_row_for_each_dimension(night: Study, scores: Callable[..., object]):
    add_sources(night, scores)
    add_many(night, 30)
    missing = Result(scores={"shipping": 0.1, "prose": 7.0}, violations={"shipping": 0.2}, objective=0.4)
    space = {"decides": (0.0, 1.0), "idle": (0.0, 1.0)}
    night.finish(night.start([0.5, 0.5], {"decides": 0.35, "idle": 0.55}, space, SLICES), missing)
    figure = study_figure(night, study_document(night), "slices")
    assert [each.text for each in figure.layout.annotations] == ["decides", "idle"]
    grey, blue = figure.data[0], figure.data[1]
    assert (list(grey.x), list(grey.y), grey.marker.color) == ([0.35], [0.4], GREY)
    assert len(blue.x) == 30
    assert all(y == pytest.approx(x) for x, y in zip(blue.x, blue.y, strict=True))  # the dimension decides
    assert list(figure.data[2].x) == [0.55]
    (one, two), others = figure.layout.yaxis2.domain, figure.layout.yaxis.domain
    assert 0 <= one < two < others[0] < others[1] < 1


def test_slices_of_options_and_of_many_candidates(night: Study, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("evomerge.study.figures.slices.POINTS", 30)
    space = {"source": ("a", "b"), "weight": (0.0, 1.0)}
    for number in range(40):
        genome = {"source": "ab"[number % 2], "weight": number / 40}
        night.finish(night.start([0.5, 0.5], genome, space, SLICES), Result(objective=number % 2 + number / 1000))
    figure = study_figure(night, study_document(night), "slices")
    options = figure.layout.xaxis if figure.layout.annotations[0].text == "source" else figure.layout.xaxis2
    assert options.type == "category"
    assert list(options.categoryarray) == ["a", "b"]
    assert [len(each.x) for each in figure.data] == [30, 30]
    assert {"a", "b"} in [set(each.x) for each in figure.data]
