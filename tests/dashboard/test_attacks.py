"""What bad intent may try: to do without the token, to act from another site, paths, and names that hold markup."""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI
from fastapi.routing import RouteContext, iter_route_contexts
from fastapi.testclient import TestClient

from evomerge.config import search_config
from evomerge.dashboard import Settings
from evomerge.dashboard.app import create_app
from evomerge.dashboard.prompts import SCHEMA, prompts_path
from evomerge.study import Environment, Result, Study
from evomerge.study.folder import StudyFolder
from evomerge.study.store import Dimension
from fitness.items import Scores, TaskScores
from fitness.suite import Gate, SuiteConfig, TaskSpec

TOKEN = "a-token-of-the-tests"
ORIGIN = "http://127.0.0.1:8765"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
OPEN = ("/health", "/static/")  # what needs no token
SECRET = "what-lies-outside-of-the-runs-folder"


def tag(place: str) -> str:
    """Text that runs a script wherever it is taken for markup, in text, in an attribute or in a script."""
    return f"'\"></script><script>pwned('{place}')</script><img src=x onerror=pwned('{place}')>"


# the names of folders cannot hold a slash
STUDY = "<img src=x onerror=pwned('study')>\"'&"
BROKEN = "\"><script>pwned('broken')<script>"
CHOICE, PROSE = tag("task"), f"prose{tag('other task')}"


def scores(value: float) -> Scores:
    ids = tuple(range(4))
    answers = (tag("model's answer"),) * 4
    return {name: TaskScores(name, "acc", ids, (value,) * 4, value, True, answers=answers) for name in (CHOICE, PROSE)}


def result(value: float, **fields: Any) -> Result:
    return Result(
        scores={name: each.score for name, each in scores(value).items()},
        intervals={CHOICE: (value - 0.1, value + 0.1)},
        violations={CHOICE: 0.5 - value},
        objective=value,
        objective_interval=(value - 0.1, value + 0.1),
        timings={tag("phase"): 1.0},
        item_evaluations=8,
        **fields,
    )


def recipe(comment: str) -> str:
    return f"# {comment}\nmerge_method: passthrough\nmodels:\n- model: /no/such/model\ndtype: float32\n"


def write_hostile(folder: Path) -> None:
    """A study in which every name and every text is hostile."""
    suite = SuiteConfig(
        tasks=(
            TaskSpec(name=CHOICE, metric="acc", gate=Gate(at_least=0.5)),
            TaskSpec(name=PROSE, metric=tag("metric")),
        )
    )
    config = search_config(["study=plain", f"runs_dir={folder.parent}", "models=demo", "suite=demo"])
    config = config.model_copy(update={"suite": suite})
    environment = Environment(
        python=tag("python"), platform=tag("platform"), packages={tag("package"): tag("version")}, models=()
    )
    plain = folder.with_name("plain")
    with Study.create(plain, config.model_dump(mode="json"), environment) as study:
        study.note("benchmarks", [tag("benchmark")])
        names = ["base", "shipping", "refunds", "catalogue", tag("baseline")]
        for place, name in enumerate(names):
            study.add_baseline(name, recipe(tag("baseline")), result(0.3 + place / 10), scores(0.3 + place / 10))
        genome: dict[str, float | str] = {tag("gene"): 0.5, "source": tag("choice")}
        space: dict[str, Dimension] = {tag("gene"): (0.0, 1.0), "source": (tag("choice"),)}
        for value in (0.4, 0.8, 0.9):
            number = study.start([0.5, 0.5], genome, space, recipe(tag("recipe")))
            study.finish(number, result(value), scores(value))
        study.finish(study.start([0.5, 0.5], genome, space, recipe(tag("recipe"))), Result(reason=tag("reason")))
        stopped = result(0.4, stopped=tag("stopped"), rung=1)
        study.finish(study.start([0.5, 0.5], genome, space, recipe(tag("recipe"))), stopped)
        study.add_finalist("2", 2, result(0.7), scores(0.7))
        study.add_finalist(tag("baseline"), None, result(0.6), scores(0.6))
        study.end()
    (plain / "search.log").write_text(f"2026-01-01 00:00:00,000 INFO {tag('log')}\n")
    rows = [
        {"task": task, "doc_id": each, "prompt": tag("prompt"), "target": tag("answer"), "options": [tag("option")]}
        for task in (CHOICE, PROSE)
        for each in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), prompts_path(StudyFolder(plain)))
    plain.rename(folder)


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dashboard") / "runs"
    folder.mkdir()
    write_hostile(folder / STUDY)
    (folder / BROKEN).mkdir()
    (folder / BROKEN / "config.yaml").write_text(f"version: {json.dumps(tag('version'))}\nstudy: [{tag('config')}\n")
    # what a path might lead to: a study beside the runs folder, one that is hidden in it, and a file
    shutil.copytree(folder / STUDY, folder.parent / "outside")
    shutil.copytree(folder / STUDY, folder / ".hidden")
    (folder.parent / "secret").write_text(SECRET)
    return folder


