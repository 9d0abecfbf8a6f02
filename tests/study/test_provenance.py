import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from evomerge.errors import StudyError, exit_code
from evomerge.study import Environment, describe_environment


@dataclass(frozen=True)
class Model:
    content: str
    licence: str | None = None

    def digest(self) -> str:
        return self.content


def test_the_environment_says_what_ran(tmp_path: Path):
    environment = describe_environment(
        {"org/base": Model("aa", "mit"), "org/b@v1+org/lora": Model("bb")}, {"refunds": "cc"}
    )
    assert environment.python == platform.python_version()
    assert environment.packages["optuna"] == version("optuna")
    assert [(model.ref, model.digest, model.licence) for model in environment.models] == [
        ("org/base", "aa", "mit"),
        ("org/b@v1+org/lora", "bb", None),
    ]
    assert environment.tasks == {"refunds": "cc"}
    path = tmp_path / "environment.json"
    path.write_text(environment.model_dump_json())
    assert Environment.read(path) == environment


def test_a_model_that_changed_is_refused():
    then = describe_environment({"org/base": Model("a" * 64), "org/b": Model("b" * 64)}, {})
    then.require_same_inputs(describe_environment({"org/b": Model("b" * 64), "org/base": Model("a" * 64)}, {}))
    with pytest.raises(
        StudyError, match=r"a model has changed.*\(org/b\): expected digest bbbbbbbbbbbb, found c"
    ) as no:
        then.require_same_inputs(describe_environment({"org/base": Model("a" * 64), "org/b": Model("c" * 64)}, {}))
    assert exit_code(no.value) == 5


def test_a_task_that_changed_is_refused(tmp_path: Path):
    then = describe_environment({}, {"refunds": "a" * 64, "shipping": "b" * 64})
    then.require_same_inputs(describe_environment({}, {"shipping": "b" * 64, "refunds": "a" * 64}))
    with pytest.raises(
        StudyError,
        match=r"the documents of a task have changed.*\(task refunds\): expected digest aaaaaaaaaaaa, found c",
    ):
        then.require_same_inputs(describe_environment({}, {"refunds": "c" * 64, "shipping": "b" * 64}))
    # a study that was begun before digests of tasks and tokens were kept
    older = tmp_path / "environment.json"
    older.write_text('{"python": "3.11.9", "platform": "Linux", "packages": {}, "models": []}')
    Environment.read(older).require_same_inputs(then)


def test_code_of_a_task_that_changed_is_refused():
    then = describe_environment({}, {"refunds": "a" * 64}, code={"refunds": "b" * 64})
    then.require_same_inputs(then)
    with pytest.raises(
        StudyError,
        match=r"the code of a task, or a file beside it, has changed.*\(task refunds\): expected digest bbbbbbbbbbbb",
    ):
        then.require_same_inputs(describe_environment({}, {"refunds": "a" * 64}, code={"refunds": "c" * 64}))
    older = describe_environment({}, {"refunds": "a" * 64})  # which kept no digest of code
    older.require_same_inputs(then)


def test_a_tokenizer_that_changed_is_refused():
    then = describe_environment({}, {}, "a" * 64)
    then.require_same_inputs(describe_environment({}, {}, "a" * 64))
    with pytest.raises(
        StudyError, match=r"the tokenizer of the merged models has changed.*digest aaaaaaaaaaaa, found b"
    ):
        then.require_same_inputs(describe_environment({}, {}, "b" * 64))


def test_versions_that_changed_are_told():
    then = Environment(python="3.11.1", platform="Linux", packages={"torch": "2.12", "cma": "4.4"}, models=())
    now = Environment(python="3.11.1", platform="Linux", packages={"torch": "2.13", "optuna": "5.0"}, models=())
    assert then.differences(now) == ["torch: 2.12 -> 2.13", "cma: 4.4 -> None", "optuna: None -> 5.0"]
    assert then.differences(then) == []
