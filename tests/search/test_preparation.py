"""What is checked, and what is recorded, before a search starts or goes on."""

import shutil
from pathlib import Path

import pytest

from evomerge.config import SearchConfig, search_config
from evomerge.errors import ConfigError, StudyError
from evomerge.search.preparation import prepare


@pytest.fixture
def tasks(tiny, tmp_path) -> Path:
    """A folder of tasks, in a config folder of its own; `choice` is scored by a function that reads a file."""
    shutil.copytree(tiny, tmp_path / "configs")
    tasks = tmp_path / "configs" / "tasks"
    with (tasks / "choice.yaml").open("a") as file:
        file.write("process_results: !function own.results\n")
    (tasks / "own.py").write_text("def results(doc, results):\n    return {'acc': 1.0}\n")
    (tasks / "accepted.json").write_text("[1]")
    return tasks


def read(tasks: Path, *overrides: str) -> SearchConfig:
    return search_config(["models=tiny", "genome=tiny", "suite=tiny", "study=s", *overrides], tasks.parent)


def test_a_search_does_not_go_on_after_the_code_of_a_task_has_changed(tasks):
    then = prepare(read(tasks)).environment
    then.require_same_inputs(prepare(read(tasks)).environment)
    (tasks / "accepted.json").write_text("[1, 3]")
    with pytest.raises(StudyError, match=r"a file beside it, has changed since the study began \(task choice\)"):
        then.require_same_inputs(prepare(read(tasks)).environment)


def test_a_study_does_not_lie_among_what_a_task_may_read(tasks):
    told = r"the study lies among the files of a task \(task choice\).*choose another runs_dir"
    with pytest.raises(ConfigError, match=told):
        prepare(read(tasks, f"runs_dir={tasks}/runs"))
    path = tasks / "choice.yaml"
    path.write_text(path.read_text().replace("process_results: !function own.results\n", ""))
    prepare(read(tasks, f"runs_dir={tasks}/runs"))
