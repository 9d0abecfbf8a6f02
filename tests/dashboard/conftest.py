"""A dashboard without a server, over a folder with one study."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from evomerge.bench.study import write_study
from evomerge.config import search_config
from evomerge.dashboard import Settings, reading
from evomerge.dashboard.app import create_app

TOKEN = "token-of-the-tests"
ORIGIN = "http://127.0.0.1:8765"
CANDIDATES = 12


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """write(folder, *overrides): a finished study of the demo's models, its scores drawn."""

    def make(folder: Path, *overrides: str) -> Path:
        words = [f"study={folder.name}", f"runs_dir={folder.parent}", "models=demo", "suite=demo"]
        words += ["genome=task_arithmetic", f"budget.candidates={CANDIDATES}", *overrides]
        return write_study(search_config(words), CANDIDATES)

    return make


@pytest.fixture(scope="session")
def written(tmp_path_factory, write) -> Path:
    """A study that nobody changes."""
    return write(tmp_path_factory.mktemp("written") / "night")


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """On a busy machine, too, a page waits for its study."""
    monkeypatch.setattr(reading, "PATIENCE", 60.0)


@pytest.fixture
def runs_dir(tmp_path, written) -> Path:
    """A folder with the study `night`."""
    shutil.copytree(written, tmp_path / "runs" / "night")
    return tmp_path / "runs"


@pytest.fixture
def settings(runs_dir) -> Settings:
    return Settings(runs_dir=runs_dir, token=TOKEN)


@pytest.fixture
def bare(settings) -> Iterator[TestClient]:
    """A client that has no token."""
    with TestClient(
        create_app(settings), base_url=ORIGIN, follow_redirects=False, raise_server_exceptions=False
    ) as client:
        yield client


@pytest.fixture
def program(bare) -> TestClient:
    """A client that sends the token with each request and wants JSON."""
    bare.headers |= {"Authorization": f"Bearer {TOKEN}", "Accept": "application/json"}
    return bare


@pytest.fixture
def browser(bare) -> TestClient:
    """A client that has shown the token once and wants HTML."""
    assert bare.get(f"/?token={TOKEN}").status_code == 303
    bare.headers["Accept"] = "text/html"
    return bare
