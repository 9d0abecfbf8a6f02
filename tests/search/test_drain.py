"""How a session hears that it is to end."""

import os
import signal
import threading

import pytest

from evomerge.config import BudgetConfig
from evomerge.search.drain import Drain, draining
from evomerge.study.requests import ask, ask_budget, withdraw


@pytest.fixture
def drain(study, monkeypatch) -> Drain:
    monkeypatch.setattr(Drain, "LOOK", 0.0)
    drain = Drain()
    drain.watch(study.folder)
    return drain


def test_a_wish_may_change_but_not_go_away(study, drain):
    assert (drain.wish(), drain.wish_to_pause()) == (None, None)
    ask(study.folder, "stop")
    assert (drain.wish(), drain.wish_to_pause()) == ("stop", None)
    withdraw(study.folder)
    assert drain.wish() == "stop"
    ask(study.folder, "pause")
    assert drain.wish_to_pause() == "pause"


def test_the_folder_is_looked_at_now_and_then(study, monkeypatch):
    drain = Drain()
    drain.watch(study.folder)
    assert drain.wish() is None
    ask(study.folder, "pause")
    assert drain.wish() is None  # looked at less than half a second ago
    monkeypatch.setattr(Drain, "LOOK", 0.0)
    assert drain.wish() == "pause"


def test_a_budget_is_what_was_asked_and_otherwise_what_it_was(study, drain):
    before = BudgetConfig(candidates=20, hours=2)
    assert drain.budget(before) == before
    ask_budget(study.folder, {"candidates": 40})
    assert drain.budget(before) == BudgetConfig(candidates=40, hours=2)
    ask_budget(study.folder, {"hours": None})
    assert drain.budget(before) == BudgetConfig(candidates=40)


@pytest.mark.parametrize("content", [b"", b"0", b"2.5", b"many", b"null", b"[", b"\xff"])
def test_what_is_no_budget_changes_nothing(study, drain, content):
    study.folder.budget_requests["candidates"].write_bytes(content)
    assert drain.budget(BudgetConfig(candidates=20)) == BudgetConfig(candidates=20)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_pauses_and_the_second_ends(number):
    before = signal.getsignal(number)
    with draining() as drain:
        assert drain.wish() is None
        os.kill(os.getpid(), number)
        assert drain.wish() == "pause"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_ctrl_c_does_not_wait_for_the_winner(study, drain):
    """One after a request to stop ends the process; one before is a wish to pause, whatever is asked then."""
    drain.interrupt(signal.SIGINT, None)
    ask(study.folder, "stop")
    assert drain.wish_to_pause() == "pause"
    other = Drain()
    other.watch(study.folder)
    assert other.wish() == "stop"
    with pytest.raises(KeyboardInterrupt):
        other.interrupt(signal.SIGINT, None)


def test_another_thread_hears_no_signals_and_still_looks_for_requests(study):
    heard = []

    def session() -> None:
        with draining() as drain:
            drain.watch(study.folder)
            heard.append((drain.wish(), signal.getsignal(signal.SIGINT)))

    before = signal.getsignal(signal.SIGINT)
    ask(study.folder, "stop")
    thread = threading.Thread(target=session)
    thread.start()
    thread.join()
    assert heard == [("stop", before)]
