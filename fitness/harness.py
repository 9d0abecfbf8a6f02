"""The harness: lm-eval tasks, loaded and tokenized once, then scored on a live model as often as its weights change.

`lm_eval.simple_evaluate` does for every call what a search needs once: it collects facts about the environment,
renders and tokenizes every prompt, makes batches, and reseeds the global generators. Here only forward passes run per
candidate, and lm-eval's own filters, `process_results` and aggregation, so that scores agree with
`simple_evaluate(samples={task: ids})` one by one.

What holds of a score:

- Equal weights on equal hardware give equal scores, bit for bit, whatever was scored before. Running out of memory is
  the one exception: from then on batches are smaller, and log-likelihoods may differ in their last bits.
- A log-likelihood depends on what else is scored with it, and differs from lm-eval's, by the rounding of the model's
  dtype, since batches and shared prefixes set the order of its sums. So metrics that count (accuracy, exact match)
  agree but where two options, or two tokens, tie within that rounding.
- A generation that is drawn (`do_sample`) depends on what is drawn before it and on its batch. It is lm-eval's own for
  a whole split; after running out of memory, that of lm-eval with the smaller batch.
"""

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, TypeVar

import torch
from lm_eval.api.registry import get_aggregation

from fitness.aggregation import Aggregation
from fitness.answers import given_answer, references
from fitness.batches import batch_size
from fitness.confidence import Range
from fitness.errors import ScoringError, SuiteError
from fitness.estimates import presumed_range, range_advice, score_interval, wants_range
from fitness.generation import Endings
from fitness.items import Scores, Split, TaskScores
from fitness.jackknife import left_out
from fitness.likelihood import Likelihoods
from fitness.network import Network, empty_cache, is_out_of_memory
from fitness.plan import Plan
from fitness.requests import LanguageModel, Request, build
from fitness.suite import SuiteConfig
from fitness.tasks import LoadedTask, load_tasks, no_bars, quiet

Items = Mapping[str, Sequence[int]]  # task -> document ids

log = logging.getLogger(__name__)

LIKELIHOOD = "log-likelihood per token"

_PLANS = 16  # item sets whose batches are kept: a race uses a few per split
_DRAWN_ROWS = 16  # rows per batch where lm-eval draws and the suite leaves the size to us
# aggregations of values that each document has for itself; with nanmean any may turn out to have none
_BY_ITEM = ("mean", "median", "perplexity", "weighted_perplexity", "bits_per_byte", "brier_score")
_MEANS = ("mean", "nanmean")
_ROUNDING = 1e-6  # of a stated range, by which a value in single precision may leave it

AnyPlan = TypeVar("AnyPlan", Plan, Likelihoods)
Result = TypeVar("Result")


