import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from evomerge.bench.served import serving
from evomerge.dashboard import events as module
from evomerge.dashboard.events import Events
from evomerge.dashboard.processes import Processes
from evomerge.dashboard.shelf import Shelf


@pytest.fixture
def hub(runs_dir, monkeypatch) -> Events:
    monkeypatch.setattr(module, "EVERY", 0.02)
    return Events(Shelf(runs_dir), Processes(runs_dir))


def listener(left: asyncio.Event | None = None) -> Request:
    """One who stays until `left`."""

    async def receive() -> dict[str, Any]:
        if left is None:
            await asyncio.sleep(3600)
        else:
            await left.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http", "method": "GET", "path": "/events", "headers": [], "query_string": b""}, receive)


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(story(), 20))


async def version(stream: AsyncIterator[str]) -> str:
    """That of the next event."""
    async for block in stream:
        if block.startswith("event: changed\n"):
            fields = dict(line.split(": ", 1) for line in block.strip().splitlines())
            assert fields["id"] == fields["data"]
            return fields["data"]
    raise AssertionError("the stream has ended")


def touch(runs_dir: Path, text: str) -> None:
    (runs_dir / "night" / "search.log").write_text(text)


def test_a_change_is_told_once(hub, runs_dir):
    async def story() -> None:
        stream = hub.stream("night", None, listener())
        first = await version(stream)
        touch(runs_dir, "one")
        second = await version(stream)
        assert second != first
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(version(stream), 0.3)

    run(story)


def test_who_knows_the_version_hears_of_newer_ones_only(hub, runs_dir):
    async def story() -> None:
        known = Shelf(runs_dir).version("night")
        stream = hub.stream("night", known, listener())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(version(stream), 0.3)
        stream = hub.stream("night", known, listener())
        touch(runs_dir, "one")
        assert await version(stream) == Shelf(runs_dir).version("night")

    run(story)


def test_all_studies_and_jobs_in_one_stream(hub, runs_dir):
    async def story() -> None:
        stream = hub.stream(None, None, listener())
        seen = [await version(stream)]
        touch(runs_dir, "one")
        seen.append(await version(stream))
        (runs_dir / "other").mkdir()
        seen.append(await version(stream))
        Processes(runs_dir).start("search", "x", "evomerge", "--version")
        seen.append(await version(stream))
        assert len(set(seen)) == 4

    run(story)


def test_a_study_that_goes_away_is_told(hub, runs_dir):
    async def story() -> None:
        stream = hub.stream("night", None, listener())
        await version(stream)
        (runs_dir / "night").rename(runs_dir / ".gone")
        assert await version(stream) == "gone"

    run(story)


def test_silence_is_broken_by_comments(hub, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT", 0.1)

    async def story() -> None:
        stream = hub.stream("night", None, listener())
        await version(stream)
        assert (await anext(stream)).startswith(": ")

    run(story)


def test_a_stream_ends_with_its_listener_and_with_the_server(hub):
    async def story() -> None:
        left = asyncio.Event()
        stream, other = hub.stream("night", None, listener(left)), hub.stream("night", None, listener())
        await version(stream)
        await version(other)
        left.set()
        assert [block async for block in stream] == []
        hub.close()
        assert [block async for block in other] == []

    run(story)


def test_many_listeners_cost_one_look_each_time(hub, monkeypatch):
    looks: list[str] = []
    look = Shelf.version
    monkeypatch.setattr(module, "EVERY", 0.2)
    monkeypatch.setattr(Shelf, "version", lambda shelf, name: (looks.append(name), look(shelf, name))[1])

    async def story() -> None:
        streams = [hub.stream("night", None, listener()) for _ in range(20)]
        assert len({await version(stream) for stream in streams}) == 1
        assert len(looks) < 5

    run(story)


def test_there_is_room_for_so_many_and_for_others_when_they_have_left(hub, monkeypatch):
    monkeypatch.setattr(module, "MOST", 2)

    async def story() -> None:
        streams = [hub.stream("night", None, listener()) for _ in range(2)]
        for stream in streams:
            await version(stream)
        assert hub.full
        await streams[0].aclose()  # type: ignore[attr-defined]
        assert not hub.full

    run(story)


def test_a_page_need_not_hear_of_what_it_was_made_from(browser, runs_dir):
    def known(path: str) -> str:
        return browser.get(path).text.partition('data-events="')[2].partition('"')[0]

    assert known("/studies/night") == f"/studies/night/events?version={Shelf(runs_dir).version('night')}"
    assert known("/").startswith("/events?version=")
    before = known("/")
    touch(runs_dir, "one")
    assert known("/") != before


def test_who_comes_too_many_is_told_so(program, monkeypatch):
    monkeypatch.setattr(module, "MOST", 0)
    answer = program.get("/studies/night/events")
    assert answer.status_code == 503
    assert answer.json()["error"]["what"] == "too many listeners"
    assert program.get("/studies/nothing/events").status_code == 404


def test_over_the_wire_and_to_the_end_of_the_server(runs_dir):
    with serving(runs_dir) as served:
        with served.events("/studies/night/events") as told:
            first = next(told)
            touch(runs_dir, "one")
            assert next(told) != first
            began = time.monotonic()
            ended = threading.Thread(target=served.stop)
            ended.start()
            assert list(told) == []
            ended.join(30)
        assert time.monotonic() - began < 10
        assert served.process.returncode == 0
