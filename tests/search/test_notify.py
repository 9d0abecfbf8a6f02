"""Who is told of what becomes of a search: real commands, and a real server."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from evomerge.config import NotifyConfig
from evomerge.errors import ConfigError, ModelError, NothingFeasibleError
from evomerge.search import notify
from evomerge.search.notify import notifying
from evomerge.study import Environment, Result, Study
from fitness.validation import validated

ENVIRONMENT = Environment(python="", platform="", packages={}, models=())
WRITE = "import os, sys; open(sys.argv[1], 'a').write('{EVOMERGE_EVENT} {EVOMERGE_STUDY}'.format(**os.environ) + '\\n')"


class Webhook(HTTPServer):
    """Keeps what is posted to it, and answers with `code`."""

    def __init__(self) -> None:
        self.posted: list[dict] = []
        self.types: list[str] = []
        self.code = 200
        super().__init__(("127.0.0.1", 0), Receiver)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?secret=x"


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.server.types.append(self.headers["Content-Type"])
        self.send_response(self.server.code)
        if self.server.code == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with Webhook() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Of a study with a feasible candidate."""
    with Study.create(tmp_path / "night", {"study": "night", "budget": {"candidates": 7}}, ENVIRONMENT) as study:
        study.begin()
        study.finish(study.start([0.5], {}, {}, "# recipe"), Result(objective=0.75, violations={"t": -0.1}))
        study.end()
    return tmp_path / "night"


def test_a_webhook_is_told_all_about_the_end(folder, webhook):
    with notifying(folder, NotifyConfig(webhook=webhook.url)) as notifier:
        notifier.ended("the recipe of candidate 0: best.yaml")
    (notice,) = webhook.posted
    assert webhook.types == ["application/json"]
    assert notice["text"] == "evomerge study night finished: the recipe of candidate 0: best.yaml"
    assert (notice["event"], notice["study"], notice["folder"], notice["reason"]) == (
        "finished",
        "night",
        str(folder),
        None,
    )
    summary = notice["summary"]
    assert (summary["state"], summary["done"], summary["total"], summary["objective"]) == ("finished", 1, 7, 0.75)
    assert (summary["gates_cleared"], summary["gates"]) == (1, 1)


def test_a_command_is_told_on_its_input_and_in_its_environment(folder, tmp_path):
    told, named = tmp_path / "told.json", tmp_path / "named"
    with notifying(folder, NotifyConfig(command=f"cat > '{told}'")) as notifier:
        notifier.ended("done")
    assert json.loads(told.read_text())["summary"]["study"] == "night"
    with notifying(folder, NotifyConfig(command=[sys.executable, "-c", WRITE, str(named)])) as notifier:
        notifier.ended("done")
    assert named.read_text() == "finished night\n"


