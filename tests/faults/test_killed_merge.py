"""Merges to disk that are interrupted, terminated or killed while they write."""

import signal
import subprocess
import sys
import time

import pytest
import yaml

from evomerge.cli import main

ENDLESS = {"max_iter": 10**9, "tol": 1e-300}


@pytest.fixture
def recipe(family, tmp_path):
    """recipe(**parameters): a file that merges three models by the Karcher mean."""

    def write(**parameters):
        models = [{"model": str(family / name)} for name in ("base", "first", "second")]
        document = {"merge_method": "karcher", "models": models, "parameters": parameters}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(document))
        return str(path)

    return write


@pytest.fixture
def end(recipe, tmp_path):
    """end(number): a merge into `out` that would never end gets a signal; gives its exit code and what it said."""

    def send(number):
        words = ["merge", recipe(**ENDLESS), str(tmp_path / "out"), "--compile", "never"]
        process = subprocess.Popen([sys.executable, "-m", "evomerge", *words], text=True, stderr=subprocess.PIPE)
        try:
            deadline = time.monotonic() + 60
            while not list(tmp_path.glob(".out.*.partial/model.safetensors")):
                assert process.poll() is None, process.communicate()[1]
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(number)
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
        return process.returncode, said

    return send


@pytest.mark.parametrize(
    ("number", "code", "told"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_what_is_half_written_is_removed(end, tmp_path, number, code, told):
    assert end(number) == (code, f"evomerge: {told}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_the_next_merge_names_what_a_killed_one_has_left(end, recipe, tmp_path, capfd):
    assert end(signal.SIGKILL)[0] == -signal.SIGKILL
    (left,) = tmp_path.glob(".out.*")
    (tmp_path / ".out2.12345678.partial").mkdir()  # of another merge
    capfd.readouterr()
    before = signal.getsignal(signal.SIGTERM)
    assert main(["merge", recipe(), str(tmp_path / "out"), "--compile", "never"]) == 0
    assert signal.getsignal(signal.SIGTERM) is before
    warnings = [line for line in capfd.readouterr().err.splitlines() if "killed" in line]
    assert warnings == [
        f"evomerge: warning: left by a merge that was killed, unless one is running there: rm -r {left}"
    ]
    assert (left / "model.safetensors").exists()