class Harness:
    """Scores a live model on a suite.

    Args:
        suite: the tasks, their metrics and the split of their documents.

    Attributes:
        directions: task -> whether a higher score is better.
        documents: task -> split -> document ids, ascending.
        orders: task -> dev document ids, in the order in which candidates race over them.
        digests: task -> sha256 of all that its scores depend on but the model and the task's code: documents, few-shot
            examples, task file, metric and filter.
        code: task -> the code of its own functions and the files that they may read; only tasks with such functions.
        benchmarks: the public benchmarks that the suite is scored on, each as "task: data set (split)"; empty unless
            the suite allows them. Reports must name them.
        raceable: task -> whether each document has a value of its own, so that some documents tell of the others; not
            so for metrics such as corpus BLEU or F1, nor for means that leave documents out, nor for a task file's own
            aggregation, of which nothing is known.
        additive: task -> whether its score is the mean of these values.

    Raises:
        SuiteError: a task, metric or filter does not exist, a task file or its data cannot be read, a split is empty,
            or a public benchmark is used without leave.
    """

    def __init__(self, suite: SuiteConfig) -> None:
        self.suite = suite
        with quiet(), no_bars():
            self._tasks = load_tasks(suite)
        by_item = [get_aggregation(name) for name in _BY_ITEM]
        self.directions = {task.spec.name: task.higher_is_better for task in self._tasks}
        self.documents = {task.spec.name: task.documents for task in self._tasks}
        self.orders = {task.spec.name: task.order for task in self._tasks}
        self.digests = {task.spec.name: task.digest for task in self._tasks}
        self.code = {task.spec.name: task.code for task in self._tasks if task.code is not None}
        self.raceable = {task.spec.name: task.aggregate in by_item for task in self._tasks}
        self.additive = {task.spec.name: task.aggregate is get_aggregation("mean") for task in self._tasks}
        self.benchmarks = tuple(f"{task.spec.name}: {task.benchmark}" for task in self._tasks if task.benchmark)
        self._lm: LanguageModel | None = None
        self._divided = 1  # see `BatchSize`
        self._limits: tuple[Any, ...] = ()  # all that requests and batches depend on but the tokenizer
        self._forget()

    def bind(self, model: torch.nn.Module, tokenizer: Any) -> None:
        """Choose the model that is scored from now on; its weights may then change in place.

        Prompts and token ids are kept as long as the tokenizer is the same object, and batches as long as the model has
        the same limits.

        Args:
            model: a transformers causal language model, in eval mode, on its device.
            tokenizer: its tokenizer; one without a padding token is given one, as lm-eval does.

        Raises:
            SuiteError: the suite applies a chat template that the tokenizer does not have.
        """
        if self._lm is None or self._lm.tokenizer is not tokenizer:
            self.check_template(tokenizer)
            rows = self.suite.batch_size if isinstance(self.suite.batch_size, int) else _DRAWN_ROWS
            if self._lm is not None:  # it may have run out of memory
                rows = self._lm.batch_size
            with quiet():
                self._lm = LanguageModel(model, tokenizer, rows, self.suite.max_length)
            self._forget()
        self._lm.swap(model)
        self._network = Network(model)
        size = batch_size(self.suite.batch_size, model)
        limits = (self._lm.max_length, self._lm.eos, self._lm.generates_plainly, self._network.span, model.device, size)
        if limits != self._limits:
            self._forget()
            self._limits, self._size = limits, replace(size, divided=self._divided)
            self._endings = Endings(tokenizer, self._lm.eos)

    def _forget(self) -> None:
        self._limits = ()
        self._requests: dict[tuple[str, Split], list[Request]] = {}
        self._references: dict[tuple[str, Split], dict[int, Request]] = {}
        self._plans: dict[Any, Any] = {}

    def check_template(self, tokenizer: Any) -> None:
        """Raise SuiteError if the suite applies a chat template that the tokenizer does not have."""
        if self.suite.apply_chat_template and not tokenizer.chat_template:
            raise SuiteError(
                "tokenizer has no chat template",
                where=f"suite.apply_chat_template, {tokenizer.name_or_path}",
                remedy="set apply_chat_template to false",
            )

    def score(self, split: Split, *, items: Items | None = None) -> Scores:
        """Score the bound model as it is now.

        No global random state is touched: a task that samples draws from the same seed for every candidate, and the
        generators are put back afterwards.

        Args:
            split: the documents: `dev`, `holdout` or `all`.
            items: task -> which of them; tasks that it does not name are left out. None is all of them. A document has
                the same prompt as in its whole split.

        Returns:
            task -> its scores over these documents, in the suite's order.

        Raises:
            RuntimeError: no model is bound.
            ScoringError: the logits or a score are not finite, or a score is out of the range that the suite states.
            SuiteError: a task's prompts cannot be built, or it has no documents in this split.
            ValueError: an item is no document of the split.
        """
        lm = self._bound()
        with quiet():
            chosen = self._chosen(lm, split, items)
            everything = [request for requests in chosen.values() for request in requests]
            answers = iter(
                self._run(
                    ("metric", split, _key(items)),
                    lambda: Plan(everything, self._network, self._size),
                    lambda plan: plan.answers(self._network, lm, self._endings),
                )
            )
            for request in everything:
                request.instance.resps, request.instance.filtered_resps = next(answers), {}
            return {
                task.spec.name: _score(task, split, chosen[task.spec.name])
                for task in self._tasks
                if task.spec.name in chosen
            }

    def likelihood(self, split: Split, *, items: Items | None = None) -> Scores:
        """Read how likely the bound model finds the reference answers, all tokens of each in one pass.

        For a task that generates this costs far less than generating, and it tells apart models that the metric cannot.

        Args:
            split: the documents: `dev`, `holdout` or `all`.
            items: as in `score`.

        Returns:
            task -> for each document with a reference answer the mean log-likelihood of its tokens in nats, and as
            score the mean over documents; tasks without reference answers are left out.

        Raises:
            RuntimeError: no model is bound.
            ScoringError: the logits or a score are not finite.
            SuiteError: as `score`, or a task's reference answers cannot be built.
            ValueError: an item is no document of the split.
        """
        lm = self._bound()
        with quiet():
            asked: dict[str, dict[int, Request]] = {}
            for task in self._tasks:
                if items is None or task.spec.name in items:
                    found = self._answers_of(lm, task, split)
                    wanted = set(self._wanted(task, split, items))
                    asked[task.spec.name] = {
                        document: request for document, request in found.items() if document in wanted
                    }
            reads = [read for task in asked.values() for request in task.values() for read in request.reads]
            values = iter(
                self._run(
                    ("references", split, _key(items)),
                    lambda: Likelihoods(reads, self._network, self._size),
                    lambda plan: plan.run(self._network),
                )
            )
        scores = {}
        for name, found in asked.items():
            each = tuple(
                sum(next(values)[0] for _ in request.reads) / sum(len(read.targets) for read in request.reads)
                for request in found.values()
            )
            if each:
                scores[name] = _checked(TaskScores(name, LIKELIHOOD, tuple(found), each, sum(each) / len(each), True))
        return scores

    def bare_seconds(self, split: Split) -> float:
        """Score a split once more and say how long the model itself took: its forward passes and nothing else.

        Raises:
            As `score`.
        """
        self._bound()
        with self._network.timed() as seconds:
            self.score(split)
        return math.fsum(seconds)

    def _bound(self) -> LanguageModel:
        if self._lm is None:
            raise RuntimeError("no model is bound: call bind first")
        return self._lm

    def _run(self, key: Any, build: Callable[[], AnyPlan], run: Callable[[AnyPlan], Result]) -> Result:
        """Run a plan that is kept; after running out of memory, with batches half as large, for good."""
        while True:
            plan = self._plans.pop(key, None) or build()
            self._plans[key] = plan
            if len(self._plans) > _PLANS:
                del self._plans[next(iter(self._plans))]
            try:
                return run(plan)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or plan.widest < 2:
                    raise
            self._size = self._size.halved()
            self._divided = self._size.divided
            self._plans.clear()
            del plan
            empty_cache(self._network.device)
            log.warning("out of memory: batches of 1/%d of their size from now on", self._divided)

    def _chosen(self, lm: LanguageModel, split: Split, items: Items | None) -> dict[str, list[Request]]:
        chosen = {}
        for task in self._tasks:
            if items is None or task.spec.name in items:
                requests = self._built(lm, task, split)
                wanted = set(self._wanted(task, split, items))
                ids = task.documents[split]
                chosen[task.spec.name] = [each for each in requests if ids[each.instance.doc_id] in wanted]
        return chosen

    def _wanted(self, task: LoadedTask, split: Split, items: Items | None) -> Sequence[int]:
        """Documents of a task."""
        if items is None:
            return task.documents[split]
        wanted = items[task.spec.name]
        if not wanted or not set(wanted) <= set(task.documents[split]):
            raise ValueError(f"items of task {task.spec.name} are not documents of {split}: {list(wanted)[:5]}")
        return wanted

    def _built(self, lm: LanguageModel, task: LoadedTask, split: Split) -> list[Request]:
        key = (task.spec.name, split)
        if key not in self._requests:
            self._requests[key] = build(lm, task, split, self.suite.apply_chat_template, self._network.span)
        return self._requests[key]

    def _answers_of(self, lm: LanguageModel, task: LoadedTask, split: Split) -> dict[int, Request]:
        """Document -> the request that reads its reference answer."""
        key = (task.spec.name, split)
        if key not in self._references:
            found = references(lm, task, self._built(lm, task, split), self.suite.apply_chat_template)
            ids = task.documents[split]
            self._references[key] = {ids[place]: request for place, request in found.items()}
        return self._references[key]


