import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.bench.served import serving
from evomerge.dashboard import Settings, serve
from evomerge.errors import UsageError


@pytest.fixture
def runs_dir(tmp_path) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def test_it_prints_an_address_that_lets_in_and_ends_with_ctrl_c(runs_dir):
    with serving(runs_dir, "--token", "a-token") as served:
        assert served.token == "a-token"
        assert served.origin.startswith("http://127.0.0.1:")
        assert served.get("/").status == 200
        assert served.stop() == 0
    assert served.said == []


def test_a_port_in_use_is_refused(runs_dir):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UsageError) as caught,
    ):
        serve(Settings(runs_dir=runs_dir, token="t", port=taken.getsockname()[1]))
    assert caught.value.found == "Address already in use"


@pytest.mark.parametrize(
    ("host", "port", "what"),
    [("no.such.host.invalid", 0, "cannot listen"), ("192.0.2.1", 0, "cannot listen"), ("127.0.0.1", 99999, "a port")],
)
def test_an_address_that_is_not_ours_is_refused(runs_dir, host, port, what):
    with pytest.raises(UsageError, match=what):
        serve(Settings(runs_dir=runs_dir, token="t", host=host, port=port))


def test_without_tls_the_network_is_warned_of(runs_dir):
    words = ["dashboard", "--runs-dir", str(runs_dir), "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(
        [sys.executable, "-m", "evomerge", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"http://{socket.gethostname()}:")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert said.startswith("evomerge: warning: without TLS")
    assert len(said.splitlines()) == 1
