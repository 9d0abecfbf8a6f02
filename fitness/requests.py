"""Requests: lm-eval's prompts as token ids, truncated and split as lm-eval would, made once per tokenizer."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from fitness.errors import SuiteError
from fitness.generation import Prompt
from fitness.items import Split
from fitness.likelihood import Read
from fitness.tasks import LoadedTask, as_suite_error, no_bars

log = logging.getLogger(__name__)

# what a model's own generation_config may say without changing which token is likeliest
_HARMLESS = {
    "_from_model_config",
    "bos_token_id",
    "do_sample",
    "eos_token_id",
    "max_length",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "temperature",
    "top_k",
    "top_p",
    "transformers_version",
    "use_cache",
}


class LanguageModel(HFLM):  # type: ignore[misc]
    """lm-eval's Hugging Face model: here it makes token ids, and generates where it draws from a distribution."""

    def __init__(self, model: torch.nn.Module, tokenizer: Any, batch_size: int, max_length: int | None) -> None:
        super().__init__(model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length)
        self._encodings: dict[Any, list[int]] = {}
        self._batches: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    def swap(self, model: torch.nn.Module) -> None:
        """Go on with another model that shares the tokenizer."""
        self._model, self._device, self._config = model, model.device, model.config

    @property
    def eos(self) -> frozenset[int]:
        """The tokens that end a generation."""
        own = self.model.generation_config.eos_token_id
        return frozenset([self.eot_token_id, *(own if isinstance(own, list) else [own])]) - {None}

    @property
    def generates_plainly(self) -> bool:
        """Whether greedy generation takes the likeliest token, whatever else the model's generation_config says."""
        own = self.model.generation_config.to_diff_dict()
        return {key for key, value in own.items() if value is not None} <= _HARMLESS

    def tok_encode(  # noqa: D102
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        key = (string, add_special_tokens, left_truncate_len)
        if key not in self._encodings:
            self._encodings[key] = super().tok_encode(string, add_special_tokens, left_truncate_len, **kwargs)
        return self._encodings[key]

    def tok_batch_encode(  # noqa: D102
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        key = (tuple(strings), padding_side, left_truncate_len, truncation)
        if key not in self._batches:
            self._batches[key] = super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)
        return self._batches[key]

    def _loglikelihood_tokens(self, requests: Any, disable_tqdm: bool = True, override_bs: int | None = None) -> Any:
        """What `loglikelihood` would read: (texts, context ids, continuation ids) for each request."""
        return requests


@dataclass(frozen=True)
class Request:
    """One of lm-eval's requests as token ids.

    Attributes:
        instance: lm-eval's own.
        reads: the parts of a log-likelihood, which add up.
        prompt: what is to be continued greedily. With neither it is lm-eval that generates.
        options: of a question of choices, at the first of its requests.
    """

    instance: Instance
    reads: tuple[Read, ...] = ()
    prompt: Prompt | None = None
    options: tuple[str, ...] = ()


def build(lm: LanguageModel, task: LoadedTask, split: Split, chat: bool, span: float) -> list[Request]:
    """The requests of one split. They are built per split because few-shot examples are drawn in sequence.

    Args:
        lm: the tokenizer and the model's limits.
        task: the task.
        split: which of its documents.
        chat: whether prompts are rendered with the chat template.
        span: the longest sequence that may be generated here; longer ones are left to lm-eval.

    Raises:
        SuiteError: the split is empty, prompts cannot be built, or there is no room for them.
    """
    where = f"task {task.spec.name}"
    ids = task.documents[split]
    if not ids:
        raise SuiteError("split is empty", where=where, expected=f"{split} documents", remedy="change holdout.fraction")
    task.task.set_fewshot_seed(DEFAULT_OTHER_SEED)
    with no_bars(), as_suite_error("prompts cannot be built", where):
        task.task.build_all_requests(
            samples=set(ids),  # a list would be searched once per document
            apply_chat_template=chat,
            fewshot_as_multiturn=True,
            chat_template=lm.apply_chat_template if chat else None,
            tokenizer_name=lm.tokenizer_name if chat else "",
        )
        instances: list[Instance] = task.task.instances
        kinds: dict[str, Callable[[LanguageModel, Instance, str], tuple[Request, bool]]] = {
            "loglikelihood": _loglikelihood,
            "loglikelihood_rolling": _rolling,
            "generate_until": lambda lm, instance, where: _generation(lm, instance, where, span),
        }
        made = [kinds[instance.request_type](lm, instance, where) for instance in instances]
        requests = [_with_options(task.task, request) for request, _ in made]
    cut = sum(too_long for _, too_long in made)
    if cut:
        log.warning("%s: %d of %d prompts are too long and lose their beginning", where, cut, len(made))
    return requests


def _with_options(task: Any, request: Request) -> Request:
    # a task file without doc_to_choice has code of its own that makes its requests
    chooses = task.OUTPUT_TYPE == "multiple_choice" and task.config.doc_to_choice is not None
    if not chooses or request.instance.idx > 0:
        return request
    return replace(request, options=tuple(map(str, task.doc_to_choice(request.instance.doc))))


def read(lm: LanguageModel, context: str, continuation: str, where: str) -> tuple[Read, bool]:
    """The tokens of a continuation and its context, and whether the context had to be cut.

    Raises:
        SuiteError: the continuation has no tokens, or more than the model can take.
    """
    [(_, before, after)] = lm.loglikelihood([Instance("loglikelihood", {}, (context, continuation), 0)], True)
    if not 0 < len(after) <= lm.max_length:
        raise SuiteError(
            "answer cannot be read",
            where=where,
            expected=f"1 to {lm.max_length} tokens",
            found=f"{len(after)} in {continuation!r}",
        )
    return _window(lm, before, after), len(before) + len(after) > lm.max_length + 1


def _window(lm: LanguageModel, before: Sequence[int], after: Sequence[int]) -> Read:
    return Read(tuple([*before, *after][-(lm.max_length + 1) :][:-1]), tuple(after))


def _loglikelihood(lm: LanguageModel, instance: Instance, where: str) -> tuple[Request, bool]:
    context, continuation = instance.args[:2]
    found, cut = read(lm, context, continuation, where)
    return Request(instance, (found,)), cut


def _rolling(lm: LanguageModel, instance: Instance, _where: str) -> tuple[Request, bool]:
    windows = get_rolling_token_windows(
        token_list=lm.tok_encode(instance.args[0]),
        prefix_token=lm.prefix_token_id,
        max_seq_len=lm.max_length,
        context_len=1,
    )
    return Request(instance, tuple(_window(lm, *make_disjoint_window(window)) for window in windows)), False


def _generation(lm: LanguageModel, instance: Instance, where: str, span: float) -> tuple[Request, bool]:
    text, options = instance.args[:2]
    options = dict(normalize_gen_kwargs(options, lm.max_gen_toks))
    most = options.pop("max_gen_toks")
    if most >= lm.max_length:
        raise SuiteError(
            "no room for a prompt",
            where=where,
            expected=f"max_gen_toks below the model's {lm.max_length} tokens",
            found=most,
            remedy="set max_gen_toks in the task's generation_kwargs",
        )
    room = lm.max_length - most
    tokens = lm.tok_batch_encode([text])[0][0].tolist()
    until = handle_stop_sequences(options.pop("until"), lm.tok_decode(lm.eot_token_id, skip_special_tokens=False))
    draws, temperature = options.pop("do_sample"), options.pop("temperature", 0.0)
    greedy = not draws and not temperature and not options and most > 0 and "" not in until and lm.generates_plainly
    fits = bool(tokens) and min(len(tokens), room) + most <= span
    prompt = Prompt(tuple(tokens[-room:]), tuple(until), most) if greedy and fits else None
    return Request(instance, prompt=prompt), len(tokens) > room
