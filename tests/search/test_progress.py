"""What a search says of itself while it runs."""

import pytest

from evomerge.search.progress import SETTLED, SearchProgress, StatusBoard
from evomerge.study.status import WorkerStatus, read_status

WORKERS = (WorkerStatus(name="node:7", job="candidate 1", seconds=0.5),)


@pytest.fixture
def wishes() -> list:
    return [None]


@pytest.fixture
def board(study, wishes, monkeypatch) -> StatusBoard:
    monkeypatch.setattr(StatusBoard, "EVERY", 0.0)
    return StatusBoard(study.folder, study.session, lambda: WORKERS, lambda: wishes[-1])


def test_the_status_follows_the_phases(study, board, wishes):
    def seen() -> tuple:
        status = read_status(study.folder)
        return status.phase, status.done, status.total, status.draining

    with SearchProgress(20, 3, board=board) as progress:
        assert seen() == ("starting", 0, 0, None)
        progress.phase("baselines", 11)
        progress.scored()
        progress.tick()
        assert seen() == ("baselines", 1, 11, None)
        progress.begin()
        assert seen() == ("candidates", 3, 20, None)
        for _ in range(SETTLED - 1):
            progress.scored()
            progress.candidate_done(None)
        wishes.append("pause")
        progress.tick()
        assert seen() == ("candidates", 6, 20, "pause")
        assert read_status(study.folder).rate is None
        progress.candidate_done(None)
        progress.tick()
        status = read_status(study.folder)
        assert status.rate > 0
        assert status.seconds_left == pytest.approx(13 * 3600 / status.rate, rel=0.2)
        assert status.workers == WORKERS
        assert (status.pid, status.since) == (study.session.pid, study.session.since)
        progress.phase("finalists", 5)
        assert seen() == ("finalists", 0, 5, "pause")
        assert read_status(study.folder).seconds_left is None
    assert read_status(study.folder) is None
    assert not study.folder.status.exists()


def test_another_budget_is_another_total_and_nobody_knows_for_how_long(study, board):
    with SearchProgress(20, 0, board=board) as progress:
        progress.begin()
        for _ in range(SETTLED):
            progress.candidate_done(None)
        progress.budget(90)
        progress.tick()
        status = read_status(study.folder)
        assert (status.total, status.seconds_left) == (90, None)
        progress.candidate_done(None)
        progress.tick()
        status = read_status(study.folder)
        assert status.seconds_left == pytest.approx(85 * 3600 / status.rate, rel=0.2)


def test_the_time_left_is_never_more_than_that_of_the_budget(study, board):
    with SearchProgress(20, 0, board=board) as progress:
        progress.begin()
        for _ in range(SETTLED):
            progress.candidate_done(1e-6)
        progress.tick()
        assert read_status(study.folder).seconds_left == 0.0


def test_the_status_is_written_now_and_then_and_in_every_phase(study, board, monkeypatch):
    monkeypatch.setattr(StatusBoard, "EVERY", 60.0)
    board.show("baselines", 0, 9, None, None)
    board.show("baselines", 1, 9, None, None)
    assert read_status(study.folder).done == 0
    board.show("candidates", 2, 9, None, None)
    assert read_status(study.folder).done == 2


def test_an_error_ends_the_status_and_a_full_disk_does_not_end_the_search(study, board):
    with pytest.raises(RuntimeError), SearchProgress(20, 0, board=board):
        raise RuntimeError
    assert read_status(study.folder) is None
    study.folder.status.mkdir()  # nothing can be written there
    board.show("baselines", 0, 9, None, None)
    board.clear()
