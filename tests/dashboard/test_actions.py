import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from fastapi import Request
from fastapi.testclient import TestClient

from evomerge.dashboard import Settings, actions
from evomerge.dashboard.app import create_app
from evomerge.dashboard.rendering import Flash
from evomerge.recipe import Recipe
from evomerge.study import Study, StudyView
from evomerge.study.folder import StudyFolder
from evomerge.study.requests import asked, asked_budget

TOKEN = "token-of-the-tests"


@pytest.fixture
def folder(runs_dir) -> StudyFolder:
    return StudyFolder(runs_dir / "night")


@pytest.fixture
def best(folder) -> int:
    winner = StudyView(folder.path).winner
    assert winner is not None
    return winner.number


def form(browser: TestClient, place: str, /, **fields: str):
    """A form of a page, sent as a browser sends it."""
    return browser.post(place, data={"csrf": csrf_of(browser), **fields}, headers={"Origin": "http://127.0.0.1:8765"})


def csrf_of(browser: TestClient) -> str:
    found = re.search(r'name="csrf" value="(\w+)"', browser.get("/launch").text)
    assert found is not None
    return found[1]


def job_of(program: TestClient, name: str) -> dict:
    """A job, once it has ended."""
    deadline = time.monotonic() + 90
    while (job := program.get(f"/api/jobs/{name}").json())["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return job


def error_of(answer) -> dict:
    return answer.json()["error"]


@pytest.mark.parametrize("wish", ["pause", "stop"])
def test_a_running_search_is_asked(program, folder, wish):
    with Study.open(folder.path):
        answer = program.post(f"/studies/night/{wish}")
        assert answer.status_code == 200
        assert "once the running candidates are done" in answer.json()["message"]
        assert asked(folder) == wish


@pytest.mark.parametrize("wish", ["pause", "stop"])
def test_a_search_that_does_not_run_is_not(program, folder, wish):
    answer = program.post(f"/studies/night/{wish}")
    assert answer.status_code == 409
    assert error_of(answer)["what"] == "study is not running"
    assert error_of(answer)["found"] == "state finished"
    assert asked(folder) is None


def test_a_browser_is_led_to_the_study_and_told(browser, folder):
    with Study.open(folder.path):
        answer = form(browser, "/studies/night/pause")
    assert answer.status_code == 303
    place = urlsplit(answer.headers["location"])
    assert place.path == "/studies/night"
    text = parse_qs(place.query)["flash"][0]
    assert text in browser.get(answer.headers["location"]).text


@pytest.mark.parametrize("bad", [False, True])
def test_what_an_action_says_is_escaped_and_short(browser, bad):
    said = Flash("<script>alert(1)</script>" + "x" * 1000, bad=bad)
    page = browser.get(said.on("/", Request({"type": "http", "csrf": csrf_of(browser)}))).text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "x" * 400 in page
    assert "x" * 500 not in page


def test_a_resume_of_a_study_in_use_says_by_whom(program, folder):
    with Study.open(folder.path):
        holder = StudyView(folder.path).holder
        answer = program.post("/studies/night/resume", data={"candidates": "20"})
    assert holder is not None
    assert answer.status_code == 409
    assert error_of(answer)["found"].startswith(f"process {holder.pid} on {holder.host} since ")
    assert "pause" in error_of(answer)["remedy"]
    assert program.get("/api/jobs").json()["total"] == 0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"overrides": "seed=1"}, "a resume cannot change what a study is"),
        ({"overrides": "budget.candidates=many"}, "not valid"),
        ({"overrides": "budget.candidates"}, "override cannot be read"),
        ({"overrides": "workers.count=" + "[" * 3000}, "override cannot be read"),
        ({"overrides": "workers.device=" + "x" * 10_000}, "not valid"),
        ({"overrides": "notify.command=[x]"}, "cannot be set from a page"),
        ({"candidates": "0"}, "not valid"),
        ({"hours": "nan"}, "not valid"),
        ({"workers": "many"}, "not valid"),
    ],
    ids=str,
)
def test_a_resume_may_change_budget_and_workers_only(program, fields, told):
    answer = program.post("/studies/night/resume", data=fields)
    assert answer.status_code == 422
    assert error_of(answer)["what"] == told
    assert program.get("/api/jobs").json()["total"] == 0


