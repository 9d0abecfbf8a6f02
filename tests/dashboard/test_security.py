import re

import pytest
from fastapi import Request
from fastapi.testclient import TestClient

from evomerge.dashboard import Settings
from evomerge.dashboard.app import create_app
from evomerge.dashboard.rendering import Flash
from evomerge.dashboard.security import LARGEST_BODY

TOKEN = "token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def client_of(tmp_path, **settings) -> TestClient:
    (tmp_path / "runs").mkdir(exist_ok=True)
    app = create_app(Settings(runs_dir=tmp_path / "runs", token=TOKEN, **settings))
    return TestClient(app, base_url="http://localhost:8765", follow_redirects=False, raise_server_exceptions=False)


@pytest.fixture
def client(tmp_path) -> TestClient:
    return client_of(tmp_path)


@pytest.fixture
def member(client) -> TestClient:
    client.get(f"/?token={TOKEN}")
    return client


def said_to(csrf: str) -> str:
    """An address that carries what an action has said to the session of that CSRF token."""
    return Flash("run this").on("/", Request({"type": "http", "csrf": csrf}))


def csrf_of(member: TestClient) -> str:
    found = re.search(r'name="csrf" value="(\w+)"', member.get("/launch").text)
    assert found is not None
    return found[1]


def test_the_token_is_shown_once_and_leaves_the_address(client):
    answer = client.get(f"/?sort=rate&token={TOKEN}&descending=false")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/?sort=rate&descending=false"
    cookie = answer.headers["set-cookie"]
    assert {"httponly", "samesite=lax", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}
    assert TOKEN not in cookie
    assert client.get("/").status_code == 200


def test_each_browser_has_a_session_of_its_own(tmp_path):
    first, second = client_of(tmp_path), client_of(tmp_path)
    cookies = [each.get(f"/?token={TOKEN}").headers["set-cookie"] for each in (first, second)]
    assert cookies[0] != cookies[1]
    assert csrf_of(first) != csrf_of(second)
    answer = second.post("/launch/preview", data={"csrf": csrf_of(first)})
    assert answer.status_code == 403


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("//elsewhere.example/", "/elsewhere.example/"),
        ("///elsewhere.example", "/elsewhere.example"),
        ("/\\elsewhere.example/", "/%5Celsewhere.example/"),
        ("/studies/a%20b%3Fc", "/studies/a%20b%3Fc"),
    ],
)
def test_the_token_leads_to_the_same_page_and_no_other_site(client, path, told):
    assert client.get(f"http://localhost:8765{path}?token={TOKEN}").headers["location"] == told


@pytest.mark.parametrize(
    "ask",
    [
        {},
        {"params": {"token": "wrong"}},
        {"params": {"token": ""}},
        {"headers": {"Authorization": "Bearer wrong"}},
        {"headers": {"Authorization": f"Basic {TOKEN}"}},
        {"headers": {"Cookie": "evomerge-8765=" + TOKEN}},
        {"headers": {"Cookie": "evomerge-8765=nonce.signature"}},
        {"headers": {"Cookie": "evomerge-8765="}},
        {"headers": {"Cookie": 'evomerge-8765="\\x'}},
        {"headers": {"Cookie": "\u00e9=\u00e9; evomerge-8765=\u00e9.\u00e9".encode("latin-1")}},
        {"params": {"token": "\u00e9"}},
    ],
    ids=str,
)
def test_without_the_token_there_is_only_the_way_to_get_it(client, ask):
    answer = client.get("/", **ask)
    assert answer.status_code == 401
    assert "evomerge dashboard" in answer.text
    assert answer.headers["www-authenticate"] == "Bearer"


def test_who_has_no_token_reads_no_words_of_others_and_no_path(tmp_path):
    app = create_app(Settings(runs_dir=tmp_path / "nowhere", token=TOKEN))
    stranger = TestClient(app, base_url="http://localhost:8765")
    for headers in ({}, {"Host": "elsewhere.example"}):
        page = stranger.get(said_to(""), headers=headers).text
        assert "run this" not in page
        assert "nowhere" not in page
    assert "run this" in stranger.get(said_to(""), headers=BEARER).text


def test_a_link_elsewhere_opens_the_page_and_says_nothing_in_our_name(member, tmp_path):
    """Such as one in a chat: the cookie comes with it. Not every browser tells over http where a link was."""
    other = client_of(tmp_path)
    other.get(f"/?token={TOKEN}")
    for place in ("/?flash=run+this", "/?flash=run+this&signed=%C3%A9", said_to(""), said_to(csrf_of(other))):
        page = member.get(place)
        assert page.status_code == 200
        assert "run this" not in page.text
    own = said_to(csrf_of(member))
    assert "run this" in member.get(own).text
    assert "run this" not in member.get(own.replace("flash", "warning").replace("run", "rerun")).text


def test_a_wrong_token_is_refused_even_in_a_session(member):
    assert member.get("/?token=wrong").status_code == 401


