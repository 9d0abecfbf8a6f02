"""A search that is killed with SIGKILL, wherever that may be, and resumed ends like one left alone."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from evomerge.study import Candidate, Study, StudyView
from evomerge.study.items import candidate_items, read_items
from evomerge.study.journal import open_journal

# A search in small: two candidates at a time, everything a function of the candidate's number.
SEARCH = """
import json, os, random, signal, sys
from pathlib import Path
from evomerge.study import Environment, Result, Study, StudyView
from evomerge.study.items import candidate_items
from evomerge.study import journal
from fitness.items import TaskScores

SPACE = {"weight": (0.0, 1.2), "source": ("a", "b")}
ENVIRONMENT = Environment(python="", platform="", packages={}, models=())

def point(number):
    return [random.Random(number).random(), number % 2 / 2]

def finish(study, number):
    value = random.Random(-number).random()
    if number % 7 == 3:
        return study.finish(number, Result(reason="out of memory"))
    items = {"t": TaskScores("t", "acc", (0, 1), (value, 1 - value), value, True)}
    study.finish(number, Result(scores={"t": value}, violations={"t": value - 0.8}, objective=value), items)

def search(folder, budget):
    with Study.open(folder) if folder.exists() else Study.create(folder, {"study": folder.name}, ENVIRONMENT) as study:
        waiting = [each.number for each in study.candidates() if each.state == "running" and study.retry(each.number)]
        while waiting or len(study.candidates()) < budget:
            while len(waiting) < 2 and len(study.candidates()) < budget:
                number = len(study.candidates())
                x = point(number)
                genome = {"weight": 1.2 * x[0], "source": "ab"[number % 2]}
                waiting.append(study.start(x, genome, SPACE, f"# recipe {number}"))
            finish(study, waiting.pop(0))
        study.end()
"""

RUN = SEARCH + "search(Path(sys.argv[1]), int(sys.argv[2]))"

# Every step that makes something durable is a place to die: the n-th such step of the process is its last.
DIE_EVERYWHERE = (
    SEARCH
    + """
import pandas  # or pyarrow imports it in every child

def die_at(step):
    left = [step]
    for name in ("fsync", "replace", "rename"):
        def deadly(*arguments, _real=getattr(os, name), **options):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return _real(*arguments, **options)
        setattr(os, name, deadly)

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def dying(folder, budget, step):
    die_at(step)
    search(folder, budget)

journal.STALE_AFTER = 0.02
os.fsync = lambda descriptor: None  # slow, and SIGKILL takes nothing from the page cache
runs, budget, step = Path(sys.argv[1]), int(sys.argv[2]), 0
while child(lambda: dying(runs / f"s{step}", budget, step)) == -signal.SIGKILL:
    assert child(lambda: search(runs / f"s{step}", budget)) == 0
    step += 1
print(step)
"""
)


def ending(folder: Path) -> dict[str, Any]:
    """All of a study that has to be the same."""
    view = StudyView(folder)
    numbers = range(len(view.candidates()))
    return {
        "candidates": [
            (
                each.number,
                each.state,
                each.x,
                each.genome,
                each.recipe,
                each.scores,
                each.gates,
                each.objective,
                each.reason,
            )
            for each in view.candidates()
        ],
        "items": [
            read_items(view.folder.items, candidate_items(number))
            for number in numbers
            if view.candidate(number).scores
        ],
        "files": sorted(path.name for path in (folder / "items").iterdir()),
        "best": (folder / "best.yaml").read_text(),
        "provenance": json.loads((folder / "best.provenance.json").read_text()),
        "state": view.state,
    }


def ended(view: StudyView) -> list[Candidate]:
    return [candidate for candidate in view.candidates() if candidate.state != "running"]


def run(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_killed_at_random_moments(tmp_path: Path):
    budget, chance = 60, random.Random(0)
    alone, killed = tmp_path / "alone" / "night", tmp_path / "killed" / "night"
    undisturbed = run(RUN, alone, budget)
    finished: list[Candidate] = []
    for target in (2, 12, 25):  # candidates, so that every session gets somewhere
        process = run(RUN, killed, budget)
        while not killed.exists():
            assert process.poll() is None
            time.sleep(0.001)
        view = StudyView(killed)  # it is read while it is being written
        while process.poll() is None and len(view.candidates()) < target:
            assert ended(view)[: len(finished)] == finished
        time.sleep(chance.random() * 0.005)
        process.send_signal(signal.SIGKILL)
        assert process.communicate() == ("", "")
        assert view.state == "interrupted"
        now = ended(view)  # nobody has repaired anything yet
        assert now[: len(finished)] == finished
        for candidate in now:
            assert bool(candidate.scores) == (candidate.state == "complete")
            if candidate.scores:
                assert view.scores(candidate_items(candidate.number), candidate)["t"].values[0] == candidate.scores["t"]
        finished = now
    assert 0 < len(finished) < budget
    last = run(RUN, killed, budget)
    assert last.communicate() == ("", "")
    assert undisturbed.communicate() == ("", "")
    end = ending(killed)
    assert end == ending(alone)
    assert [candidate[0] for candidate in end["candidates"]] == list(range(budget))
    theirs = optuna.load_study(study_name="night", storage=open_journal(killed / "study.journal"))
    assert f"# recipe {theirs.best_trial.number}" == end["best"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="dies in forks")
def test_killed_at_every_durable_step(tmp_path: Path):
    budget = 3
    process = run(DIE_EVERYWHERE, tmp_path, budget)
    output, errors = process.communicate()
    assert errors == ""
    steps = int(output)
    # creation, then at least six steps for each candidate that has items, and the best files
    assert steps > 6 * budget
    expected = ending(tmp_path / f"s{steps}")  # the one that nobody killed
    del expected["provenance"]["study"], expected["provenance"]["config"]
    for step in range(steps):
        end = ending(tmp_path / f"s{step}")
        del end["provenance"]["study"], end["provenance"]["config"]
        assert end == expected, step


def test_a_killed_writer_leaves_a_lock_that_the_next_one_takes(tmp_path: Path):
    folder = tmp_path / "night"
    assert run(RUN, folder, 1).communicate() == ("", "")
    # killed between taking Optuna's lock and writing the line
    (folder / "study.journal.lock").touch()
    began = time.monotonic()
    with Study.open(folder) as study:
        study.note("a", 1)
    assert time.monotonic() - began < 5
    assert not (folder / "study.journal.lock").exists()