def _key(items: Items | None) -> Any:
    return None if items is None else tuple((name, tuple(sorted(ids))) for name, ids in sorted(items.items()))


def _score(task: LoadedTask, split: Split, requests: Sequence[Request]) -> TaskScores:
    name, metric = task.spec.name, task.spec.metric
    task.filter.apply([request.instance for request in requests])
    by_document: dict[int, list[Request]] = {}
    for request in requests:
        by_document.setdefault(request.instance.doc_id, []).append(request)
    raw: dict[int, Any] = {}
    answers: list[str | None] = []
    leaves_out = task.aggregate is get_aggregation("nanmean")
    for position, asked in by_document.items():
        asked.sort(key=lambda request: request.instance.idx)
        results = [request.instance.filtered_resps[task.filter.name] for request in asked]
        metrics = task.task.process_results(asked[0].instance.doc, results)
        if metric in metrics and not (leaves_out and _is_nan(metrics[metric])):
            raw[task.documents[split][position]] = metrics[metric]
            answers.append(given_answer(task, asked))
    try:
        whole = Aggregation(task.aggregate, list(raw.values()))
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise ScoringError("metric has no value", where=f"task {name}: {metric}", found=error) from error
    scores = TaskScores(
        name,
        metric,
        tuple(raw),
        whole.items,
        whole.score,
        task.higher_is_better,
        weights=whole.weights,
        answers=tuple(answers) if any(answer is not None for answer in answers) else None,
    )
    scores = _with_jackknife(_in_range(_checked(scores), task), task, whole)
    if len(by_document) == len(task.documents[split]):
        if (advice := range_advice(scores, presumed_range([scores], task.spec.range))) is not None:
            log.warning(advice)
        elif wants_range(scores) and _interval(scores, task) is None:
            what = f"task {name}: {metric} has no confidence interval, as no document changes it"
            log.warning("%s: state its `range` in the suite", what)
    return scores


