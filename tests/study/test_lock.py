import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evomerge.errors import StudyError, StudyInUseError, exit_code
from evomerge.study.lock import Holder, StudyLock, holder

HOLD = """
import sys, time
from pathlib import Path
from evomerge.study.lock import StudyLock
lock = StudyLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.lock"


def test_a_second_writer_is_told_who_the_first_is(path: Path):
    lock = StudyLock(path)
    with pytest.raises(StudyInUseError) as refused:
        StudyLock(path)
    line = str(refused.value)
    assert f"process {os.getpid()} on {socket.gethostname()} since 20" in line
    assert "\n" not in line
    assert exit_code(refused.value) == 5
    lock.release()
    StudyLock(path).release()


def test_the_lock_goes_with_a_killed_process(path: Path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        found = holder(path)
        assert (found.pid, found.host) == (process.pid, socket.gethostname())
        with pytest.raises(StudyInUseError, match=rf"process {process.pid} "):
            StudyLock(path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert holder(path) is None
    assert json.loads(path.read_text())["pid"] == process.pid  # what is written in it does not hold it
    StudyLock(path).release()


def test_looking_neither_takes_nor_breaks_the_lock(path: Path):
    assert holder(path) is None
    assert not path.exists()
    lock = StudyLock(path)
    assert holder(path) == holder(path) == Holder(**json.loads(path.read_text()))
    with pytest.raises(StudyInUseError):
        StudyLock(path)
    lock.release()
    assert holder(path) is None


def test_a_writer_that_meets_a_look_tries_again(path: Path):
    looker = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); print(flush=True)"
    path.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", f"{looker}; time.sleep(0.08)", str(path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        process.stdout.readline()
        began = time.monotonic()
        StudyLock(path).release()
        assert time.monotonic() - began < 1


def test_the_time_is_in_utc(path: Path):
    lock = StudyLock(path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", holder(path).since)
    lock.release()


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path: Path):
    with pytest.raises(StudyError, match="study cannot be written") as refused:
        StudyLock(tmp_path / "missing" / "study.lock")
    assert not isinstance(refused.value, StudyInUseError)
