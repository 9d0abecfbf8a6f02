import math
import os
import threading

import pytest

from evomerge.study.cache import ScoreCache
from fitness.items import TaskScores

SCORES = {
    "shipping": TaskScores(
        "shipping", "exact_match", (0, 2, 5), (1.0, 0.0, 1 / 3), 4 / 9, True, answers=("8 €", None, "\0\n")
    ),
    "prose": TaskScores("prose", "word_perplexity", (1,), (-math.pi,), 1e-300, False, weights=(17.0,)),
    "bleu": TaskScores("bleu", "bleu", (1, 2), (0.5, 7.0), 4.5, True, jackknife=(0.5, 7.0)),
}
OTHER = {"shipping": TaskScores("shipping", "acc", (7,), (0.25,), 0.25, True)}


def test_what_was_put_is_found_by_whoever_opens_the_folder_next(tmp_path):
    ScoreCache(tmp_path).put("a", SCORES)
    again = ScoreCache(tmp_path)
    assert again.get("a") == SCORES
    assert list(again.get("a")) == ["shipping", "prose", "bleu"]
    assert again.get("b") is None


@pytest.mark.parametrize("kept", [0, 1, 64, 65, 90, -1])
def test_a_torn_entry_counts_as_none_and_is_written_again(tmp_path, kept):
    cache = ScoreCache(tmp_path)
    cache.put("a", SCORES)
    (path,) = cache.folder.iterdir()
    path.write_bytes(path.read_bytes()[:kept])
    assert cache.get("a") is None
    cache.put("a", SCORES)
    assert cache.get("a") == SCORES
    assert list(cache.folder.iterdir()) == [path]


def test_a_damaged_entry_counts_as_none(tmp_path):
    cache = ScoreCache(tmp_path)
    cache.put("a", SCORES)
    (path,) = cache.folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
    assert cache.get("a") is None
    path.write_bytes(b"\xff" * 200)
    assert cache.get("a") is None


def test_entries_longest_unused_make_room(tmp_path):
    cache = ScoreCache(tmp_path)
    for age, key in enumerate("dcba"):
        cache.put(key, SCORES)
        os.utime(cache.folder / key, (1000 - age, 1000 - age))
    cache.get("a")  # the oldest, used just now
    size = (cache.folder / "a").stat().st_size
    small = ScoreCache(tmp_path, limit=2 * size)
    assert sorted(path.name for path in small.folder.iterdir()) == ["a", "d"]


def test_a_long_search_stays_within_the_limit_too(tmp_path):
    cache = ScoreCache(tmp_path)
    cache.put("first", SCORES)
    size = (cache.folder / "first").stat().st_size
    small = ScoreCache(tmp_path, limit=5 * size)
    for number in range(40):
        small.put(f"{number:02}", SCORES)
        os.utime(small.folder / f"{number:02}", (1000 + number,) * 2)
        assert sum(path.stat().st_size for path in small.folder.iterdir()) <= 5 * size
    assert small.get("39") == SCORES
    assert small.get("00") is None


def test_answers_are_kept_small(tmp_path):
    answers = tuple(f"Let us see. The answer of question {number} is {number % 7}. " * 20 for number in range(100))
    cache = ScoreCache(tmp_path)
    ids = tuple(range(100))
    cache.put("a", {"said": TaskScores("said", "exact_match", ids, (1.0,) * 100, 1.0, True, answers=answers)})
    assert (cache.folder / "a").stat().st_size < sum(map(len, answers)) / 4
    assert cache.get("a")["said"].answers == answers


def test_two_searches_at_once_leave_one_whole_entry(tmp_path):
    cache = ScoreCache(tmp_path)
    cache.put("a", SCORES)
    found, writing = [], True

    def read():
        while writing:
            found.append(cache.get("a"))

    reader = threading.Thread(target=read)
    writers = [
        threading.Thread(target=lambda scores=scores: [ScoreCache(tmp_path).put("a", scores) for _ in range(50)])
        for scores in (SCORES, OTHER)
    ]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    writing = False
    reader.join()
    assert found
    assert all(each in (SCORES, OTHER) for each in found)
    assert [path.name for path in cache.folder.iterdir()] == ["a"]


def test_a_disk_that_cannot_be_written_to_costs_nothing(tmp_path, caplog):
    (tmp_path / "file").touch()
    cache = ScoreCache(tmp_path / "file")
    cache.put("a", SCORES)
    assert cache.get("a") is None
    assert "cannot be kept" in caplog.text
