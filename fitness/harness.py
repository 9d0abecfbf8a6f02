"""The harness: lm-eval tasks, loaded and tokenized once, then scored on a live model as often as its weights change.

`lm_eval.simple_evaluate` does for every call what a search needs once: it collects facts about the environment,
renders and tokenizes every prompt, and reseeds the global generators. Here only the forward passes, the task's filters,
`process_results` and aggregation run per candidate, all of them lm-eval's own code, so that scores agree with
`simple_evaluate(samples={task: ids})` one by one.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs

from fitness.errors import ScoringError, SuiteError
from fitness.items import Scores, Split, TaskScores
from fitness.suite import SuiteConfig
from fitness.tasks import LoadedTask, as_suite_error, load_tasks, no_bars, quiet

log = logging.getLogger(__name__)


class _MemoizedLM(HFLM):  # type: ignore[misc]
    """lm-eval's Hugging Face model with its token ids remembered and its progress bars off."""

    def __init__(self, model: torch.nn.Module, tokenizer: Any, batch_size: int, max_length: int | None) -> None:
        super().__init__(model, tokenizer=tokenizer, batch_size=batch_size, max_length=max_length)
        self._encodings: dict[Any, list[int]] = {}
        self._batches: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}

    def swap(self, model: torch.nn.Module) -> None:
        """Score another model that shares the tokenizer."""
        self._model, self._device, self._config = model, model.device, model.config

    def tok_encode(
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

    def tok_batch_encode(
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
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)


class Harness:
    """Scores a live model on a suite.

    Args:
        suite: the tasks, their metrics and the split of their documents.

    Attributes:
        directions: task -> whether a higher score is better.
        documents: task -> split -> document ids, ascending.
        digests: task -> sha256 of all that its scores depend on but the model: documents, few-shot examples, task file,
            metric and filter. The code of a task's own functions is no part of it.
        benchmarks: the public benchmarks that the suite is scored on, each as "task: data set (split)"; empty unless
            the suite allows them. Reports must name them.

    Raises:
        SuiteError: a task, metric or filter does not exist, a task file or its data cannot be read, a split is empty,
            or a public benchmark is used without leave.
    """

    def __init__(self, suite: SuiteConfig) -> None:
        self.suite = suite
        with quiet(), no_bars():
            self._tasks = load_tasks(suite)
        self.directions = {task.spec.name: task.higher_is_better for task in self._tasks}
        self.documents = {task.spec.name: task.documents for task in self._tasks}
        self.digests = {task.spec.name: task.digest for task in self._tasks}
        self.benchmarks = tuple(f"{task.spec.name}: {task.benchmark}" for task in self._tasks if task.benchmark)
        self._lm: _MemoizedLM | None = None
        self._requests: dict[tuple[str, Split], list[Instance]] = {}

    def bind(self, model: torch.nn.Module, tokenizer: Any) -> None:
        """Choose the model that is scored from now on; its weights may then change in place.

        Prompts and token ids are kept as long as the tokenizer is the same object.

        Args:
            model: a transformers causal language model, in eval mode, on its device.
            tokenizer: its tokenizer; one without a padding token is given one, as lm-eval does.

        Raises:
            SuiteError: the suite applies a chat template that the tokenizer does not have.
        """
        if self._lm is not None and self._lm.tokenizer is tokenizer:
            self._lm.swap(model)
            return
        self.check_template(tokenizer)
        with quiet():
            self._lm = _MemoizedLM(model, tokenizer, self.suite.batch_size, self.suite.max_length)
        self._requests.clear()

    def check_template(self, tokenizer: Any) -> None:
        """Raise SuiteError if the suite applies a chat template that the tokenizer does not have."""
        if self.suite.apply_chat_template and not tokenizer.chat_template:
            raise SuiteError(
                "tokenizer has no chat template",
                where=f"suite.apply_chat_template, {tokenizer.name_or_path}",
                remedy="set apply_chat_template to false",
            )

    def score(self, split: Split) -> Scores:
        """Score the bound model as it is now.

        No global random state is touched: a task that samples draws from the same seed for every candidate, and the
        generators are put back afterwards.

        Args:
            split: the documents: `dev`, `holdout` or `all`.

        Returns:
            task -> its scores, in the suite's order.

        Raises:
            RuntimeError: no model is bound.
            ScoringError: the logits or a score are not finite.
            SuiteError: a task's prompts cannot be built, or it has no documents in this split.
        """
        lm = self._lm
        if lm is None:
            raise RuntimeError("no model is bound: call bind first")
        with quiet():
            requests = [self._instances(lm, task, split) for task in self._tasks]
            _answer(lm, [instance for instances in requests for instance in instances])
            return {
                task.spec.name: _score(task, split, instances)
                for task, instances in zip(self._tasks, requests, strict=True)
            }

    def _instances(self, lm: _MemoizedLM, task: LoadedTask, split: Split) -> list[Instance]:
        """The requests of one split. They are built per split because few-shot examples are drawn in sequence."""
        key = (task.spec.name, split)
        if key not in self._requests:
            ids = task.documents[split]
            if not ids:
                raise SuiteError(
                    "split is empty",
                    where=f"task {task.spec.name}",
                    expected=f"{split} documents",
                    remedy="change holdout.fraction",
                )
            template = self.suite.apply_chat_template
            task.task.set_fewshot_seed(DEFAULT_OTHER_SEED)
            with no_bars(), as_suite_error("prompts cannot be built", f"task {task.spec.name}"):
                task.task.build_all_requests(
                    samples=set(ids),  # a list would be searched once per document
                    apply_chat_template=template,
                    fewshot_as_multiturn=True,
                    chat_template=lm.apply_chat_template if template else None,
                    tokenizer_name=lm.tokenizer_name if template else "",
                )
            self._requests[key] = task.task.instances
            _check_lengths(lm, task.spec.name, task.task.instances)
        return self._requests[key]


def _check_lengths(lm: _MemoizedLM, name: str, instances: list[Instance]) -> None:
    """Warn when prompts do not fit; tokenizes all of them on the way."""
    cut = 0
    for instance in instances:
        if instance.request_type == "generate_until":
            prompt, options = instance.args[:2]
            answer = normalize_gen_kwargs(options, lm.max_gen_toks)["max_gen_toks"]
            if answer >= lm.max_length:
                raise SuiteError(
                    "no room for a prompt",
                    where=f"task {name}",
                    expected=f"max_gen_toks below the model's {lm.max_length} tokens",
                    found=answer,
                    remedy="set max_gen_toks in the task's generation_kwargs",
                )
            cut += len(lm.tok_encode(prompt)) > lm.max_length - answer
        elif instance.request_type == "loglikelihood":
            cut += len(lm.tok_encode("".join(instance.args[:2]))) > lm.max_length + 1
    if cut:
        log.warning("task %s: %d of %d prompts are too long and lose their beginning", name, cut, len(instances))


def _answer(lm: _MemoizedLM, instances: list[Instance]) -> None:
    """Run all requests through the model, those of one kind together as lm-eval does."""
    by_kind: dict[str, list[Instance]] = {}
    for instance in instances:
        instance.resps, instance.filtered_resps = [], {}
        by_kind.setdefault(instance.request_type, []).extend([instance] * (instance.repeats or 1))
    options = [instance.args[1] for instance in by_kind.get("generate_until", [])]
    samples = any(option.get("do_sample") or option.get("temperature") for option in options)
    with _finite_logits(lm.model), _fixed_draws(lm.device) if samples else contextlib.nullcontext():
        for kind, requests in by_kind.items():
            for response, request in zip(getattr(lm, kind)(requests, disable_tqdm=True), requests, strict=True):
                request.resps.append(response)


def _score(task: LoadedTask, split: Split, instances: list[Instance]) -> TaskScores:
    name, metric = task.spec.name, task.spec.metric
    task.filter.apply(instances)
    by_document: dict[int, list[Instance]] = {}
    for instance in instances:
        by_document.setdefault(instance.doc_id, []).append(instance)
    raw: dict[int, Any] = {}
    for position, requests in by_document.items():
        requests.sort(key=lambda request: request.idx)
        results = [request.filtered_resps[task.filter.name] for request in requests]
        metrics = task.task.process_results(requests[0].doc, results)
        if metric in metrics:
            raw[task.documents[split][position]] = metrics[metric]
    try:
        score = float(task.aggregate(list(raw.values())))
        values = tuple(_item_value(value, task.aggregate) for value in raw.values())
    except (ArithmeticError, ValueError) as error:
        raise ScoringError("metric has no value", where=f"task {name}: {metric}", found=error) from error
    if not (math.isfinite(score) and all(map(math.isfinite, values))):
        raise ScoringError("score is not finite", where=f"task {name}: {metric}", found=score)
    return TaskScores(name, metric, tuple(raw), values, score, task.higher_is_better)


def _item_value(value: Any, aggregate: Callable[[list[Any]], float]) -> float:
    """One number for one document's metric, which lm-eval may keep as a tuple until it aggregates."""
    match value:
        case Real():
            return float(value)
        case (Integral() as gold, Integral() as predicted):
            return float(gold == predicted)
        case (Real() as loglikelihood, Integral()):
            return float(loglikelihood)
        case _:
            return float(aggregate([value]))


@contextlib.contextmanager
def _finite_logits(model: torch.nn.Module) -> Iterator[None]:
    """Stop at the first forward pass with NaN or Inf: an all-NaN model would else score like a guess."""

    def check(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        if not torch.stack(torch.aminmax(output.logits.detach())).isfinite().all():
            raise ScoringError("logits are not finite", expected="numbers", found="NaN or Inf")

    handle = model.register_forward_hook(check)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _fixed_draws(device: torch.device) -> Iterator[None]:
    """Sampled generations draw the same numbers for every candidate, the ones that lm-eval would draw."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
        torch.manual_seed(DEFAULT_OTHER_SEED)
        yield
