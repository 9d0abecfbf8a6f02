import os
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from evomerge.errors import StudyError
from evomerge.study.journal import open_database, open_journal, remove_stale_lock, repair


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "study.journal"
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    study = optuna.create_study(storage=storage, study_name="night", direction="maximize")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    return path


def trials(path: Path) -> int:
    return len(optuna.load_study(study_name="night", storage=open_journal(path)).trials)


def test_a_whole_journal_is_left_alone(journal: Path):
    before = journal.read_bytes()
    assert repair(journal) == 0
    assert journal.read_bytes() == before


@pytest.mark.parametrize("tail", [b"{", b'{"op_code":4,"study_id":0', b"\x00" * 5000, b"x" * 200_000])
def test_a_torn_tail_of_any_length_is_cut_off(journal: Path, tail: bytes):
    before = journal.read_bytes()
    journal.write_bytes(before + tail)
    assert trials(journal) == 1  # readers see past it
    assert repair(journal) == len(tail)
    assert journal.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"no newline at all", b"y" * 70_000])
def test_a_journal_without_a_whole_line_becomes_empty(tmp_path: Path, content: bytes):
    path = tmp_path / "study.journal"
    path.write_bytes(content)
    assert repair(path) == len(content)
    assert path.read_bytes() == b""


def test_a_newline_just_before_a_block_of_the_backward_search(tmp_path: Path):
    path = tmp_path / "study.journal"
    path.write_bytes(b"a\n" + b"z" * (1 << 16))
    assert repair(path) == 1 << 16
    assert path.read_bytes() == b"a\n"


@pytest.mark.parametrize(
    "line", [b"not json\n", b"[]\n", b'{"op_code":99}\n', b'{"op_code":4}\n', b"{}\n", b"7\n", b"\n"]
)
def test_damage_before_the_last_line_is_told_in_one_line(journal: Path, line: bytes):
    journal.write_bytes(journal.read_bytes() + line + b'{"op_code":2}\n')
    with pytest.raises(StudyError, match="journal is damaged") as refused:
        open_journal(journal)
    assert str(journal) in str(refused.value)
    if line != b'{"op_code":99}\n' and line != b'{"op_code":4}\n':
        assert "found line 3 is not a record of Optuna's; restore it, or give up all but its first 2 lines" in str(
            refused.value
        )


def test_reading_makes_no_file(tmp_path: Path):
    with pytest.raises(StudyError, match="study has no journal"):
        open_journal(tmp_path / "study.journal")
    assert list(tmp_path.iterdir()) == []


def test_a_stale_lock_goes_and_the_next_write_does_not_wait(journal: Path):
    lock = journal.with_name("study.journal.lock")
    os.symlink("gone", lock)
    (journal.parent / "study.journal.lock1234.rename").touch()
    began = time.monotonic()
    remove_stale_lock(journal)
    optuna.load_study(study_name="night", storage=open_journal(journal)).set_user_attr("a", 1)
    assert time.monotonic() - began < 5
    assert list(journal.parent.iterdir()) == [journal]


def test_a_lock_that_lives_is_left_alone(journal: Path, monkeypatch: pytest.MonkeyPatch):
    lock = journal.with_name("study.journal.lock")
    lock.touch()

    def sleep(_seconds: float) -> None:  # another of Optuna's tools releases and takes it
        lock.unlink()
        lock.symlink_to("another writer")

    monkeypatch.setattr(time, "sleep", sleep)
    remove_stale_lock(journal)
    assert lock.is_symlink()


def test_a_database_that_cannot_be_opened_is_one_line_without_its_password():
    with pytest.raises(StudyError, match="study database cannot be opened") as refused:
        open_database("postgresql+nodriver://me:secret@host/db")
    assert "secret" not in str(refused.value)
    assert "host/db" in str(refused.value)
