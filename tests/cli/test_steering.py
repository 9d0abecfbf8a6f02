"""Commands that steer a search which another process runs, and what others see of a merge."""

import json
import re
import threading
import time
from pathlib import Path

import pytest

from evomerge.budget import check_resume
from evomerge.cli import main
from evomerge.config import BudgetConfig, search_config
from evomerge.errors import UsageError
from evomerge.study import Environment, Result, Study, StudyView
from evomerge.study.requests import ask_budget, asked, asked_budget
from evomerge.study.status import Status, write_status
from evomerge.study.view import Ended
from evomerge.terminal import ProgressFile


@pytest.fixture
def study(tmp_path):
    environment = Environment(python="", platform="", packages={}, models=())
    config = {"study": "night", "budget": {"candidates": 40}}
    with Study.create(tmp_path / "runs" / "night", config, environment) as study:
        yield study


@pytest.mark.parametrize("wish", ["pause", "stop"])
def test_asking_returns_at_once(study, tmp_path, capsys, wish):
    assert main([wish, "night", "--runs-dir", str(tmp_path / "runs")]) == 0
    assert (
        capsys.readouterr().out == f"asked process {study.session.pid} on {study.session.host} to {wish} study night\n"
    )
    assert asked(study.folder) == wish


def test_waiting_ends_with_the_process(study, capsys):
    def session() -> None:
        while asked(study.folder) is None:
            time.sleep(0.01)
        study.end("paused")
        study.close()

    thread = threading.Thread(target=session)
    thread.start()
    assert main(["pause", str(study.folder.path), "--wait"]) == 0
    thread.join()
    assert capsys.readouterr().out.splitlines()[-1] == "study night: paused"


