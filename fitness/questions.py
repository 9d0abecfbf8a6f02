"""Questions: the documents of a suite as a person reads them. No model is needed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fitness.answers import gold_answer, gold_option
from fitness.suite import SuiteConfig
from fitness.tasks import LoadedTask, as_suite_error, load_tasks, no_bars, quiet


@dataclass(frozen=True)
class Question:
    """A document as text.

    Attributes:
        prompt: what is asked, without few-shot examples; empty for a text whose likelihood is measured as a whole.
        target: the reference answer, or that text.
        options: to choose among; empty unless it is a question of choices.
    """

    prompt: str
    target: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class TaskQuestions:
    """The documents of a task.

    Attributes:
        name: the task.
        digest: of all that its scores depend on but the model.
        documents: id -> question, of dev and holdout.
    """

    name: str
    digest: str
    documents: Mapping[int, Question]


def questions(suite: SuiteConfig) -> list[TaskQuestions]:
    """All documents of a suite, by task, in its order.

    Raises:
        SuiteError: a task cannot be loaded, or its templates fail.
    """
    with quiet(), no_bars():
        return [_questions(task) for task in load_tasks(suite)]


def _questions(task: LoadedTask) -> TaskQuestions:
    with as_suite_error("prompts cannot be built", f"task {task.spec.name}"):
        documents = {number: _question(task.task, document) for number, document in enumerate(task.task.eval_docs)}
    return TaskQuestions(task.spec.name, task.digest, documents)


def _question(task: Any, document: Any) -> Question:
    kind = task.OUTPUT_TYPE
    if kind == "loglikelihood_rolling":
        return Question("", gold_answer(task, document))
    if kind != "multiple_choice":
        return Question(str(task.doc_to_text(document)), gold_answer(task, document))
    options = tuple(map(str, task.doc_to_choice(document)))
    right = gold_option(task, document)
    target = options[right] if right is not None and 0 <= right < len(options) else ""
    # with several inputs the options are beginnings, and all go on alike
    asked = task.doc_to_target(document) if task.multiple_input else task.doc_to_text(document)
    return Question(str(asked), target, options)
