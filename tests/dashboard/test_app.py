import gzip
import subprocess
import sys

import pytest

from evomerge.errors import ConfigError

TOKEN = "token-of-the-tests"


@pytest.mark.parametrize(
    "path",
    ["/", "/launch", "/compare", "/jobs", "/studies/night", "/studies/night/candidates/3", "/compare?with=night"],
)
def test_pages_are_whole_html(browser, path):
    answer = browser.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text.lstrip().startswith("<!DOCTYPE html>")
    assert answer.text.rstrip().endswith("</html>")
    assert "style=" not in answer.text
    assert "onclick" not in answer.text


def test_the_api_is_described_and_has_no_page_that_loads_scripts_from_elsewhere(program):
    described = program.get("/api/openapi.json").json()
    assert set(described["paths"]) >= {
        "/api/studies",
        "/api/studies/{study}",
        "/api/studies/{study}/candidates",
        "/api/studies/{study}/candidates/{number}",
        "/api/studies/{study}/figures/{figure}",
        "/api/studies/{study}/log",
        "/api/compare",
        "/api/jobs",
        "/api/launch/options",
        "/api/launch/check",
    }
    assert all(path.startswith("/api/") for path in described["paths"])
    changing = {path for path, operations in described["paths"].items() if operations.keys() - {"get"}}
    assert changing == {"/api/launch/check", "/api/launch/preview"}
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert program.get(path).status_code == 404


def test_pages_and_api_show_the_same(program):
    page = program.get("/api/studies/night").json()
    assert page["study"] == "night"
    assert page["table"]["found"] == 12
    table = program.get("/api/studies/night/candidates", params={"size": 5, "page": 2, "sort": "-number"}).json()
    assert [row["number"] for row in table["rows"]] == [6, 5, 4, 3, 2]
    candidate = program.get("/api/studies/night/candidates/3").json()
    assert candidate["candidate"]["number"] == 3
    for figure in page["figures"]:
        drawn = program.get(f"/api/studies/night/figures/{figure['name']}")
        assert drawn.status_code == 200
        assert drawn.json()["data"]
    assert program.get("/api/studies").json()["rows"][0]["entry"]["study"] == "night"
    compared = program.get("/api/compare", params={"with": ["night:1", "night:2"]}).json()
    assert [side["candidate"]["number"] for side in compared["sides"]] == [1, 2]
    assert {group["name"] for group in program.get("/api/launch/options").json()} >= {"models", "suite", "experiment"}


def test_the_log_is_told_from_its_end(program, runs_dir):
    (runs_dir / "night" / "search.log").write_text("".join(f"line {number}\n" for number in range(100)))
    assert program.get("/api/studies/night/log", params={"tail": 2}).json() == {"lines": ["line 98", "line 99"]}


@pytest.mark.parametrize(
    ("path", "status", "what"),
    [
        ("/api/studies/nigt", 404, "no such study"),
        ("/api/studies/night/candidates/99", 404, "no such candidate"),
        ("/api/studies/night/candidates/x", 422, "not valid"),
        ("/api/studies/night/figures/x", 404, "no such figure"),
        ("/api/studies/night/candidates?sort=x", 422, "candidates cannot be sorted by that"),
        ("/api/studies?state=x", 422, "not valid"),
        ("/api/jobs/x", 404, "no such job"),
        ("/api/nothing", 404, "no such page"),
        ("/api/studies/night/log?tail=0", 422, "not valid"),
    ],
)
def test_the_api_tells_errors_in_one_shape(program, path, status, what):
    answer = program.get(path)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert set(answer.json()["error"]) == {"what", "where", "expected", "found", "remedy"}
    assert answer.json()["error"]["what"] == what


def test_browsers_get_errors_as_pages(browser):
    answer = browser.get("/studies/nigt")
    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/html")
    assert "id you mean &#39;night&#39;?" in answer.text
    assert browser.get("/nothing").status_code == 404
    assert browser.put("/", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 405


def test_a_broken_study_says_why_and_hurts_no_other(program, runs_dir):
    (runs_dir / "torn").mkdir()
    (runs_dir / "torn" / "config.yaml").write_text("version: 99\nstudy: torn\n")
    answer = program.get("/api/studies/torn")
    assert answer.status_code == 409
    assert answer.json()["error"]["what"] == "study was written by a newer evomerge"
    states = {row["entry"]["study"]: row["entry"]["state"] for row in program.get("/api/studies").json()["rows"]}
    assert states == {"night": "finished", "torn": "broken"}
    assert program.get("/api/studies/night").status_code == 200


def test_a_bug_is_told_without_its_secrets_and_with_all_headers(bare, program):
    def fail() -> None:
        raise ZeroDivisionError("a secret")

    def refuse() -> None:
        raise ConfigError("not valid", where="budget", found=float("nan"))

    bare.app.add_api_route("/api/bug", fail)
    bare.app.add_api_route("/api/refuse", refuse)
    answer = program.get("/api/bug")
    assert answer.status_code == 500
    assert answer.json()["error"]["what"] == "a bug: ZeroDivisionError"
    assert "secret" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert program.get("/api/refuse").json()["error"]["found"] == "nan"


def test_plotly_is_served_packed_and_for_ever(bare):
    page = bare.get(f"/?token={TOKEN}", follow_redirects=True).text
    address = page.partition('data-plotly="')[2].partition('"')[0]
    with bare.stream("GET", address, headers={"Accept-Encoding": "gzip"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert "immutable" in answer.headers["cache-control"]
    assert len(packed) < 2_000_000
    assert gzip.decompress(packed) == bare.get(address, headers={"Accept-Encoding": "identity"}).content


def test_our_own_files_are_asked_for_again_and_sent_when_they_changed(bare):
    for name in ("app.css", "app.js"):
        first = bare.get(f"/static/{name}")
        assert len(first.content) > 100
        again = bare.get(f"/static/{name}", headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for name in ("nothing.js", "base.html.jinja", "..%2Fapp.py", "%2e%2e/app.py"):
        assert bare.get(f"/static/{name}").status_code == 404


def test_pages_are_packed(browser):
    assert browser.get("/launch", headers={"Accept-Encoding": "gzip"}).headers["content-encoding"] == "gzip"


def test_a_dashboard_loads_no_torch_no_ray_and_no_lm_eval(runs_dir):
    program = f"""
import sys
from pathlib import Path
from fastapi.testclient import TestClient
from evomerge.dashboard import Settings
from evomerge.dashboard.app import create_app

app = create_app(Settings(runs_dir=Path({str(runs_dir)!r}), token="t"))
client = TestClient(app, base_url="http://localhost", headers={{"Authorization": "Bearer t"}})
for path in ("/", "/studies/night", "/studies/night/candidates/3", "/launch", "/studies/night/report"):
    assert client.get(path).status_code == 200, path
page = client.get("/api/studies/night").json()
for figure in page["figures"]:
    assert client.get(f"/api/studies/night/figures/{{figure['name']}}").status_code == 200
assert client.post("/api/launch/preview", json={{"experiment": "demo", "study": "x"}}).status_code == 200
print(sorted({{"torch", "ray", "lm_eval", "transformers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