def test_the_first_to_clear_the_gates_is_told_while_the_search_runs(folder, webhook):
    with Study.open(folder) as study, notifying(folder, NotifyConfig(webhook=webhook.url)) as notifier:
        notifier.cleared(study, study.candidate(0))
    (notice,) = webhook.posted
    assert notice["text"] == "evomerge study night feasible: candidate 0 clears every gate, with objective 0.7500"
    assert notice["summary"]["state"] == "running"


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (ModelError("model is gone", where="org/a"), "failed"),
        (RuntimeError("a bug"), "failed"),
        (NothingFeasibleError("no candidate clears every gate"), "finished"),
        (KeyboardInterrupt(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_told_as_what_it_is_and_goes_on(folder, webhook, error, event):
    with pytest.raises(type(error)), notifying(folder, NotifyConfig(webhook=webhook.url)):
        raise error
    assert [notice["event"] for notice in webhook.posted] == ([event] if event else [])
    assert all(notice["reason"] == str(error) in notice["text"] for notice in webhook.posted)


def test_nobody_is_told_of_what_was_not_asked_for(folder, webhook):
    with notifying(folder, NotifyConfig(webhook=webhook.url, events=("failed",))) as notifier:
        notifier.ended("done")
    with notifying(folder) as notifier:  # nobody is named
        notifier.ended("done")
    assert webhook.posted == []


def test_a_study_that_could_not_be_made_fails_without_a_summary(tmp_path, webhook):
    with pytest.raises(ModelError), notifying(tmp_path / "night", NotifyConfig(webhook=webhook.url)):
        raise ModelError("workers cannot be started")
    assert webhook.posted[0]["summary"] is None


def test_a_broken_study_is_told_of_as_broken(folder, webhook):
    (folder / "config.yaml").write_text("[")
    with notifying(folder, NotifyConfig(webhook=webhook.url)) as notifier:
        notifier.ended("done")
    assert webhook.posted[0]["summary"]["state"] == "broken"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"command": "echo no mail here >&2; exit 3"}, "notify.command): exit code 3: no mail here"),
        ({"command": ["/nowhere/mail"]}, "notify.command): [Errno 2] No such file or directory: '/nowhere/mail'"),
        ({"webhook": "http://127.0.0.1:1/"}, "notify.webhook): <urlopen error [Errno 111] Connection refused>"),
        ({"webhook": "http://127.0.0.1 :80/"}, "notify.webhook): the URL is not valid"),
        ({"webhook": "http://user:word@127.0.0.1/"}, "notify.webhook): the URL is not valid"),
        ({"webhook": f"http://{'x' * 64}.example/"}, "label"),
    ],
)
def test_what_cannot_be_told_is_one_warning(folder, capsys, config, told):
    with notifying(folder, NotifyConfig(**config)) as notifier:
        notifier.ended("done")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evomerge: warning: nobody was told that the study is finished (")
    assert told in line


def test_a_notice_that_cannot_be_made_is_one_warning(folder, webhook):
    lines: list[str] = []
    with Study.open(folder) as study, notifying(folder, NotifyConfig(webhook=webhook.url)) as notifier:
        notifier.say = lines.append
        notifier.cleared(study, study.candidate(0))
        (folder / "study.lock").unlink()
        (folder / "study.lock").mkdir()  # its state cannot be told
        notifier.cleared(study, study.candidate(0))
    assert len(webhook.posted) == 1
    (line,) = lines
    assert line.startswith("warning: nobody was told that the study is feasible: study cannot be read")


@pytest.mark.parametrize("code", [302, 403])
def test_a_webhook_that_refuses_is_one_warning_that_keeps_its_secret(folder, webhook, code):
    webhook.code = code
    lines: list[str] = []
    with notifying(folder, NotifyConfig(webhook=webhook.url, command="true")) as notifier:
        notifier.say = lines.append
        notifier.ended("done")
    (line,) = lines
    assert f"HTTP Error {code}" in line
    assert "secret" not in line


def test_a_command_that_hangs_is_killed_with_all_that_it_started(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(notify, "COMMAND_SECONDS", 0.3)
    alive = tmp_path / "alive"
    began = time.monotonic()
    with notifying(folder, NotifyConfig(command=f"(sleep 1; touch '{alive}') & wait")) as notifier:
        notifier.ended("done")
    assert time.monotonic() - began < 1
    assert "took longer than 0.3 s" in capsys.readouterr().err
    time.sleep(1.2)
    assert not alive.exists()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"webhook": "ftp://here/"}, "http or https URL"),
        ({"webhook": "file:///etc/passwd"}, "http or https URL"),
        ({"webhook": "https://"}, "http or https URL"),
        ({"command": []}, "notify: command"),
        ({"events": ["done"]}, "finished"),
        ({"web_hook": "https://here/"}, "unknown key"),
    ],
)
def test_a_bad_config_is_one_line(data, told):
    with pytest.raises(ConfigError, match=told):
        validated(NotifyConfig, data, "notify", ConfigError)