@pytest.fixture(scope="module")
def app(runs_dir) -> FastAPI:
    app = create_app(Settings(runs_dir=runs_dir, token=TOKEN))
    with TestClient(app, base_url=ORIGIN, headers=BEARER) as client:  # reads the studies, which pages do not wait for
        assert client.get("/api/studies").status_code == 200
        assert client.get(f"/api/studies/{quote(STUDY)}").status_code == 200
    return app


@pytest.fixture
def client(app) -> Iterator[TestClient]:
    with TestClient(app, base_url=ORIGIN, follow_redirects=False, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def member(client) -> TestClient:
    """A browser that has shown the token."""
    assert client.get(f"/?token={TOKEN}").status_code == 303
    return client


def routes(app: FastAPI) -> list[RouteContext]:
    found = [route for route in iter_route_contexts(app.routes) if route.path is not None and route.methods]
    assert len(found) > 20
    return found


def filled(path: str, **values: str) -> str:
    """The path of a route with values for its parameters: those that are given, and else what there is."""
    known = {"study": quote(STUDY), "number": "2", "figure": "objective"} | values
    return re.sub(r"{(\w+)[^}]*}", lambda parameter: known.get(parameter[1], "1"), path)


def requests(app: FastAPI) -> list[tuple[str, str]]:
    """(method, path) of all that the dashboard answers."""
    return [(method, filled(route.path)) for route in routes(app) for method in sorted(route.methods - {"HEAD"})]


def listing(folder: Path) -> dict[str, int]:
    """All that lies in a folder, with when it was changed."""
    return {str(path): path.lstat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def is_open(path: str) -> bool:
    return path.startswith(OPEN)


def test_nobody_enters_without_the_token(app, client, runs_dir):
    before = listing(runs_dir.parent)
    wrong = [
        {},
        {"headers": {"Authorization": "Bearer wrong"}},
        {"headers": {"Authorization": "Bearer "}},
        {"headers": {"Authorization": f"Basic {TOKEN}"}},
        {"headers": {"Authorization": f"bearer {TOKEN}x"}},
        {"headers": {"Cookie": f"evomerge-8765={TOKEN}"}},
        {"headers": {"Cookie": "evomerge-8765=a.b; evomerge-8765="}},
        {"params": {"token": "wrong"}},
        {"params": {"token": ""}},
        {"params": {"token": f"{TOKEN}\0"}},
    ]
    for method, path in requests(app):
        if is_open(path):
            continue
        for request in wrong:
            answer = client.request(method, path, **request)
            assert answer.status_code == 401, (method, path, request)
            assert "set-cookie" not in answer.headers
            assert "pwned" not in answer.text
            assert TOKEN not in answer.text
    assert listing(runs_dir.parent) == before


def test_an_action_takes_no_token_from_its_address(app, client, runs_dir):
    """Else an address that somebody sends would act."""
    before = listing(runs_dir.parent)
    for method, path in requests(app):
        if method != "GET":
            assert client.request(method, path, params={"token": TOKEN}).status_code == 401, (method, path)
    assert listing(runs_dir.parent) == before


def test_the_session_tells_nobody_the_token(client):
    answer = client.get("/launch", params={"token": TOKEN, "next": "1"})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/launch?next=1"
    cookie = answer.headers["set-cookie"]
    assert TOKEN not in cookie
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    page = client.get("/launch")
    assert page.status_code == 200
    assert TOKEN not in page.text
    assert page.headers["referrer-policy"] in ("no-referrer", "same-origin")


@pytest.mark.parametrize(
    "path", ["//evil.example", "/\\evil.example", "/%2f%2fevil.example", "/%5cevil.example/%0d%0a"]
)
def test_the_way_in_leads_nowhere_else(client, path):
    answer = client.get(f"{ORIGIN}{path}?token={TOKEN}")
    place = answer.headers.get("location", "/")
    assert place.startswith("/")
    assert not place.startswith(("//", "/\\"))
    assert "\r" not in place


def test_other_names_of_the_host_are_refused(app, client, runs_dir):
    """A page of evil.example whose name is made to point at 127.0.0.1 is of the same origin, to a browser."""
    before = listing(runs_dir.parent)
    for host in ("evil.example", "evil.example:8765", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "", "[::1"):
        for method, path in requests(app):
            answer = client.request(method, path, headers=BEARER | {"Host": host})
            assert answer.status_code == 400, (method, path, host)
            assert "pwned" not in answer.text
    assert listing(runs_dir.parent) == before
    for host in ("127.0.0.1:8765", "localhost:8765", "LOCALHOST", "[::1]:8765"):
        assert client.get("/", headers=BEARER | {"Host": host}).status_code == 200


def test_no_other_site_acts(app, member, runs_dir):
    token = csrf_of(member)
    before = listing(runs_dir.parent)
    fields = {"csrf": token}
    header = {"X-CSRF-Token": token}
    attempts: list[dict[str, Any]] = [
        {},
        {"data": {"csrf": ""}},
        {"data": {"csrf": token[:-1] + ("0" if token[-1] != "0" else "1")}},
        {"headers": {"X-CSRF-Token": "wrong"}},
        {"params": fields},
        {"json": fields},
        {"content": f"csrf={token}", "headers": {"Content-Type": "text/plain"}},
        {"headers": header | {"Origin": "http://evil.example"}},
        {"headers": header | {"Origin": "null"}},
        {"headers": header | {"Origin": "http://127.0.0.1:8766"}},
        {"headers": header | {"Sec-Fetch-Site": "cross-site"}},
        {"headers": header | {"Sec-Fetch-Site": "same-site"}},
        {"data": fields, "headers": {"Origin": "http://evil.example"}},
        {"content": b"x" * (1 << 21), "headers": header},
    ]
    unsafe = [each for each in requests(app) if each[0] != "GET"]
    assert unsafe
    for method, path in unsafe:
        for attempt in attempts:
            assert member.request(method, path, **attempt).status_code in (403, 413), (method, path, attempt)
    assert listing(runs_dir.parent) == before


def test_a_token_of_one_session_is_none_of_another(app, member):
    other = TestClient(app, base_url=ORIGIN, follow_redirects=False)
    other.get(f"/?token={TOKEN}")
    mine, theirs = csrf_of(member), csrf_of(other)
    assert mine != theirs
    assert member.post("/launch/check", data={"csrf": theirs}).status_code == 403


def csrf_of(member: TestClient) -> str:
    found = re.search(r'name="csrf" value="([^"]+)"', member.get("/launch").text)
    assert found is not None
    return found[1]


TRAVERSALS = [
    "%2e%2e",  # a bare .. is tidied up by clients, and this is what it would be to the server
    "%2e",
    "..%2foutside",
    "%2e%2e%2foutside",
    "..%5coutside",
    "..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2fetc%2fpasswd",
    "..%252foutside",
    ".hidden",
    ".scores",
    ".launches",
    "%00",
    "a%00b",
    "%0d%0aset-cookie:%20a=b",
    "~root",
    "%ff%fe",
    "x" * 5000,
    "-1",
    "1e3",
    "9" * 50,
    "%d9%a3",  # a digit to Python, but none to us
]


def test_no_path_leads_out_of_the_listing(app, client, runs_dir):
    """Every parameter of every path, one after another."""
    before = listing(runs_dir.parent)
    seen = set()
    for route in routes(app):
        for parameter in re.findall(r"{(\w+)[^}]*}", route.path):
            seen.add(parameter)
            for value in TRAVERSALS:
                path = filled(route.path, **{parameter: value})
                for method in route.methods - {"HEAD"}:
                    answer = client.request(method, ORIGIN + path, headers=BEARER)
                    assert 400 <= answer.status_code < 500, (method, path, answer.status_code)
                    assert SECRET not in answer.text
                    assert "root:" not in answer.text
                    assert "set-cookie" not in answer.headers
    assert {"study", "number", "figure"} <= seen
    assert listing(runs_dir.parent) == before


class Markup(HTMLParser):
    """What in a page could run, or could be somebody else's."""

    RUNS = ("script", "style", "iframe", "object", "embed", "svg", "math", "template", "base", "meta")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.words: list[str] = []
        self._inside: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        if name == "script" and known.get("src", "").startswith("/static/") and set(known) <= {"src", "defer"}:
            self._inside = name
        elif name == "meta" and known.keys() & {"http-equiv"}:
            if known.get("http-equiv") != "refresh":
                self.found.append(self.get_starttag_text() or name)
        elif name == "img" or (name in self.RUNS and name != "meta"):
            self.found.append(self.get_starttag_text() or name)
        for key, value in attributes:
            target = (value or "").strip().lower()
            if key.startswith("on") or key == "style" or target.startswith(("javascript:", "vbscript:")):
                self.found.append(self.get_starttag_text() or name)
            if key in ("href", "src", "action", "formaction") and not target.startswith(("/", "#", "?", "data:,")):
                self.found.append(self.get_starttag_text() or name)

    def handle_endtag(self, name: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._inside == "script" and data.strip():
            self.found.append(data)


def pages() -> list[str]:
    study = f"/studies/{quote(STUDY)}"
    broken = f"/studies/{quote(BROKEN)}"
    one, two = (quote(f"{STUDY}:{number}") for number in (1, 2))
    return [
        "/",
        f"/?flash={quote(tag('flash'))}",
        f"/?sort={quote(tag('sort'))}",
        "/launch",
        f"/launch?experiment={quote(tag('experiment'))}&overrides={quote(tag('overrides'))}",
        "/jobs",
        f"/compare?with={one}&with={two}",
        f"/compare?with={quote(STUDY)}&with={quote(BROKEN)}",
        f"/compare?with={quote(tag('with'))}",
        study,
        f"{study}?sort={quote(CHOICE)}",
        f"{study}?filter={quote(tag('filter'))}",
        broken,
        *(f"{study}/candidates/{number}" for number in range(5)),
        f"{study}/candidates/1?task={quote(CHOICE)}&outcome=lost",
        f"{study}/candidates/1?task={quote(tag('task of the query'))}",
        f"{study}/candidates/{quote(tag('number'), safe='')}",
        f"/studies/{quote(tag('no such study'), safe='')}",
        f"/{quote(tag('no such page'), safe='')}",
    ]


@pytest.mark.parametrize("path", pages())
def test_markup_in_names_and_texts_is_text(member, path):
    answer = member.get(path)
    assert answer.status_code < 500
    assert answer.headers["content-type"].startswith("text/html")
    assert Markup(answer.text).found == []
    policy = dict(each.strip().split(" ", 1) for each in answer.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["base-uri"]) == ("'none'", "'self'", "'none'")
    # attributes of style can be set by our own scripts only: no name makes an attribute, as was just seen
    assert [kind for kind, allowed in policy.items() if "unsafe" in allowed] in ([], ["style-src-attr"])
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_hostile_texts_are_shown(member):
    """So that the test above has something to find."""
    study = f"/studies/{quote(STUDY)}"
    shown = {
        "/": ["study", "broken"],
        study: ["task", "other task", "baseline", "reason", "log", "benchmark", "platform"],
        f"{study}/candidates/2": ["task", "recipe", "gene", "choice", "phase"],
        f"{study}/candidates/2?outcome=won": ["prompt", "answer", "model's answer"],
        f"{study}/candidates/3": ["reason"],
        f"{study}/candidates/4": ["stopped"],
    }
    for path, places in shown.items():
        text = "".join(Markup(member.get(path).text).words)
        for place in places:
            assert f"pwned('{place}')" in text, (path, place)


def test_answers_to_programs_are_never_pages(app, client):
    checked = 0
    for route in routes(app):
        if route.path.startswith("/api/") and "GET" in route.methods:
            hostile = quote(tag("parameter"), safe="")
            for values in ({}, {"number": hostile}, {"figure": hostile}, {"study": hostile}):
                path = filled(route.path, **values)
                answer = client.get(path, headers=BEARER)
                assert answer.status_code < 500, path
                assert answer.headers["content-type"] == "application/json", path
                assert answer.headers["x-content-type-options"] == "nosniff"
                checked += 1
    assert checked > 10


def test_a_recipe_is_a_download_with_a_plain_name(member):
    answer = member.get(f"/studies/{quote(STUDY)}/recipe?candidate=2")
    assert answer.status_code == 200
    assert "html" not in answer.headers["content-type"]
    disposition = answer.headers["content-disposition"]
    assert disposition.startswith("attachment")
    assert "<" not in disposition
    assert "\n" not in disposition
    assert tag("recipe") in answer.text
