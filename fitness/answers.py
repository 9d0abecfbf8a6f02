"""Answers: what a task's documents say is right, as continuations to be read off a model, and what a model said."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, Template
from jinja2.filters import do_trim
from lm_eval import utils as lm_eval_utils
from lm_eval.api.utils import ends_with_whitespace

from fitness.requests import LanguageModel, Request, read
from fitness.tasks import LoadedTask, as_suite_error

LONGEST = 2_000  # characters of a model's answer that are kept


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


def given_answer(task: LoadedTask, requests: Sequence[Request]) -> str | None:
    """What a model answered: the text that it generated, or the option that the metric takes for its choice.

    Args:
        task: the task.
        requests: all of one document, in lm-eval's order, with their responses.

    Returns:
        The first of several generations, before any filter, and of a long one its two ends, LONGEST characters with
        "…" between them; None where only the likelihood of a given text is read.
    """
    options = requests[0].options
    if options and len(requests) in (len(options), 2 * len(options)):
        answer = _choice(task.spec.metric, options, requests)
    elif requests[0].instance.request_type == "generate_until":
        answer = str(requests[0].instance.resps[0])
    else:
        return None
    if len(answer) > LONGEST:
        ending = LONGEST // 2  # where a chain of thought comes to its result
        answer = f"{answer[: LONGEST - ending - 1]}…{answer[-ending:]}"
    return answer.encode(errors="replace").decode()  # half a surrogate pair cannot be written to a file


def _choice(metric: str, options: Sequence[str], requests: Sequence[Request]) -> str:
    """The option that is right if the metric counts the document: lm-eval divides log-likelihoods by lengths, or
    subtracts those without the question, whose requests follow. For any other metric it is the likeliest option.
    """
    values = [request.instance.resps[0][0] for request in requests]
    if metric in ("acc_norm", "acc_bytes"):
        lengths = [len(option if metric == "acc_norm" else option.encode()) for option in options]
        values = [value / length if length else -math.inf for value, length in zip(values, lengths, strict=False)]
    elif metric == "acc_mutual_info" and len(values) > len(options):
        values = [value - bare for value, bare in zip(values, values[len(options) :], strict=False)]
    return options[max(range(len(options)), key=values.__getitem__)]


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
    if answer is None or (str(answer).strip() == "None" and _is_null(task.config.doc_to_target, document)):
        return ""
    return str(answer)


def _is_null(template: Any, document: Any) -> bool:
    """Whether a template says nothing but "None", as lm-eval renders what is null."""
    return isinstance(template, str) and not _without_null(template).render(**document).strip()


def _text(value: Any) -> Any:
    return "" if value is None else value


@cache
def _without_null(template: str) -> Template:
    env = lm_eval_utils.env.overlay(finalize=_text)
    env.filters = env.filters | {"trim": lambda value, *options: do_trim(_text(value), *options)}
    # its own method is the one of lm-eval's, which `fitness.tasks` has replaced
    return Environment.from_string(env, template)


def _delimiter(task: Any, chat: bool) -> str:
    """What stands between a prompt and its answer in lm-eval's own examples."""
    prefix = task.config.gen_prefix
    if chat and not (prefix and not ends_with_whitespace(prefix)):
        return ""
    return str(task.config.target_delimiter)
