import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import ConfigError, StudyError, exit_code
from evomerge.study.folder import (
    StudyFolder,
    check_name,
    check_new,
    folders_in,
    new_folder,
    remove_partial_files,
    replace_file,
    study_folder,
)


@pytest.mark.parametrize("name", ["demo", "7b-night", "a", "v0.1_x", "x" * 100])
def test_names_that_are_allowed(name: str):
    check_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/b", "/a", "a\\b", "../a", "a..b", ".hidden", "-o", "a b", "a\n", "a:b", "é", "x" * 101, "*"],
)
def test_names_that_are_not(name: str):
    with pytest.raises(ConfigError, match="not a name for a study") as refused:
        check_name(name)
    assert exit_code(refused.value) == 2
    assert "\n" not in str(refused.value)


@given(st.text(min_size=1, max_size=12))
def test_an_allowed_name_is_one_path_component(name: str):
    try:
        check_name(name)
    except ConfigError:
        return
    assert Path("runs", name).parts == ("runs", name)
    assert os.path.normpath(f"runs/{name}") == f"runs/{name}"


def test_config_comes_back_as_it_was_without_the_version(tmp_path: Path):
    folder = StudyFolder(tmp_path)
    config = {"study": "night", "seed": 3, "models": {"base": "org/ä", "parents": ["a", "b"]}, "hours": None}
    folder.write_config(config)
    assert folder.read_config() == config
    assert yaml.safe_load(folder.config.read_text(encoding="utf-8"))["version"] == 1


@pytest.mark.parametrize(
    "text, line",
    [
        (None, "not a study"),
        ("version: 2\nstudy: night\n", "written by a newer evomerge .*expected version 1 or older, found 2; upgrade"),
        ("study: night\n", "not the config of a study"),
        ("version: 1\n", "not the config of a study"),
        ("[1, 2]", "not the config of a study"),
        ("", "not the config of a study"),
        ("a: [", "study cannot be read"),
        (b"\xff\xfe\x00", "study cannot be read"),
    ],
)
def test_a_config_that_cannot_be_used(tmp_path: Path, text: str | bytes | None, line: str):
    folder = StudyFolder(tmp_path)
    if text is not None:
        folder.config.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudyError, match=line) as refused:
        folder.read_config()
    assert exit_code(refused.value) == 5
    assert str(tmp_path) in str(refused.value)


def test_a_study_is_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runs = tmp_path / "runs"
    (runs / "night").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert study_folder("night", Path("runs")) == runs / "night"
    assert study_folder("runs/night", Path("runs")) == runs / "night"
    assert study_folder(str(runs / "night"), tmp_path / "elsewhere") == runs / "night"
    (runs / "night" / "config.yaml").touch()
    monkeypatch.chdir(runs / "night")
    assert study_folder(".", runs) == runs / "night"
    with pytest.raises(StudyError, match="did you mean 'night'"):
        study_folder("nihgt", runs)
    with pytest.raises(StudyError, match="no such study"):
        study_folder("", runs)
    with pytest.raises(StudyError, match="evomerge search"):
        study_folder("night", tmp_path / "elsewhere")


def test_folders_are_listed_by_name_without_files_and_hidden_ones(tmp_path: Path):
    for name in ("b", "a", ".b.staging"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").touch()
    assert [folder.name for folder in folders_in(tmp_path)] == ["a", "b"]
    assert folders_in(tmp_path / "missing") == []
    with pytest.raises(StudyError, match="studies cannot be listed"):
        folders_in(tmp_path / "README.md")


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "runs" / "night"

    def fail(staging: StudyFolder):
        staging.config.write_text("half")
        raise KeyError

    with pytest.raises(KeyError), new_folder(path) as staging:
        fail(staging)
    assert list((tmp_path / "runs").iterdir()) == []
    with new_folder(path) as staging:
        staging.config.write_text("whole")
        assert not path.exists()
    assert [entry.name for entry in path.iterdir()] == ["config.yaml"]
    assert list((tmp_path / "runs").iterdir()) == [path]


def test_a_name_in_use_is_refused_even_when_taken_meanwhile(tmp_path: Path):
    path = tmp_path / "night"

    def take():
        path.mkdir(exist_ok=True)
        (path / "config.yaml").write_text("theirs")

    with pytest.raises(ConfigError, match=rf"already in use.*evomerge resume {path}, or"), new_folder(path):
        take()
    with pytest.raises(ConfigError, match=rf"already in use.*evomerge resume {path}, or"), new_folder(path):
        pytest.fail("entered")
    assert (path / "config.yaml").read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_in_the_usual_place_is_resumed_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "night").mkdir(parents=True)
    for runs_dir in (Path("runs"), tmp_path / "runs"):
        with pytest.raises(ConfigError, match="evomerge resume night, or"):
            check_new("night", runs_dir)


def test_a_replaced_file_is_whole_and_leaves_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "best.yaml"
    replace_file(path, b"old")
    replace_file(path, b"new")
    assert path.read_bytes() == b"new"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, b"newer")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path):
    (tmp_path / ".best.yaml.partial").write_text("ha")
    (tmp_path / "best.yaml").write_text("whole")
    remove_partial_files(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.yaml"]
