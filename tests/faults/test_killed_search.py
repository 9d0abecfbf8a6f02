"""Searches that are killed, whose workers are killed, or that are told to stop."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evomerge.cli import main
from evomerge.study import StudyView
from evomerge.study.status import read_status

CANDIDATE = r'"x": ?\['  # stands in the journal once for each candidate
WORKER = r"worker ready: node \S+, pid (\d+)"


def start(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "evomerge", *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_for(folder: Path, pattern: str, count: int, process: subprocess.Popen[str]) -> list[str]:
    """What a pattern finds in the journal and the log, once it is found `count` times."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        texts = [path.read_text() for path in (folder / "study.journal", folder / "search.log") if path.exists()]
        found = re.findall(pattern, "".join(texts))
        if len(found) >= count:
            return found
        time.sleep(0.02)
    raise AssertionError(f"{pattern!r} was not found {count} times; exit code {process.poll()}")


@pytest.mark.parametrize("times", [1, pytest.param(3, marks=pytest.mark.soak)])
def test_killed_it_ends_like_one_left_alone(calm, words, held, tmp_path, times):
    folder, generator = tmp_path / "killed", random.Random(0)
    command = words(folder, "budget.candidates=19")
    for moment in sorted(generator.sample(range(1, 19), times)):
        process = start(command)
        wait_for(folder, CANDIDATE, moment, process)
        time.sleep(generator.random() / 10)
        process.kill()
        process.communicate()
        assert StudyView(folder).state == "interrupted"
        command = ["resume", str(folder)]
    process = start(command)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert held(folder) == held(calm)


@pytest.mark.soak
def test_killed_when_all_scores_are_known_it_ends_alike(calm, words, held):
    folder = calm.parent / "known"
    process = start(words(folder, "budget.candidates=19"))
    wait_for(folder, CANDIDATE, 7, process)
    process.kill()
    process.communicate()
    assert StudyView(folder).state == "interrupted"
    process = start(["resume", str(folder)])
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert held(folder) == held(calm)
    study = StudyView(folder)
    assert all(each.cached for each in (*study.baselines(), *study.candidates(), *study.finalists()))


@pytest.mark.soak  # every day a worker is ended because its job takes too long, and replaced
def test_a_killed_worker_is_replaced_and_the_budget_is_completed(words, tmp_path):
    folder = tmp_path / "s"
    process = start(words(folder, "budget.candidates=30"))
    wait_for(folder, CANDIDATE, 3, process)
    os.kill(int(wait_for(folder, WORKER, 1, process)[0]), signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert [candidate.state for candidate in StudyView(folder).candidates()] == ["complete"] * 30
    assert "worker died" in (folder / "search.log").read_text()


@pytest.mark.soak  # every day a browser pauses and resumes a search
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, "pause"])
def test_told_to_pause_it_drains_and_resumes(calm, words, held, tmp_path, how):
    folder = tmp_path / "paused"
    process = start(words(folder, "budget.candidates=19"))
    wait_for(folder, CANDIDATE, 6, process)
    if how == "pause":
        assert main(["pause", str(folder), "--wait"]) == 0
    else:
        process.send_signal(how)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "evomerge resume" in said
    paused = StudyView(folder)
    states = [candidate.state for candidate in paused.candidates()]
    assert paused.state == "paused"
    assert read_status(paused.folder) is None
    assert 6 <= len(states) < 19
    assert set(states) == {"complete"}
    process = start(["resume", str(folder)])
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert held(folder) == held(calm)


@pytest.mark.soak
def test_told_to_stop_it_chooses_a_winner_and_can_still_be_resumed(calm, words, held, tmp_path):
    folder, told = tmp_path / "stopped", tmp_path / "told"
    process = start(words(folder, "budget.candidates=19", f"notify.command='echo $EVOMERGE_EVENT >> {told}'"))
    wait_for(folder, CANDIDATE, 6, process)
    status = read_status(StudyView(folder).folder)
    assert (status.pid, status.phase, status.total) == (process.pid, "candidates", 19)
    assert {worker.job for worker in status.workers} <= {None, *(f"candidate {number}" for number in range(19))}
    assert main(["stop", str(folder), "--wait"]) == 0
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert str(folder / "best.yaml") in said
    stopped = StudyView(folder)
    assert stopped.state == "stopped"
    assert 6 <= len(stopped.candidates()) < 19
    assert stopped.winner.number in {finalist.number for finalist in stopped.finalists()}
    assert (folder / "best.yaml").read_text() == stopped.winner.recipe
    assert told.read_text().split() == ["feasible", "finished"]
    assert main(["stop", str(folder)]) == 2
    process = start(["resume", str(folder), "notify.events=[failed]"])
    process.communicate(timeout=120)
    assert process.returncode == 0
    now, calmly = held(folder), held(calm)
    assert (now["candidates"], now["best"]) == (calmly["candidates"], calmly["best"])
    assert calmly["finalists"].items() <= now["finalists"].items()
    assert StudyView(folder).state == "finished"
    assert told.read_text().split() == ["feasible", "finished"]
