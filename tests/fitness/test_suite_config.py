import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitness.errors import SuiteError
from fitness.suite import SuiteConfig
from fitness.validation import validated


def suite(**task):
    return {"tasks": [{"name": "refunds", "metric": "acc"} | task]}


def parse(data):
    return validated(SuiteConfig, data, "suite.yaml", SuiteError)


def test_defaults_are_those_of_the_documentation():
    config = parse(suite())
    assert config.holdout.fraction == 0.3
    assert config.tasks[0].weight == 1.0
    assert config.tasks[0].gate is None
    assert not config.allow_benchmarks


def test_a_suite_survives_the_way_into_the_study_and_back():
    gates = [{"at_least": 0.9}, {"at_least": 0.98, "of": "best_parent"}, {"at_most": 1.05, "of": "base"}]
    tasks = [{"name": f"task{number}", "metric": "acc", "gate": gate} for number, gate in enumerate(gates)]
    tasks[1]["range"] = [0, 10]
    config = parse({"tasks": tasks, "include_path": ["tasks"], "batch_size": 7})
    assert parse(config.model_dump(mode="json")) == config
    assert [task.range for task in config.tasks] == [None, (0, 10), None]
    assert [str(task.gate) for task in config.tasks] == [">= 0.9", ">= 0.98 x best_parent", "<= 1.05 x base"]


@pytest.mark.parametrize(
    "data, message",
    [
        (suite(gate={"at_least": 1, "at_most": 2}), "gate needs one bound (task refunds): expected either at_least or"),
        (suite(gate={"at_least": 1, "at_most": 2}), "found both"),
        (suite(gate={"of": "base"}), "found neither"),
        (suite(gate={"at_leest": 0.9}), "unknown key (suite.yaml: tasks.0.gate.at_leest); did you mean 'at_least'?"),
        (suite(gate={"at_least": float("nan")}), "tasks.0.gate.at_least): expected a finite number"),
        (suite(wieght=1), "unknown key (suite.yaml: tasks.0.wieght); did you mean 'weight'?"),
        (suite(weight=0), "tasks.0.weight): expected greater than 0, found 0"),
        (suite(weight=-1), "tasks.0.weight): expected greater than 0, found -1"),
        (
            suite(range=[10, 0]),
            "range is empty (task refunds: range): expected two numbers, the lower one first, found [1",
        ),
        (suite(range=[1, 1]), "range is empty (task refunds: range)"),
        (suite(range=[0]), "key missing (suite.yaml: tasks.0.range.1)"),
        (suite(range=[0, float("inf")]), "tasks.0.range.1): expected a finite number"),
        (suite(range=10), "tasks.0.range): expected a list, found 10"),
        (suite(num_fewshot=-1), "tasks.0.num_fewshot): expected greater than or equal to 0, found -1"),
        ({"tasks": []}, "tasks): expected tuple should have at least 1 item"),
        ({"tasks": suite()["tasks"] * 2}, "task is listed twice (task refunds)"),
        (suite() | {"holdout": {"fraction": 1.0}}, "holdout.fraction): expected less than 1"),
        (
            suite() | {"holdout": {"fraction": -0.1}},
            "fraction): expected greater than or equal",
        ),
        (suite() | {"batch_size": 0}, "batch_size): expected greater than or equal to 1"),
        (suite() | {"objective": "pareto"}, "objective): expected 'weighted_mean', found 'pareto'"),
        ({"tasks": [{"name": "refunds"}]}, "key missing (suite.yaml: tasks.0.metric)"),
    ],
)
def test_mistakes_are_told_in_one_line(data, message):
    with pytest.raises(SuiteError) as error:
        parse(data)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_gates_may_refer_to_the_base_the_best_parent_and_each_parent():
    for model in ("base", "best_parent", "shipping"):
        parse(suite(gate={"at_least": 0.9, "of": model})).check_references(["shipping", "refunds"])
    with pytest.raises(SuiteError, match=r"unknown model \(task refunds\): found 'shiping'; did you mean 'shipping'\?"):
        parse(suite(gate={"at_least": 0.9, "of": "shiping"})).check_references(["shipping", "refunds"])


@given(st.floats(min_value=0, max_value=1, exclude_max=True))
def test_every_fraction_below_one_is_allowed(fraction):
    assert parse(suite() | {"holdout": {"fraction": fraction}}).holdout.fraction == fraction
