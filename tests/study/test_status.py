import pytest

from evomerge.study import Study
from evomerge.study.status import Status, WorkerStatus, duration, read_status, remove_status, write_status


def status(study: Study) -> Status:
    return Status(
        pid=study.session.pid,
        host=study.session.host,
        since=study.session.since,
        updated="2026-01-02T03:04:05+00:00",
        phase="candidates",
        done=3,
        total=20,
        rate=120.0,
        seconds_left=None,
        draining="pause",
        workers=(WorkerStatus(name="node:7", job="candidate 3", seconds=1.5),),
    )


def test_what_is_written_is_read_while_the_search_runs(study: Study):
    assert read_status(study.folder) is None
    write_status(study.folder, status(study))
    assert read_status(study.folder) == status(study)
    assert [path.name for path in study.folder.path.glob(".*")] == []
    remove_status(study.folder)
    remove_status(study.folder)
    assert read_status(study.folder) is None


def test_what_a_killed_search_left_is_none(study: Study):
    write_status(study.folder, status(study))
    study.close()
    assert read_status(study.folder) is None
    with Study.open(study.folder.path) as later:
        for other in ({"pid": later.session.pid + 1}, {"host": "elsewhere"}, {"since": "2026-01-02T03:04:05+00:00"}):
            write_status(later.folder, status(later).model_copy(update=other))
            assert read_status(later.folder) is None


@pytest.mark.parametrize("content", [b"", b'{"pid": 1', b"[]", b"\xff"])
def test_a_torn_status_is_none(study: Study, content: bytes):
    study.folder.status.write_bytes(content)
    assert read_status(study.folder) is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.6, "1 min 00 s"), (61, "1 min 01 s"), (7500, "2 h 05 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
