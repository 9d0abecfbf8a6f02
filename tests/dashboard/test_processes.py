import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evomerge.dashboard import processes as module
from evomerge.dashboard.problems import NotFoundError
from evomerge.dashboard.processes import Job, Processes, said
from evomerge.study.folder import StudyFolder

SLEEPS = ("http.server", "0", "--bind", "127.0.0.1")  # a module that runs until it is ended


@pytest.fixture
def processes(tmp_path) -> Processes:
    (tmp_path / "runs").mkdir()
    return Processes(tmp_path / "runs")


@pytest.fixture
def sleeping(processes) -> Iterator[Job]:
    """A job that does not end by itself."""
    job = processes.start("search", "night", *SLEEPS)
    yield job
    for pid in running(processes):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def running(processes: Processes) -> list[int]:
    """The processes that hold the lock of a job, found as the system knows them."""
    files = {str(path) for path in processes.runs_dir.glob(".launches/*/alive")}
    found = []
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            if files & {os.readlink(each) for each in folder.iterdir()}:
                found.append(int(folder.parent.name))
    return found


def ended(processes: Processes, job: Job) -> Job:
    deadline = time.monotonic() + 30
    while (found := processes.job(job.id)).state == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_job_that_does_well(processes):
    job = processes.start("search", "night", "evomerge", "--version")
    assert (job.kind, job.study, job.state) == ("search", "night", "running")
    done = ended(processes, job)
    assert (done.state, done.exit, done.error) == ("done", 0, None)
    assert processes.output(job.id, 5)[0].startswith("evomerge ")


def test_a_job_that_fails_says_why_in_one_line(processes):
    job = ended(processes, processes.start("resume", "night", "evomerge", "show", "nothing"))
    assert (job.state, job.exit) == ("failed", 5)
    assert (job.error or "").startswith("no such study (nothing)")


def test_a_bug_is_told_by_the_last_line_of_its_traceback(processes):
    job = ended(processes, processes.start("search", "night", "evomerge.dashboard.prompts"))
    assert (job.state, job.exit) == ("failed", 1)
    assert (job.error or "").startswith("ValueError")


def test_another_dashboard_finds_a_job_and_sees_it_end(processes, sleeping):
    other = Processes(processes.runs_dir)
    assert other.job(sleeping.id).state == "running"
    assert other.searching("night") == other.job(sleeping.id)
    assert other.searching("day") is None
    wait_for(lambda: other.output(sleeping.id, 1))
    before = other.version()
    for pid in running(processes):
        os.kill(pid, signal.SIGKILL)
    killed = ended(other, sleeping)
    assert killed.state == "killed"
    assert other.version() != before
    assert other.searching("night") is None


def test_a_command_that_is_killed_leaves_its_exit_code(processes, sleeping):
    wait_for(lambda: processes.output(sleeping.id, 1))
    shell, command = sorted(running(processes))
    os.kill(command, signal.SIGKILL)
    job = ended(processes, sleeping)
    assert (job.state, job.exit) == ("killed", 137)
    wait_for(lambda: not Path(f"/proc/{shell}").exists())  # no zombie is left


def test_a_job_has_a_session_of_its_own_and_no_token(processes, monkeypatch):
    monkeypatch.setenv("EVOMERGE_TOKEN", "secret")
    program = f"import os; print(os.getsid(0) != {os.getsid(0)}, os.environ.get('EVOMERGE_TOKEN'), os.isatty(0))"
    folder = processes.runs_dir / "module"
    folder.mkdir()
    (folder / "tells.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    job = ended(processes, processes.start("search", "night", "tells"))
    assert processes.output(job.id, 5) == ("True None False",)


def test_interrupted_is_paused(processes, monkeypatch):
    folder = processes.runs_dir / "module"
    folder.mkdir()
    (folder / "pauses.py").write_text("raise SystemExit(130)")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    job = ended(processes, processes.start("search", "night", "pauses"))
    assert (job.state, job.error) == ("paused", None)


def test_merges_lie_with_their_study_and_are_numbered(processes):
    (processes.runs_dir / "night").mkdir()
    folder = StudyFolder(processes.runs_dir / "night")
    jobs = [processes.start_merge(folder, number, "merge_method: nothing\n", folder.path / "x") for number in (3, 4)]
    assert [job.id for job in jobs] == ["night-merge-1", "night-merge-2"]
    assert [job.candidate for job in jobs] == [3, 4]
    assert (folder.path / "merges" / "2" / "recipe.yaml").read_text() == "merge_method: nothing\n"
    failed = [ended(processes, job) for job in jobs]
    assert {job.exit for job in failed} == {2}
    assert "merges/1/recipe.yaml" in (failed[0].error or "")
    assert [job.id for job in processes.jobs()] == ["night-merge-2", "night-merge-1"]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "night-merge-9", "/etc", "x\0"])
def test_a_job_is_found_by_its_id_only(processes, name):
    with pytest.raises(NotFoundError):
        processes.job(name)
    with pytest.raises(NotFoundError):
        processes.output(name, 1)


def test_what_is_no_job_is_passed_over(processes):
    launches = processes.runs_dir / ".launches"
    (launches / "empty").mkdir(parents=True)
    (launches / "torn").mkdir()
    (launches / "torn" / "command.json").write_text('{"kind": "sea')
    (launches / "file").touch()
    assert processes.jobs() == ()
    assert processes.version() != Processes(processes.runs_dir / "nowhere").version()
    assert Processes(processes.runs_dir / "nowhere").jobs() == ()


def test_old_launches_are_forgotten_but_not_those_that_run(processes, sleeping, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 3)
    for _ in range(4):
        last = ended(processes, processes.start("search", "x", "evomerge", "--version"))
    kept = [job.id for job in processes.jobs()]
    assert kept[0] == last.id
    assert kept[-1] == sleeping.id
    assert len(kept) == 4


def test_the_error_among_what_was_said():
    lines = ["study x: 3 dimensions", "evomerge: warning: slow", "evomerge: not valid (x)", "evomerge: warning: late"]
    assert said(lines) == "not valid (x)"
    assert said(lines[:2]) is None