def test_a_resume_that_fails_says_why(program, folder, monkeypatch):
    monkeypatch.setattr(actions, "PATIENCE", 90)
    config = yaml.safe_load(folder.config.read_text())
    config["models"]["base"]["path"] = "/no/such/model"
    folder.config.write_text(yaml.safe_dump(config))
    program.post("/studies/night/resume", data={"candidates": "13", "hours": "", "workers": ""})
    [row] = program.get("/api/jobs").json()["rows"]
    assert row["job"]["words"][-1] == "budget.candidates=13"
    failed = job_of(program, row["job"]["id"])
    assert (failed["state"], failed["exit"]) == ("failed", 4)
    assert "/no/such/model" in failed["error"]
    assert program.get("/api/studies/night").json()["failed"]["id"] == failed["id"]
    assert [job["id"] for job in program.get("/api/studies").json()["failed"]] == [failed["id"]]
    for path in ("/", "/studies/night"):
        page = program.get(path, headers={"Accept": "text/html"}).text
        assert "The last resume" in page
        assert "/no/such/model" in page
    time.sleep(1.1)  # moments are in whole seconds
    with Study.open(folder.path) as study:
        study.end("finished")  # somebody has gone on with it
    assert program.get("/api/studies/night").json()["failed"] is None
    assert program.get("/api/studies").json()["failed"] == []


@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({}, "candidates", "finished, and its budget is used up (budget.candidates): expected more than 12, found 12"),
        ({"workers": "2"}, "candidates", "its budget is used up"),
        ({"candidates": "12"}, "candidates", "its budget is used up"),
        ({"candidates": "5"}, "candidates", "(budget.candidates): expected more than 12, found 5"),
        ({"candidates": "20", "hours": "1e-07"}, "hours", "its budget is used up (budget.hours)"),
    ],
    ids=str,
)
def test_a_resume_that_would_only_end_the_study_is_refused_beside_its_field(program, folder, fields, field, told):
    before = folder.config.read_bytes()
    whole = {"candidates": "", "hours": "", "workers": ""} | fields
    answer = program.post("/studies/night/resume", data=whole, headers={"Accept": "text/html"})
    assert answer.status_code == 422
    wrong = re.search(r'<input id="(\w+)-\w+"[^>]*value="([^"]*)"[^>]*aria-invalid="true"', answer.text)
    assert wrong is not None
    assert (wrong[1], wrong[2]) == (field, fields.get(field, ""))
    assert told in answer.text
    assert '<link rel="canonical" href="/studies/night">' in answer.text
    assert error_of(program.post("/studies/night/resume", data=fields))["where"] == f"budget.{field}"
    assert program.get("/api/jobs").json()["total"] == 0
    assert folder.config.read_bytes() == before


def test_a_budget_that_cannot_be_is_refused_beside_its_field(browser, folder):
    with Study.open(folder.path):
        for fields, value in (({"candidates": "3"}, "3"), ({}, "")):
            answer = form(browser, "/studies/night/budget", **{"candidates": "", "hours": ""} | fields)
            assert answer.status_code == 422
            assert re.search(rf'<input id="candidates-budget"[^>]* value="{value}" aria-invalid="true"', answer.text)
    answer = form(browser, "/studies/night/budget", candidates="40")
    assert answer.status_code == 409
    assert "<strong>This cannot be done:</strong> study is not running (night)" in answer.text