def test_a_session_of_another_token_is_none(tmp_path, member):
    other = create_app(Settings(runs_dir=tmp_path / "runs", token="another"))
    assert TestClient(other, base_url="http://localhost:8765", cookies=member.cookies).get("/").status_code == 401


def test_only_reading_static_files_and_health_is_free(client):
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/static/app.css").status_code == 200
    assert client.post("/static/app.css").status_code == 401
    assert client.post("/health").status_code == 401
    assert client.get("/static/../api/studies").status_code == 401


@pytest.mark.parametrize("host", ["localhost", "localhost:8765", "127.0.0.1:1234", "[::1]:8765", "LOCALHOST:1"])
def test_names_of_this_machine_are_ours(client, host):
    assert client.get("/health", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "elsewhere.example",
        "localhost.elsewhere.example",
        "localhost@elsewhere.example",
        "192.168.0.7:8765",
        "0.0.0.0:8765",
        "[::1",
        "localhost:8765/",
        "",
    ],
)
def test_other_names_are_refused_also_with_the_token(client, host):
    answer = client.get("/health", headers={"Host": host, **BEARER})
    assert answer.status_code == 400
    assert "not a name of this dashboard" in answer.text.lower()


def test_the_name_that_it_listens_on_is_ours(tmp_path):
    client = client_of(tmp_path, host="Box.Lan")
    assert client.get("/health", headers={"Host": "box.lan:8765"}).status_code == 200
    assert client.get("/health", headers={"Host": "192.168.0.7"}).status_code == 400


def test_where_it_listens_on_all_addresses_those_are_ours_and_names_of_others_are_not(tmp_path):
    client = client_of(tmp_path, host="0.0.0.0")
    for host in ("192.168.0.7:8765", "[fe80::1]:8765", "localhost"):
        assert client.get("/health", headers={"Host": host}).status_code == 200
    assert client.get("/health", headers={"Host": "elsewhere.example"}).status_code == 400


def test_an_action_needs_the_csrf_token_of_its_session(member):
    csrf = csrf_of(member)
    for data in ({}, {"csrf": ""}, {"csrf": "wrong"}, {"csrf": TOKEN}, {"CSRF": csrf}):
        answer = member.post("/launch/preview", data={"experiment": "demo", **data})
        assert answer.status_code == 403, data
        assert "csrf" in answer.text.lower()
    assert member.post(f"/launch/preview?csrf={csrf}", data={"experiment": "demo"}).status_code == 403
    assert member.post("/launch/preview", data={"experiment": "demo", "csrf": csrf}).status_code == 200
    assert (
        member.post("/launch/preview", data={"experiment": "demo"}, headers={"X-CSRF-Token": csrf}).status_code == 200
    )
    # a page elsewhere can send such a body, but no such header
    other = {"Content-Type": "text/plain"}
    assert member.post("/launch/preview", content=f"csrf={csrf}&experiment=demo", headers=other).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "null"},
        {"Origin": "http://[::1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
    ids=str,
)
def test_an_action_comes_from_our_own_pages(member, headers):
    answer = member.post("/launch/preview", data={"experiment": "demo", "csrf": csrf_of(member)}, headers=headers)
    assert answer.status_code == 403
    assert "another site" in answer.text


def test_an_action_of_our_own_pages_is_done(member):
    headers = {"Origin": "http://localhost:8765", "Sec-Fetch-Site": "same-origin"}
    answer = member.post("/launch/preview", data={"experiment": "demo", "csrf": csrf_of(member)}, headers=headers)
    assert answer.status_code == 200


def test_a_bearer_needs_no_csrf_token(client):
    assert client.post("/api/launch/preview", json={"experiment": "demo"}, headers=BEARER).status_code == 200
    wrong = {"Authorization": "Bearer wrong"}
    assert client.post("/api/launch/preview", json={"experiment": "demo"}, headers=wrong).status_code == 401


def test_what_is_too_large_for_a_form_is_refused(member):
    answer = member.post("/launch/preview", data={"csrf": csrf_of(member), "overrides": "x" * LARGEST_BODY})
    assert answer.status_code == 413


@pytest.mark.parametrize("path", ["/", "/nothing", "/api/studies", "/health", "/static/app.css"])
@pytest.mark.parametrize("headers", [BEARER, {}], ids=["token", "no token"])
def test_every_answer_tells_browsers_to_be_strict(client, path, headers):
    answer = client.get(path, headers=headers)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy.replace("style-src-attr 'unsafe-inline'", "")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cross-origin-opener-policy"] == "same-origin"
    assert answer.headers["cache-control"] == ("no-cache" if path == "/static/app.css" else "no-store")


def test_no_answer_invites_other_sites(client):
    answer = client.options("/api/studies", headers={"Origin": "https://elsewhere.example", **BEARER})
    assert not [name for name in answer.headers if name.startswith("access-control")]
