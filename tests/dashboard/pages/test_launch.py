import pytest

from evomerge.cli import main
from evomerge.dashboard.pages.launch import launch_page
from evomerge.errors import OneLineError


def field(page, name):
    return page.with_id(name)


def chosen(page, name):
    return [each.text for each in field(page, name).all("option") if "selected" in each.attributes]


def test_the_options_are_those_of_the_shipped_groups(opened):
    page = opened("/launch")
    assert [each.text for each in field(page, "experiment").all("option")] == ["none", "demo"]
    assert chosen(page, "experiment") == ["demo"]  # there is no other
    assert "cma_es" in [each.text for each in field(page, "optimizer").all("option")]
    assert "default (cma_es)" in field(page, "optimizer").text
    assert chosen(page, "optimizer") == []


def test_an_address_may_fill_in_the_form(opened):
    page = opened("/launch?models=demo&study=late&overrides=budget.candidates%3D3%0Aseed%3D1")
    assert (chosen(page, "experiment"), chosen(page, "models")) == ([], ["demo"])
    assert field(page, "study").get("value") == "late"
    assert field(page, "overrides").text == "budget.candidates=3 seed=1"


def test_a_preview_is_what_the_command_line_prints(sent, runs_dir, capsys):
    page = sent("/launch/preview", 200, experiment="demo", study="late", overrides="seed=3")
    words = ["search", "experiment=demo", "study=late", "seed=3", f"runs_dir={runs_dir}", "--print-config"]
    assert main(words) == 0
    assert page.with_id("config").text == " ".join(capsys.readouterr().out.split())
    assert field(page, "overrides").text == "seed=3"  # what was asked for stays in the form


@pytest.mark.parametrize(
    "fields, about, words",
    [
        ({"overrides": "budget.candidats=3"}, "overrides", ["budget.candidats=3"]),
        ({"overrides": "budget.candidates=none"}, "overrides", ["budget.candidates=none"]),
        ({"overrides": "seed"}, "overrides", None),
        ({"suite": "nix"}, "suite", ["suite=nix"]),
    ],
)
@pytest.mark.parametrize("url", ["/launch", "/launch/preview", "/launch/check"])
def test_an_error_stands_beside_its_field(sent, url, fields, about, words, capsys):
    page = sent(url, 422, **{"experiment": "demo", "study": "late"} | fields)
    assert field(page, about).get("aria-invalid") == "true"
    assert [each.get("aria-invalid") for each in page.all("input", "select", "textarea")].count("true") == 1
    if words is not None:  # the command line says the same
        assert main(["search", "experiment=demo", "study=late", *words, "--print-config"]) == 2
        assert page.with_id("error").text == capsys.readouterr().err.removeprefix("evomerge: ").strip()


def test_a_name_that_is_no_name_is_refused_beside_it(sent):
    page = sent("/launch/check", 422, experiment="demo", study="../up")
    assert field(page, "study").get("aria-describedby") == "error"
    assert page.with_id("error").text.startswith("not a name for a study (study)")


def test_an_error_about_no_field_belongs_to_the_whole_page(settings):
    page = launch_page(settings, error=OneLineError("check took too long", expected="at most 300 s"))
    assert (page.field, page.message) == ("", "check took too long: expected at most 300 s")


def test_options_and_overrides_are_shown_as_text(sent):
    page = sent("/launch/preview", 422, experiment="demo", models="<b>", overrides="</textarea><script>=1")
    assert field(page, "overrides").text == "</textarea><script>=1"
    assert "<b>" in field(page, "models").text
