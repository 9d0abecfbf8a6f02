import json
import subprocess
import sys
import time

import pytest

from evomerge.cli import main
from evomerge.recipe import Recipe
from evomerge.study import StudyView


def test_from_a_config_to_a_recipe_that_scores_the_same(calm, shown, tiny, tmp_path, capsys):
    document = shown(calm)
    assert document["state"] == "finished"
    assert [candidate["number"] for candidate in document["candidates"]] == list(range(19))
    assert {candidate["state"] for candidate in document["candidates"]} == {"complete"}
    names = [baseline["name"] for baseline in document["baselines"]]
    assert names[:3] == ["base", "first", "second"]
    assert sorted(names[3:]) == [
        "dare_ties",
        *(f"task_arithmetic_{scale}" for scale in (0.2, 0.4, 0.6, 0.8)),
        "ties",
        "uniform",
    ]
    # the holdout holds every baseline and three finalists, once each
    assert len(document["finalists"]) == len(names) + 3

    best = document["best"]
    assert best["feasible"]
    assert best["objective"] == max(each["objective"] for each in document["candidates"] if each["feasible"])
    text = (calm / "best.yaml").read_text()
    assert Recipe.from_yaml(text).merge_method == "task_arithmetic"
    assert f"weight: {best['genome']['weight.layers_0_1.first']!r}" in text

    exported = tmp_path / "recipe.yaml"
    assert main(["export", str(calm), "-o", str(exported)]) == 0
    assert exported.read_text() == text
    assert main(["merge", str(exported), str(tmp_path / "merged")]) == 0
    for target in (exported, tmp_path / "merged"):
        capsys.readouterr()
        assert main(["score", str(target), "suite=tiny", "--config-dir", str(tiny), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["scores"], found["intervals"]) == (best["scores"], best["intervals"])


@pytest.mark.soak
def test_one_worker_gives_what_two_give(calm, words, run, held, tmp_path):
    assert run(words(tmp_path / "one", "budget.candidates=19", "workers.count=1")) == 0
    assert held(tmp_path / "one") == held(calm)


@pytest.mark.soak
def test_a_larger_budget_goes_on_where_the_study_stands(calm, words, run, held, tmp_path):
    folder = tmp_path / "grown"
    assert run(words(folder, "budget.candidates=11")) == 0
    assert run(["resume", str(folder), "budget.candidates=19"]) == 0
    grown, whole = held(folder), held(calm)
    assert grown["candidates"] == whole["candidates"]
    assert grown["best"] == whole["best"]


@pytest.mark.soak
def test_a_budget_that_is_raised_meanwhile_is_as_if_it_had_been_so_from_the_start(calm, words, held, tmp_path, capsys):
    folder = tmp_path / "raised"
    command = [sys.executable, "-m", "evomerge", *words(folder, "budget.candidates=11")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not (folder / "config.yaml").exists():
            assert process.poll() is None
            time.sleep(0.05)
        assert main(["budget", str(folder), "budget.candidates=19"]) == 0
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "the budget is now 19 candidates" in output
    said = capsys.readouterr().out
    assert said == "the budget of study raised is now 19 candidates\n" or "was asked" in said
    assert StudyView(folder).config["budget"]["candidates"] == 19
    assert held(folder) == held(calm)


@pytest.mark.soak
def test_tpe_searches_too(words, run, shown, tmp_path):
    assert run(words(tmp_path / "s", "optimizer=tpe", "budget.candidates=14")) == 0
    assert len(shown(tmp_path / "s")["candidates"]) == 14


@pytest.mark.soak
def test_nothing_feasible_is_exit_3(words, run, shown, tmp_path, capsys):
    gate = "suite.tasks=[{name: choice, metric: acc, gate: {at_least: 1.0}}]"
    folder = tmp_path / "s"
    assert run(words(folder, gate, "budget.candidates=4", "workers.count=1")) == 3
    assert "no candidate clears every gate" in capsys.readouterr().err
    assert not (folder / "best.yaml").exists()
    assert shown(folder)["best"] is None
    assert shown(folder)["state"] == "finished"
    assert main(["export", str(folder)]) == 3
