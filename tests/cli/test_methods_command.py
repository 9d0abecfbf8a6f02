import json
from pathlib import Path

import pytest

from evomerge.cli import main
from evomerge.methods import METHODS, get_method
from evomerge.methods.table import markdown_table, method_document

README = Path(__file__).parents[2] / "README.md"


def test_the_readme_has_the_table_of_the_records():
    assert markdown_table(METHODS.values()) in README.read_text(encoding="utf-8"), "paste `evomerge methods --markdown`"


def test_every_method_is_listed(capsys):
    assert main(["methods"]) == 0
    said = capsys.readouterr().out
    assert [name for name in METHODS if name not in said] == []


def test_json_lists_what_the_records_say(capsys):
    assert main(["methods", "--json"]) == 0
    documents = {document["name"]: document for document in json.loads(capsys.readouterr().out)}
    assert list(documents) == list(METHODS)
    ties = documents["ties"]
    density = next(parameter for parameter in ties["parameters"] if parameter["name"] == "density")
    assert ties["base"] == "required"
    assert ties["source"] == "arXiv 2306.01708"
    assert (density["low"], density["high"], density["open_low"]) == (0.0, 1.0, False)
    assert density["per_model"] is True
    weight = next(parameter for parameter in ties["parameters"] if parameter["name"] == "weight")
    assert (weight["low"], weight["high"]) == (None, None)  # unbounded, and JSON has no infinity


def test_json_of_one_method_is_one_object(capsys):
    assert main(["methods", "slerp", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(method_document(get_method("slerp"))))


def test_one_method_in_full(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["methods", "ties"]) == 0
    said = capsys.readouterr().out
    assert "arXiv 2306.01708" in said
    density = next(line for line in said.splitlines() if line.strip().startswith("density"))
    assert "a number in [0, 1]" in density
    assert "0.1 to 1" in density
    assert "(no effect)" in next(line for line in said.splitlines() if "int8_mask" in line)


def test_markdown_has_a_row_for_each_method_and_no_inert_parameter(capsys):
    assert main(["methods", "--markdown"]) == 0
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == len(METHODS)
    assert {line.replace("\\|", "").count("|") for line in (head, rule, *rows)} == {7}
    assert not any("int8_mask" in row for row in rows)


@pytest.mark.parametrize(("name", "nearest"), [("tie", "ties"), ("slrep", "slerp")])
def test_a_misspelt_method_is_one_line_with_the_nearest(name, nearest, capsys):
    assert main(["methods", name]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert f"'{nearest}'" in said