def _is_mean(task: LoadedTask) -> bool:
    return any(task.aggregate is get_aggregation(name) for name in _MEANS)


def _is_nan(value: Any) -> bool:
    return isinstance(value, Real) and math.isnan(value)


def _interval(scores: TaskScores, task: LoadedTask) -> Range | None:
    return score_interval(scores, within=presumed_range([scores], task.spec.range))


def _with_jackknife(scores: TaskScores, task: LoadedTask, whole: Aggregation) -> TaskScores:
    if _is_mean(task):  # its items tell all
        return scores
    try:
        with warnings.catch_warnings():
            # as of an F1 without positives: the number that comes with it stands for none
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("error", RuntimeWarning)
            return replace(scores, jackknife=left_out(scores.doc_ids, whole.over))
    except Exception as error:  # a task's own code may raise anything, and the score itself is known
        if _interval(scores, task) is None:
            what = f"task {scores.name}: {scores.metric}"
            log.warning("%s has no confidence interval, as it needs all documents: %s", what, error)
        return scores


def _checked(scores: TaskScores) -> TaskScores:
    _check_each(scores, scores.values, math.isfinite, "score is not finite", "a finite number")
    return scores


def _in_range(scores: TaskScores, task: LoadedTask) -> TaskScores:
    """The scores within the range that the suite states, which rounding may leave. Raises ScoringError beyond that."""
    if task.spec.range is None:
        return scores
    low, high = task.spec.range
    values = scores.values if _is_mean(task) else ()  # others are no values of the metric
    room, expected = _ROUNDING * (high - low), f"{low:g} to {high:g}, the range that the suite states"
    _check_each(scores, values, lambda value: low - room <= value <= high + room, "score is out of range", expected)
    clipped = tuple(min(max(value, low), high) for value in values)
    score = scores.score if clipped == values else task.aggregate(list(clipped))
    return replace(scores, values=clipped if values else scores.values, score=min(max(score, low), high))


def _check_each(
    scores: TaskScores, values: Sequence[float], right: Callable[[float], bool], what: str, expected: str
) -> None:
    """Raise ScoringError for the first document whose value is not right, or else for the score."""
    where = f"task {scores.name}: {scores.metric}"
    for document, value in zip(scores.doc_ids, values, strict=False):
        if not right(value):
            raise ScoringError(what, where=f"{where} of document {document}", expected=expected, found=value)
    if not right(scores.score):
        raise ScoringError(what, where=where, expected=expected, found=scores.score)
