"""A plan: the requests of one item set as fixed batches, answered as often as the weights change."""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.defaults import DEFAULT_OTHER_SEED

from fitness.batches import BatchSize
from fitness.errors import ScoringError
from fitness.generation import Endings, Generations
from fitness.likelihood import Likelihoods
from fitness.network import Network, empty_cache, is_out_of_memory
from fitness.requests import LanguageModel, Request

log = logging.getLogger(__name__)


class Plan:
    """Fixed batches that answer requests.

    Args:
        requests: what is asked.
        network: whose device and architecture the batches are made for.
        size: of a batch.

    Attributes:
        widest: rows of the largest batch.
    """

    def __init__(self, requests: Sequence[Request], network: Network, size: BatchSize) -> None:
        self._requests = requests
        self._likelihoods = Likelihoods([read for request in requests for read in request.reads], network, size)
        self._generations = Generations([each.prompt for each in requests if each.prompt is not None], network, size)
        kinds = [request.instance.request_type == "generate_until" for request in requests]
        self._drawn = [
            number
            for number, (each, generates) in enumerate(zip(requests, kinds, strict=True))
            if generates and each.prompt is None
        ]
        self.widest = max(self._likelihoods.widest, self._generations.widest)

    def answers(self, network: Network, lm: LanguageModel, endings: Endings) -> list[list[Any]]:
        """lm-eval's responses to each request: (nats, whether greedy), nats or text, as often as it is repeated.

        Raises:
            ScoringError: logits are not finite, or lm-eval has no memory to generate for a single prompt.
        """
        read = iter(self._likelihoods.run(network))
        texts = iter(self._generations.run(network, endings))
        answers: list[list[Any]] = []
        for request in self._requests:
            instance = request.instance
            answer: Any
            if instance.request_type == "loglikelihood":
                answer = next(read)
            elif instance.request_type == "loglikelihood_rolling":
                answer = sum(next(read)[0] for _ in request.reads)
            else:
                answer = next(texts) if request.prompt is not None else None
            answers.append([answer] * (instance.repeats or 1))
        for number, drawn in zip(self._drawn, self._draw(lm), strict=True):
            answers[number] = drawn
        return answers

    def _draw(self, lm: LanguageModel) -> list[list[str]]:
        """lm-eval generates: what it draws depends on its own order and batches."""
        instances = [self._requests[number].instance for number in self._drawn]
        if not instances:
            return []
        repeated = [instance for instance in instances for _ in range(instance.repeats or 1)]
        with _finite_logits(lm.model):
            texts = iter(_generated(lm, repeated))
        return [[next(texts) for _ in range(instance.repeats or 1)] for instance in instances]


def _generated(lm: LanguageModel, instances: Sequence[Instance]) -> list[str]:
    """lm-eval's texts; after running out of memory, from batches half as large, for good."""
    while True:
        try:
            with _fixed_draws(lm.device):
                texts: list[str] = lm.generate_until(instances, disable_tqdm=True)
                return texts
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        empty_cache(lm.device)
        rows = min(lm.batch_size, len(instances)) // 2
        if not rows:  # smaller batches of other requests would not help
            raise ScoringError("out of memory", where="lm-eval's generation", expected="room for one prompt")
        lm.batch_size_per_gpu = rows
        log.warning("out of memory: lm-eval generates in batches of %d from now on", rows)


@contextlib.contextmanager
def _finite_logits(model: torch.nn.Module) -> Iterator[None]:
    """Stop at the first forward pass with NaN or Inf."""

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
