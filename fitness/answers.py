"""Reference answers: what a task's documents say is right, as continuations to be read off a model."""

from typing import Any

from lm_eval.api.utils import ends_with_whitespace

from fitness.requests import LanguageModel, Request, read
from fitness.tasks import LoadedTask, as_suite_error


def references(lm: LanguageModel, task: LoadedTask, requests: list[Request], chat: bool) -> dict[int, Request]:
    """The request that reads the log-likelihood of each document's reference answer.

    Log-likelihood tasks ask for it anyway; among the options of a question it is the right one, the first of several;
    for a generation it is the answer after its prompt, the first of several.

    Args:
        lm: the tokenizer and the model's limits.
        task: the task.
        requests: its requests, of any of its documents.
        chat: whether prompts were rendered with the chat template.

    Returns:
        place of the document in its split -> request; documents without a reference are left out.

    Raises:
        SuiteError: the task's templates fail.
    """
    where = f"task {task.spec.name}"
    found: dict[int, Request] = {}
    with as_suite_error("reference answers cannot be built", where):
        for request in requests:
            instance = request.instance
            if task.task.OUTPUT_TYPE == "multiple_choice":
                if instance.idx == gold_option(task.task, instance.doc):
                    found[instance.doc_id] = request
            elif instance.request_type != "generate_until":
                found[instance.doc_id] = request
            elif answer := gold_answer(task.task, instance.doc):
                continuation = _delimiter(task.task, chat) + answer
                found[instance.doc_id] = Request(instance, (read(lm, instance.args[0], continuation, where)[0],))
    return {place: request for place, request in found.items() if request.reads}


def _first(value: Any) -> Any:
    return next(iter(value), None) if isinstance(value, (list, tuple)) else value


def gold_option(task: Any, document: Any) -> int | None:
    """The index of the right option."""
    gold = _first(task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document))
    if isinstance(gold, str):
        options = task.doc_to_choice(document)
        return options.index(gold) if gold in options else None
    return gold if isinstance(gold, int) else None


def gold_answer(task: Any, document: Any) -> str:
    """The right answer's text; empty if there is none."""
    answer = _first(task.doc_to_target(document))
    if isinstance(answer, int) and task.config.doc_to_choice is not None:
        answer = task.doc_to_choice(document)[answer]
    return "" if answer is None else str(answer)


def _delimiter(task: Any, chat: bool) -> str:
    """What stands between a prompt and its answer in lm-eval's own examples."""
    prefix = task.config.gen_prefix
    if chat and not (prefix and not ends_with_whitespace(prefix)):
        return ""
    return str(task.config.target_delimiter)
