"""The network: a live model as the harness reads it, a batch of tokens in, a few rows of logits out."""

import contextlib
import inspect
import math
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from fitness.errors import ScoringError

_CPU_OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory")

Prefix = list[tuple[torch.Tensor, torch.Tensor]]  # per layer: keys and values, [1, heads, tokens, width]


class Network:
    """A causal language model whose passes compute no more logits than are read.

    Args:
        model: a transformers causal language model, in eval mode, on its device.

    Attributes:
        span: the longest sequence, in tokens, that the model attends to in full and that may be computed in parts, with
            a key/value cache or with a mask of its own; 0 where its architecture allows neither.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device: torch.device = model.device
        self.span = _full_attention(model)
        self._blocked = torch.finfo(model.dtype).min

    def logits(
        self,
        ids: torch.Tensor,
        rows: torch.Tensor,
        columns: torch.Tensor,
        positions: torch.Tensor | None = None,
        allowed: torch.Tensor | None = None,
        cache: DynamicCache | None = None,
    ) -> torch.Tensor:
        """One forward pass, without gradients.

        Args:
            ids: tokens, int64 [batch, length].
            rows, columns: where logits are read, int64 [reads].
            positions: of the tokens in their sequences, int64 [batch, length]; None counts from 0.
            allowed: which keys each token sees, bool [batch or 1, 1, length, cached + length]; None is causal.
            cache: keys and values of earlier tokens; those of `ids` are added to it.

        Returns:
            logits in the model's dtype, [reads, vocabulary].

        Raises:
            ScoringError: a logit that is read is NaN or Inf.
        """
        options: dict[str, Any] = {"use_cache": cache is not None}
        if positions is not None:
            options["position_ids"] = positions
        if allowed is not None:
            # an additive mask is what every attention backend understands
            mask = torch.zeros(allowed.shape, dtype=self.model.dtype, device=self.device)
            options["attention_mask"] = mask.masked_fill_(~allowed, self._blocked)
        if cache is not None:
            options["past_key_values"] = cache
        with torch.no_grad(), _reading(self.model, rows, columns) as reading:
            logits: torch.Tensor = self.model(ids, **options).logits
        logits = logits[0] if reading else logits[rows, columns]
        # an all-NaN model would else score like a guess
        if not torch.stack(torch.aminmax(logits)).isfinite().all():
            raise ScoringError("logits are not finite", expected="numbers", found="NaN or Inf")
        return logits

    def prefix(self, tokens: Sequence[int]) -> Prefix:
        """The keys and values of a prefix that many sequences share."""
        cache = DynamicCache()
        last = torch.tensor([len(tokens) - 1], device=self.device)
        self.logits(torch.tensor([list(tokens)], device=self.device), torch.zeros_like(last), last, cache=cache)
        return [(keys, values) for keys, values, _ in cache]

    def cache(self, prefix: Prefix | None, batch: int) -> DynamicCache:
        """A cache that begins with a prefix, the same for each row of a batch and not copied until it grows."""
        cache = DynamicCache()
        for keys, values in prefix or ():
            layer: Any = DynamicLayer()  # type: ignore[no-untyped-call]
            layer.dtype, layer.device, layer.is_initialized = keys.dtype, keys.device, True
            layer.keys, layer.values = keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1)
            cache.layers.append(layer)
        return cache

    @contextlib.contextmanager
    def timed(self) -> Iterator[list[float]]:
        """Seconds of each forward pass of the model meanwhile, also of those that lm-eval makes when it generates."""
        seconds: list[float] = []
        started = 0.0

        def begin(*_: Any) -> None:
            nonlocal started
            started = self._now()

        handles = [
            self.model.register_forward_pre_hook(begin),
            self.model.register_forward_hook(lambda *_: seconds.append(self._now() - started)),
        ]
        try:
            yield seconds
        finally:
            for handle in handles:
                handle.remove()

    def _now(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return perf_counter()


@contextlib.contextmanager
def _reading(model: Any, rows: torch.Tensor, columns: torch.Tensor) -> Iterator[list[bool]]:
    """Let the output head see only the hidden states that are read; yields a list that is empty until it did."""
    seen: list[bool] = []

    def gather(_head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        seen.append(True)
        return (inputs[0][rows, columns][None], *inputs[1:])

    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(gather) if head is not None else None
    try:
        yield seen
    finally:
        if handle is not None:
            handle.remove()


def _full_attention(model: Any) -> float:
    """`Network.span` by what transformers declares of the architecture, never by its weights."""
    config = model.config.get_text_config(decoder=True)
    takes_masks = getattr(model, "_supports_attention_backend", False) and not getattr(model, "_is_stateful", False)
    if not takes_masks or config._attn_implementation not in ("sdpa", "eager"):
        return 0
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return 0
    if not set(getattr(config, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}:
        return 0
    if getattr(config, "window_size", None):  # a window over places in the row, whatever the mask says
        return 0
    spans = [getattr(config, "sliding_window", None)]
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in (rope, *(each for each in rope.values() if isinstance(each, dict))):
        if parameters.get("rope_type") in ("dynamic", "longrope"):  # the angles depend on the sequence's length
            spans.append(parameters.get("original_max_position_embeddings") or config.max_position_embeddings)
    return min((span for span in spans if span), default=math.inf)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a batch was too large; the CPU's allocator has no exception of its own."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_OUT_OF_MEMORY)
    )


def empty_cache(device: torch.device) -> None:
    """Free what an accelerator's allocator keeps for later."""
    if device.type != "cpu":
        torch.accelerator.memory.empty_cache()