@pytest.mark.parametrize(
    ("came", "link"),
    [
        ("/studies/night/candidates/3?outcome=level", ("/studies/night/candidates/3", "Back to candidate 3")),
        ("/studies/night", ("/studies/night", "Back to night")),
        ("/studies/other/candidates/3", ("/studies/night", "Back to night")),
        ("/studies/night/candidates/3/../../..//evil.example", ("/studies/night", "Back to night")),
    ],
)
def test_a_form_that_is_refused_leads_back_to_where_it_is(browser, came, link):
    data = {"csrf": csrf_of(browser), "path": "config.yaml", "candidate": "3"}
    origin = "http://127.0.0.1:8765"
    answer = browser.post("/studies/night/export", data=data, headers={"Origin": origin, "Referer": origin + came})
    assert answer.status_code == 422
    assert "<h1>Not valid</h1>" in answer.text
    assert '<a href="{}">{}</a>'.format(*link) in answer.text


def test_a_field_is_told_by_its_name(program):
    answer = program.post("/studies/night/export", data={"path": "x.yaml", "candidate": "many"})
    assert (answer.status_code, error_of(answer)["where"]) == (422, "candidate")
    assert error_of(program.get("/api/studies/night?size=many"))["where"] == "size"


def test_export_writes_the_recipe_and_where_it_comes_from(program, folder, best, tmp_path):
    answer = program.post("/studies/night/export", data={"path": "winner.yaml"})
    assert answer.json()["path"] == str(folder.path / "winner.yaml")
    recipe = Recipe.read(folder.path / "winner.yaml")
    assert recipe == Recipe.from_yaml(StudyView(folder.path).candidate(best).recipe)
    assert (folder.path / "winner.provenance.json").is_file()