def test_nothing_to_ask(study, tmp_path, capsys):
    study.end("stopped")
    study.close()
    assert main(["pause", str(study.folder.path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("evomerge: study is not running")
    assert "found state stopped; evomerge resume" in said
    assert main(["stop", "nihgt", "--runs-dir", str(tmp_path / "runs")]) == 5
    assert "no such study (nihgt)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["budget.candidates=1"], "less than is used up already (budget.candidates): expected at least 2, found 1"),
        (["budget.candidates=many"], "not valid (override: budget.candidates)"),
        (["budget.candidates"], "override without a value (budget.candidates)"),
        (["budget.minutes=3"], "unknown key (override: budget.minutes)"),
        (["workers.count=3"], "/night --wait, then evomerge resume "),
        (["seed=3"], "(seed): expected budget.candidates or budget.hours; start a new study"),
    ],
    ids=str,
)
def test_a_budget_that_cannot_be(tmp_path, capsys, words, said):
    config = search_config(["models=demo", "suite=demo", "study=night", f"runs_dir={tmp_path}"])
    environment = Environment(python="", platform="", packages={}, models=())
    with Study.create(config.folder, config.model_dump(mode="json"), environment) as study:
        for _ in range(2):
            study.start([0.5], {}, {}, "# recipe")
        assert main(["budget", str(config.folder), *words]) == 2
        assert said in capsys.readouterr().err
        assert asked_budget(study.folder) == {}


def test_a_budget_that_nobody_takes_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("evomerge.budget.PATIENCE", 0.1)
    config = search_config(["models=demo", "suite=demo", "study=night", f"runs_dir={tmp_path}"])
    environment = Environment(python="", platform="", packages={}, models=())
    with Study.create(config.folder, config.model_dump(mode="json"), environment) as study:
        assert main(["budget", str(config.folder), "budget.hours=3"]) == 0
        assert f"process {study.session.pid} on {study.session.host} was asked" in capsys.readouterr().out
        assert asked_budget(study.folder) == {"hours": 3.0}
    monkeypatch.undo()
    with Study.open(config.folder) as study:

        def session() -> None:
            while not asked_budget(study.folder):
                time.sleep(0.01)
            study.close()

        thread = threading.Thread(target=session)
        thread.start()
        assert main(["budget", str(config.folder), "budget.hours=4"]) == 5
        thread.join()
        assert "ended before it heard of it" in capsys.readouterr().err
    for word, told in (
        ("budget.hours=4", f"study is not running .* evomerge resume {config.folder} budget.hours=4.0 goes on with it"),
        ("workers.count=3", f"budget.candidates or budget.hours; evomerge resume {config.folder} workers.count=3$"),
    ):
        assert main(["budget", str(config.folder), word]) == 2
        assert re.search(told, capsys.readouterr().err)


def test_of_two_who_ask_at_once_the_last_counts_and_the_first_hears_of_it(tmp_path, capsys):
    config = search_config(["models=demo", "suite=demo", "study=night", f"runs_dir={tmp_path}"])
    environment = Environment(python="", platform="", packages={}, models=())
    with Study.create(config.folder, config.model_dump(mode="json"), environment) as study:

        def session() -> None:
            while not asked_budget(study.folder):
                time.sleep(0.01)
            ask_budget(study.folder, {"candidates": 50})
            study.change_config(study.config | {"budget": {"candidates": 50, "hours": None}})

        thread = threading.Thread(target=session)
        thread.start()
        assert main(["budget", str(config.folder), "budget.candidates=40"]) == 0
        thread.join()
    assert capsys.readouterr().out == "the budget of study night is now 50 candidates\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["budget.candidates=2"], "less than is used up already (budget.candidates): expected at least 3, found 2"),
        (["budget.hours=0.00001"], "less than is used up already (budget.hours)"),
        (["budget.candidates=9", "budget.hours=0.00001"], "less than is used up already (budget.hours)"),
    ],
    ids=str,
)
def test_a_resume_does_not_end_a_study_by_mistake(tmp_path, capsys, words, said):
    folder = begun(tmp_path, candidates=3)
    before = (folder / "config.yaml").read_bytes()
    assert main(["resume", str(folder), *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert f"evomerge stop {folder} ends the search, once it runs" in told
    assert (folder / "config.yaml").read_bytes() == before
    assert StudyView(folder).state == "paused"


def test_a_resume_may_end_a_study_with_what_there_is(tmp_path):
    study = StudyView(begun(tmp_path, candidates=3))
    check_resume(study, BudgetConfig(candidates=3), ["budget.candidates=3"])
    check_resume(study, BudgetConfig(candidates=9, hours=None), ["budget.hours=null"])


@pytest.mark.parametrize("feasible", [True, False])
def test_a_resume_of_a_finished_study_leaves_it_as_it_is(tmp_path, capsys, feasible):
    """And at once: without the models, which are not even there any more, and without workers."""
    folder = begun(tmp_path, candidates=3, feasible=feasible, ended="finished")
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "study.lock"}
    for words in ([], ["budget.candidates=3"]):
        assert main(["resume", str(folder), *words]) == (0 if feasible else 3)
        out, err = capsys.readouterr()
        if feasible:
            said = "nothing is left to do, the budget of 3 candidates is used up; the recipe of candidate 2: "
            assert out.splitlines()[-1] == f"{said}{folder / 'best.yaml'}"
        else:
            assert "no candidate clears every gate" in err
    assert main(["resume", str(folder), "workers.count=7"]) == 2
    assert "the study is finished, and its budget is used up (budget.candidates): expected more than 3" in (
        capsys.readouterr().err
    )
    after = {path: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "study.lock"}
    assert after == before
    assert StudyView(folder).state == "finished"


def test_a_finalist_that_failed_can_be_scored_again(tmp_path, capsys):
    """Which takes the models: here a search that goes on ends because they are not there."""
    folder = begun(tmp_path, candidates=3, ended="finished")
    with Study.open(folder) as study:
        study.add_finalist("1", 1, Result(objective=0.1))
        study.add_finalist("2", 2, Result(reason="out of memory"))
    for words in ([], ["workers.count=1"]):
        check_resume(StudyView(folder), BudgetConfig(candidates=3), words)
        assert main(["resume", str(folder), *words]) == 4
        out, err = capsys.readouterr()
        assert "/nowhere" in err
        assert "nothing is left to do" not in out
    with Study.open(folder) as study:
        study.add_finalist("2", 2, Result(objective=0.1))
    assert main(["resume", str(folder)]) == 0


def test_a_resume_of_a_finished_study_writes_a_recipe_that_is_gone(tmp_path, capsys):
    folder = begun(tmp_path, candidates=3, ended="finished")
    recipe = (folder / "best.yaml").read_text()
    (folder / "best.yaml").unlink()
    assert main(["resume", str(folder)]) == 0
    assert capsys.readouterr().out.endswith(f"{folder / 'best.yaml'}\n")
    assert (folder / "best.yaml").read_text() == recipe


def begun(tmp_path: Path, candidates: int, *, feasible: bool = True, ended: Ended = "paused") -> Path:
    """A study of models that are not there, its last session ended."""
    words = ["models=demo", "suite=demo", "study=night", f"runs_dir={tmp_path}", f"budget.candidates={candidates}"]
    config = search_config([*words, "models.base=/nowhere"])
    environment = Environment(python="", platform="", packages={}, models=())
    with Study.create(config.folder, config.model_dump(mode="json"), environment) as study:
        study.begin()
        for number in range(candidates):
            study.start([0.5], {}, {}, "# recipe")
            study.finish(number, Result(objective=number / 10, violations={"t": -0.1 if feasible else 0.1}))
        time.sleep(0.1)  # of search, more than the smallest budget here
        study.note("last", None)
        study.end(ended)
    return config.folder


def test_the_list_shows_how_far_a_search_is(study, tmp_path, capsys):
    number = study.start([0.5], {}, {}, "# recipe")
    study.finish(number, Result(objective=0.75, violations={"t": -0.1, "u": 0.0}))
    study.start([0.5], {}, {}, "# recipe")
    status = Status(
        **vars(study.session),
        updated="2026-01-02T03:04:05+00:00",
        phase="candidates",
        done=1,
        total=40,
        rate=60.0,
        seconds_left=2340.0,
        draining=None,
        workers=(),
    )
    write_status(study.folder, status)
    assert main(["studies", "--runs-dir", str(tmp_path / "runs")]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row == ["night", "running", "1/40", "1", "0.7500", "2/2", "0.00", "39", "min", "00", "s"]
    assert main(["studies", "--runs-dir", str(tmp_path / "runs"), "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert (entry["candidates"], entry["done"], entry["total"], entry["feasible"]) == (2, 1, 40, 1)
    assert (entry["gates_cleared"], entry["gates"], entry["objective_interval"]) == (2, 2, None)
    assert (entry["rate"], entry["seconds_left"], entry["updated"]) == (60.0, 2340.0, status.updated)
    assert entry["begun"] is not None


def test_a_merge_says_how_far_it_is(tmp_path):
    import torch

    from evomerge.bench.synthetic import write_models

    base, parent = write_models(tmp_path, 100_000, 1, torch.float32)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"{{merge_method: linear, models: [{{model: {base}}}, {{model: {parent}}}], parameters: {{weight: 1}}}}"
    )
    file = tmp_path / "progress.json"
    words = ["merge", str(recipe), str(tmp_path / "out"), "--progress", str(file)]
    assert main(words) == 0
    progress = json.loads(file.read_text())
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert 0.9 * size < progress["done"] == progress["total"] <= size
    assert progress["updated"].endswith("+00:00")


def test_progress_is_written_now_and_then_and_cannot_end_the_work(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "progress.json"
    with pytest.raises(UsageError, match="progress cannot be written"):
        ProgressFile(path)(0, 10)
    path.parent.mkdir()
    progress = ProgressFile(path)
    for done in range(10):
        progress(done, 10)
        assert json.loads(path.read_text())["done"] == 0
    monkeypatch.setattr(ProgressFile, "EVERY", 0.0)
    progress(7, 10)
    assert json.loads(path.read_text())["done"] == 7
    path.unlink()
    path.parent.rmdir()
    progress(10, 10)
