"""A disk that is full or read-only under runs_dir: one line, and nothing half-written."""

import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from evomerge.errors import OneLineError, StudyError, exit_code
from evomerge.study import Environment, Result, Study, StudyView
from fitness.items import TaskScores

ENVIRONMENT = Environment(python="", platform="", packages={}, models=())
SPACE = {"weight": (0.0, 1.0)}


def create(folder: Path, **config: str) -> Study:
    return Study.create(folder, {"study": folder.name, **config}, ENVIRONMENT)


def finish(study: Study, number: int, objective: float, documents: int = 2) -> None:
    values = tuple(objective / (index + 1) for index in range(documents))
    items = {"t": TaskScores("t", "acc", tuple(range(documents)), values, objective, True)}
    study.finish(number, Result(scores={"t": objective}, objective=objective), items)


@contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """As on a full disk, a write goes as far as there is room and then fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def check_one_line(error: OneLineError, place: Path) -> None:
    assert exit_code(error) == 5
    assert "\n" not in str(error)
    assert str(place) in str(error)
    assert "free some space" in str(error)


def test_a_study_that_does_not_fit_is_not_begun(tmp_path: Path):
    runs = tmp_path / "runs"
    with files_limited_to(10), pytest.raises(StudyError, match="study cannot be written") as full:
        create(runs / "night")
    check_one_line(full.value, runs / "night")
    assert list(runs.iterdir()) == []
    create(runs / "night").close()


@pytest.mark.parametrize("room", [0, 1, 40, 400])
def test_a_journal_that_is_full_stays_readable_and_can_be_written_again(tmp_path: Path, room: int):
    folder = tmp_path / "night"
    with create(folder) as study:
        number = study.start([0.5], {"weight": 0.5}, SPACE, "# recipe " + "x" * 500)
        before = (folder / "study.journal").read_bytes()
        with files_limited_to(len(before) + room), pytest.raises(StudyError) as full:
            study.start([0.6], {"weight": 0.6}, SPACE, "# recipe " + "x" * 500)
        check_one_line(full.value, folder)
        assert (folder / "study.journal").read_bytes() == before
        # the disk has room again: the same process goes on, and so does the next one
        finish(study, number, 0.5)
        assert study.start([0.6], {"weight": 0.6}, SPACE, "# recipe") == 1
    with Study.open(folder) as study:
        finish(study, 1, 0.6)
    assert [candidate.objective for candidate in StudyView(folder).candidates()] == [0.5, 0.6]


def test_a_best_recipe_that_does_not_fit_leaves_the_old_one(tmp_path: Path):
    folder = tmp_path / "night"
    with create(folder, padding="x" * 50_000) as study:  # which makes the sidecar large and the journal not
        finish(study, study.start([0.5], {}, {}, "# old"), 0.5)
        before = {path: path.read_bytes() for path in (folder / "best.yaml", folder / "best.provenance.json")}
        number = study.start([0.6], {}, {}, "# new")
        with files_limited_to(20_000), pytest.raises(StudyError) as full:
            study.finish(number, Result(scores={"t": 0.6}, objective=0.6))
        check_one_line(full.value, folder)
        assert {path: path.read_bytes() for path in before} == before
        assert not list(folder.glob(".*.partial"))
    Study.open(folder).close()
    assert (folder / "best.yaml").read_text() == "# new"


def test_items_that_do_not_fit_leave_the_candidate_running(tmp_path: Path):
    folder = tmp_path / "night"
    with create(folder) as study:
        finish(study, study.start([0.4], {}, {}, "# first"), 0.4)
        number = study.start([0.5], {}, {}, "# recipe")
        with files_limited_to(15_000), pytest.raises(StudyError):
            finish(study, number, 0.5, documents=5000)
        assert study.candidate(number).state == "running"
        assert [path.name for path in (folder / "items").iterdir()] == ["000000.parquet"]
        finish(study, number, 0.5, documents=5000)
        assert study.candidate(number).state == "complete"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder whose parents anyone may enter."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@contextmanager
def read_only(*folders: Path) -> Iterator[None]:
    """Nobody may write there; not even root, who becomes nobody for the time."""
    for folder in folders:
        folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        for folder in folders:
            folder.chmod(0o755)


def test_no_study_is_begun_where_nothing_can_be_written(place: Path):
    with read_only(place):
        for folder in (place / "night", place / "runs" / "night"):
            with pytest.raises(StudyError, match="Permission denied") as refused:
                create(folder)
            check_one_line(refused.value, folder)
    assert list(place.iterdir()) == []


def test_runs_dir_that_is_a_file(tmp_path: Path):
    (tmp_path / "runs").touch()
    with pytest.raises(StudyError, match="study cannot be written"):
        create(tmp_path / "runs" / "night")


def test_a_read_only_study_can_be_read_and_not_resumed(place: Path):
    folder = place / "night"
    with create(folder) as study:
        finish(study, study.start([0.5], {"weight": 0.5}, SPACE, "# recipe"), 0.5)
    with read_only(folder, folder / "items"):
        view = StudyView(folder)
        assert view.best.number == 0
        assert view.state == "interrupted"
        with pytest.raises(StudyError, match="study cannot be written"):
            Study.open(folder)
    assert sorted(path.name for path in folder.rglob("*")) == [
        "000000.parquet",
        "best.provenance.json",
        "best.yaml",
        "config.yaml",
        "environment.json",
        "items",
        "study.journal",
        "study.lock",
    ]
