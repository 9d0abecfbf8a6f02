import subprocess
import sys

import pytest

from evomerge.config import search_config
from evomerge.dashboard.prompts import Prompt, prompts_of, prompts_path, write_prompts
from evomerge.errors import StudyError, SuiteError
from evomerge.study import Environment, Study, StudyView
from fitness.questions import questions
from fitness.suite import SuiteConfig


@pytest.fixture
def study(tmp_path, tiny) -> StudyView:
    """A study of the tiny suite that has no candidates."""
    words = ["models=tiny", "genome=tiny", "suite=tiny", "study=asked", f"runs_dir={tmp_path}"]
    config = search_config(words, tiny)
    digests = {task.name: task.digest for task in questions(config.suite)}
    environment = Environment(python="3.11", platform="Linux", packages={}, models=(), tasks=digests)
    with Study.create(config.folder, config.model_dump(mode="json"), environment):
        pass
    return StudyView(config.folder)


def test_prompts_are_read_once_and_kept(study):
    assert prompts_of(study.folder, "choice", [0]) is None
    assert write_prompts(study) == prompts_path(study.folder)
    [asked] = [task for task in questions(SuiteConfig.model_validate(study.config["suite"])) if task.name == "choice"]
    found = prompts_of(study.folder, "choice", [3, 5, 999])
    assert found.keys() == {3, 5}
    assert found[3] == Prompt(**vars(asked.documents[3]))
    assert prompts_of(study.folder, "nix", [3]) == {}


def test_a_process_of_its_own_does_it(study):
    command = [sys.executable, "-m", "evomerge.dashboard.prompts", str(study.folder.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, str(prompts_path(study.folder)))
    done = subprocess.run([*command[:-1], "/nowhere"], capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert done.stderr.startswith("evomerge: not a study")


def test_documents_that_have_changed_are_not_shown_as_those_that_were_scored(study):
    path = study.folder.environment
    path.write_text(path.read_text().replace(study.environment.tasks["choice"], "0" * 64))
    with pytest.raises(StudyError, match=r"task is not what the study was scored on \(task choice\)"):
        write_prompts(StudyView(study.folder.path))
    assert prompts_of(study.folder, "choice", [0]) is None


def test_a_task_folder_that_is_gone(study):
    study.config["suite"]["include_path"] = ["/nowhere"]
    with pytest.raises(SuiteError, match="task folder is missing"):
        write_prompts(study)


def test_a_damaged_file_is_told(study):
    prompts_path(study.folder).write_bytes(b"torn")
    with pytest.raises(StudyError, match="prompts cannot be read"):
        prompts_of(study.folder, "choice", [0])