def test_a_candidate_that_misses_a_gate_is_exported_with_a_warning(browser, folder):
    misses = next(each for each in StudyView(folder.path).candidates() if each.missed)
    answer = form(browser, "/studies/night/export", path="it.yml", candidate=str(misses.number))
    query = parse_qs(urlsplit(answer.headers["location"]).query)
    assert f"candidate {misses.number} misses" in query["warning"][0]
    assert (folder.path / "it.yml").is_file()


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("", "not valid"),
        ("winner.txt", "not a name for a recipe"),
        ("study.journal", "not a name for a recipe"),
        ("config.yaml", "file exists"),
        ("best.yml", "file exists"),  # its provenance would take the place of best.yaml's
        ("/etc/winner.yaml", "outside of the allowed folders"),
        ("../../../winner.yaml", "outside of the allowed folders"),
        ("../winner.yaml", "not a place for this study"),
        ("../other/winner.yaml", "not a place for this study"),
        ("merges/1/winner.yaml", "not a place for this study"),
        ("items/winner.yaml", "not a place for this study"),
        ("two\nlines.yaml", "not a path"),
        ("link/winner.yaml", "outside of the allowed folders"),
        ("~nobody-of-that-name/winner.yaml", "not a path"),
        ("a\0.yaml", "not a path"),
        ("x" * 300 + ".yaml", "not a path"),
        ("x" * 250 + ".yaml", "cannot write the recipe"),  # its provenance has a longer name
        ("no/such/folder/winner.yaml", "cannot write the recipe"),
    ],
)
def test_an_export_goes_to_a_new_file_in_an_allowed_folder(program, folder, tmp_path, monkeypatch, path, what):
    monkeypatch.chdir(tmp_path / "runs")  # the current folder is allowed
    (folder.path / "link").symlink_to(tmp_path)
    for place in (folder.merges / "1", tmp_path / "runs" / "other"):
        place.mkdir(parents=True)
    before = {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*")}
    answer = program.post("/studies/night/export", data={"path": path})
    assert 400 <= answer.status_code < 500
    assert error_of(answer)["what"] == what
    assert {each: each.stat().st_mtime_ns for each in tmp_path.rglob("*") if each.is_file()} == {
        each: time for each, time in before.items() if each.is_file()
    }


def test_nothing_feasible_is_nothing_to_hand_over(program, runs_dir, write):
    with Study.create(runs_dir / "empty", {"study": "empty"}, StudyView(runs_dir / "night").environment):
        pass
    for answer in (
        program.get("/studies/empty/recipe"),
        program.post("/studies/empty/export", data={"path": "x.yaml"}),
        program.post("/studies/empty/merge"),
    ):
        assert answer.status_code == 409
        assert error_of(answer)["what"] == "no candidate clears every gate"


def test_a_recipe_and_the_report_come_as_files(program, folder, best):
    answer = program.get("/studies/night/recipe")
    assert answer.headers["content-disposition"] == f"attachment; filename*=utf-8''night-{best}.yaml"
    assert answer.text == StudyView(folder.path).candidate(best).recipe
    assert program.get("/studies/night/recipe?candidate=3").text == StudyView(folder.path).candidate(3).recipe
    assert program.get("/studies/night/recipe?candidate=99").status_code == 404
    report = program.get("/studies/night/report")
    assert report.headers["content-disposition"] == "attachment; filename*=utf-8''night.html"
    assert "night" in report.text


def test_names_that_no_header_could_hold(program, runs_dir):
    name = 'é"\n; filename=x'
    (runs_dir / "night").rename(runs_dir / name)
    quoted = "%C3%A9%22%0A%3B%20filename%3Dx"
    answer = program.get(f"/studies/{quoted}/recipe?candidate=3")
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == f"attachment; filename*=utf-8''{quoted}-3.yaml"
    with Study.open(runs_dir / name):
        place = program.post(f"/studies/{quoted}/pause", headers={"Accept": "text/html"}).headers["location"]
    assert place.startswith(f"/studies/{quoted}?flash=")


def test_a_merge_is_made_by_a_process_of_its_own(program, folder):
    answer = program.post("/studies/night/merge", data={"candidate": "3", "out": ""})
    twice = program.post("/studies/night/merge", data={"candidate": "3", "out": ""})
    assert twice.status_code == 409
    assert error_of(twice)["what"] == "folder is being made"
    job = job_of(program, answer.json()["job"]["id"])
    assert (job["state"], job["error"]) == ("done", None)
    assert job["progress"]["done"] == job["progress"]["total"] > 0
    out = folder.path / "models" / "candidate-3"
    assert job["out"] == str(out)
    assert (out / "model.safetensors").is_file()
    again = program.post("/studies/night/merge", data={"candidate": "3"})
    assert again.status_code == 422
    assert error_of(again)["what"] == "folder is not empty"


@pytest.mark.parametrize(
    ("out", "what"),
    [
        ("/etc/model", "outside of the allowed folders"),
        ("../../../../model", "outside of the allowed folders"),
        ("..", "folder is not empty"),
        ("../..", "not a place for this study"),
        ("../../model", "not a place for this study"),
        ("../../folder/model", "not a place for this study"),  # it would be listed as a broken study
        ("../../other/model", "not a place for this study"),
        ("../merges/1", "not a place for this study"),
        ("../items/model", "not a place for this study"),
        ("two\nlines", "not a path"),
        ("two\u2028lines", "not a path"),
        ("a\x1b[2Jb", "not a path"),
        ("~nobody-of-that-name/x", "not a path"),
        ("x" * 300, "not a path"),
    ],
)
def test_a_merge_goes_to_a_new_folder_in_an_allowed_one(program, runs_dir, monkeypatch, out, what):
    monkeypatch.chdir(runs_dir)
    (runs_dir / "other").mkdir()
    answer = program.post("/studies/night/merge", data={"candidate": "3", "out": out})
    assert answer.status_code == 422
    assert (error_of(answer)["what"], error_of(answer)["where"]) == (what, "out")
    assert sorted(path.name for path in runs_dir.iterdir() if path.name[0] != ".") == ["night", "other"]
    assert program.get("/api/jobs").json()["total"] == 0


def test_a_launch_that_cannot_be_shows_the_form_again_with_the_error_beside_its_field(browser):
    answer = form(browser, "/launch", experiment="demo", study="x", overrides="budget.candidates=many")
    assert answer.status_code == 422
    assert "budget.candidates=many" in answer.text
    assert re.search(r'<textarea id="overrides"[^>]*aria-invalid="true"', answer.text)
    assert "not valid (config: budget.candidates)" in answer.text


def test_a_launch_that_cannot_be_is_an_error_for_programs(program, runs_dir):
    answer = program.post("/launch", data={"experiment": "demo", "study": "night"})
    assert answer.status_code == 422
    assert error_of(answer)["what"] == "study name already in use"
    assert [path.name for path in runs_dir.iterdir()] == ["night"]


def test_a_preview_shows_the_config(browser):
    answer = form(browser, "/launch/preview", experiment="demo", study="x", overrides="budget.candidates=77")
    assert answer.status_code == 200
    assert "candidates: 77" in answer.text


@pytest.mark.soak
def test_a_launch_that_dies_before_it_has_a_folder_says_why(program, runs_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(actions, "PATIENCE", 90)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    fields = {"experiment": "demo", "study": "x", "overrides": f"models.base={tmp_path / 'model'}"}
    answer = program.post("/launch", data=fields)
    assert answer.status_code == 400
    assert str(tmp_path / "model") in error_of(answer)["what"]
    [row] = program.get("/api/jobs").json()["rows"]
    assert (row["job"]["state"], row["job"]["study"]) == ("failed", "x")
    assert not (runs_dir / "x").exists()
    assert [job["study"] for job in program.get("/api/studies").json()["failed"]] == ["x"]
    assert "The last launch of x failed" in program.get("/", headers={"Accept": "text/html"}).text


def test_without_a_runs_folder_every_action_is_off_and_pages_say_why(tmp_path: Path):
    app = create_app(Settings(runs_dir=tmp_path / "nowhere", token=TOKEN))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    client = TestClient(app, base_url="http://localhost", headers=headers)
    for path in ("/", "/launch", "/jobs"):
        page = client.get(path)
        assert page.status_code == 200
        assert "does not exist. Make it with mkdir, or start with --runs-dir" in page.text
    for path in ("/launch", "/studies/x/pause", "/studies/x/resume", "/studies/x/export", "/studies/x/merge"):
        answer = client.post(path, data={"path": "x.yaml"}, headers={"Accept": "application/json"})
        assert answer.status_code == 409
        assert error_of(answer)["what"] == "actions are off"
    assert not (tmp_path / "nowhere").exists()


def test_a_running_search_is_given_another_budget(program, folder):
    with Study.open(folder.path) as study:

        def session() -> None:
            while not asked_budget(folder):
                time.sleep(0.01)
            study.change_config(study.config | {"budget": {"candidates": 30, "hours": None}})

        searching = threading.Thread(target=session)
        searching.start()
        answer = program.post("/studies/night/budget", data={"candidates": "30", "hours": ""})
        searching.join()
        assert answer.json()["message"] == "The budget of study night is now 30 candidates."
        assert program.get("/api/studies/night").json()["total"] == 30
        for fields, told in (
            ({"candidates": "3"}, "less than is used up already"),
            ({"candidates": "0"}, "not valid"),
            ({"hours": "nan"}, "not valid"),
            ({}, "nothing to change"),
        ):
            answer = program.post("/studies/night/budget", data=fields)
            assert (answer.status_code, error_of(answer)["what"]) == (422, told)
    answer = program.post("/studies/night/budget", data={"candidates": "40"})
    assert (answer.status_code, error_of(answer)["what"]) == (409, "study is not running")


def test_prompts_are_read_by_one_job_at_a_time(program):
    with ThreadPoolExecutor(2) as pressed:
        answers = pressed.map(lambda _: program.post("/studies/night/prompts", data={"candidate": "3"}), range(2))
    done, refused = sorted(answers, key=lambda answer: answer.status_code)
    assert (done.status_code, refused.status_code) == (200, 409)
    assert done.json()["job"]["candidate"] == 3  # whose page leads on from the job
    assert error_of(refused)["what"] == "prompts are being read"
    assert error_of(refused)["found"] == f"job {done.json()['job']['id']}"
    job_of(program, done.json()["job"]["id"])
    assert program.get("/api/jobs").json()["total"] == 1
