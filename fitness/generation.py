"""Greedy generation in fixed batches: a row ends with its stop sequence, and rows that have ended leave the batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from typing import Any

import torch
from lm_eval.models.utils import postprocess_generated_text

from fitness.batches import BatchSize
from fitness.network import Network, Prefix
from fitness.prefix import clusters

MEMORY = 1 << 16  # texts kept, so that what candidates say again is not decoded again


@dataclass(frozen=True)
class Prompt:
    """What to continue.

    Attributes:
        tokens: at least one.
        until: stop sequences, the text of the end-of-sequence token among them.
        most: how many tokens to generate at most, > 0.
    """

    tokens: tuple[int, ...]
    until: tuple[str, ...]
    most: int


class Endings:
    """Where generated tokens end, and their text.

    Args:
        tokenizer: a transformers tokenizer.
        eos: tokens that end a sequence.
    """

    def __init__(self, tokenizer: Any, eos: frozenset[int]) -> None:
        self._eos = eos
        self._tokenizer = tokenizer
        self._decode: Callable[[tuple[int, ...]], str] = lru_cache(MEMORY)(
            lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True))
        )
        self._reach = lru_cache(None)(self._tokens_of)

    def text(self, tokens: Sequence[int], until: tuple[str, ...]) -> str:
        """The text of a generation up to its first stop sequence, cut as lm-eval cuts it."""
        text: str = postprocess_generated_text(self._decode(tuple(tokens)), list(until), None)
        return text

    def ended(self, tokens: Sequence[int], until: tuple[str, ...]) -> bool:
        """Whether more tokens would change nothing about the text."""
        if tokens[-1] in self._eos:
            return True
        reach = self._reach(until)
        if not reach or not _any_in(until, self._decode(tuple(tokens[-reach:]))):
            return False
        return _any_in(until, self._decode(tuple(tokens)))

    def _tokens_of(self, until: tuple[str, ...]) -> int:
        """How many of the last tokens may hold a stop sequence, as lm-eval counts them; 0 if none may end a row early.

        lm-eval cuts at one stop sequence after the other, so of two that overlap the later may move the cut.
        """
        if any(_overlap(first, second) for first, second in permutations(until, 2)):
            return 0
        return max(len(self._tokenizer.encode(each, add_special_tokens=False)) for each in until) + 2


def _any_in(until: tuple[str, ...], text: str) -> bool:
    return any(stop in text for stop in until)


def _overlap(first: str, second: str) -> bool:
    """Whether `second` can begin elsewhere than `first`, touch it and end after it."""
    for shift in range(1 - len(second), len(first)):
        begin, end = max(0, shift), min(len(first), shift + len(second))
        if shift and shift + len(second) > len(first) and first[begin:end] == second[begin - shift : end - shift]:
            return True
    return False


@dataclass(frozen=True)
class _Batch:
    members: tuple[int, ...]
    ids: torch.Tensor  # int64 [rows, length], padded on the left
    positions: torch.Tensor  # int64 [rows, length]
    seen: torch.Tensor  # bool [rows, cached + length + most]: no padding
    padded: bool  # a batch without padding needs no mask, which is quicker


class Generations:
    """Fixed batches that continue many prompts, each with its likeliest tokens.

    Args:
        prompts: what to continue.
        network: whose device and architecture the batches are made for; every prompt and its answer fit its span.
        size: of a batch.
    """

    def __init__(self, prompts: Sequence[Prompt], network: Network, size: BatchSize) -> None:
        self._prompts = prompts
        pools: dict[tuple[tuple[str, ...], int], dict[tuple[int, ...], list[int]]] = {}
        for number, prompt in enumerate(prompts):
            pools.setdefault((prompt.until, prompt.most), {}).setdefault(prompt.tokens, []).append(number)
        self._passes: list[tuple[tuple[int, ...], list[_Batch]]] = []
        self._same: dict[int, list[int]] = {}
        for (_, most), pool in pools.items():
            numbers = [same[0] for same in pool.values()]
            self._same |= {same[0]: same for same in pool.values()}
            sequences = [prompts[number].tokens for number in numbers]
            for cluster in clusters(sequences, [len(sequence) - 1 for sequence in sequences]):
                cached = cluster.length
                rows = sorted(cluster.members, key=lambda each: -len(sequences[each]))
                cuts = size.cut([len(sequences[each]) - cached + most for each in rows], cached)
                batches = [
                    _batch(
                        [(numbers[each], sequences[each][cached:]) for each in rows[cut]], cached, most, network.device
                    )
                    for cut in cuts
                ]
                self._passes.append((sequences[rows[0]][:cached], batches))
        self.widest = max((len(batch.ids) for _, batches in self._passes for batch in batches), default=0)

    def run(self, network: Network, endings: Endings) -> list[str]:
        """Continue all of them.

        Returns:
            For each prompt the generated text, up to its first stop sequence.

        Raises:
            ScoringError: logits are not finite.
        """
        texts = [""] * len(self._prompts)
        for tokens, batches in self._passes:
            prefix = network.prefix(tokens) if tokens else None
            for batch in batches:
                prompt = self._prompts[batch.members[0]]
                generated = _generate(network, batch, prefix, prompt, endings)
                for member, each in zip(batch.members, generated, strict=True):
                    text = endings.text(each, prompt.until)
                    for number in self._same[member]:
                        texts[number] = text
        return texts


def _generate(
    network: Network, batch: _Batch, prefix: Prefix | None, prompt: Prompt, endings: Endings
) -> list[list[int]]:
    generated: list[list[int]] = [[] for _ in batch.members]
    length = batch.ids.shape[1]
    known = batch.seen.shape[1] - prompt.most
    seen, positions = batch.seen[:, None, None], batch.positions
    allowed = None
    if batch.padded or prefix:
        own = torch.ones((length, known), dtype=torch.bool, device=network.device).tril(known - length)
        allowed = seen[..., :known] & own
    rows = torch.arange(len(batch.ids), device=network.device)
    cache = network.cache(prefix, len(rows))
    last = torch.full_like(rows, length - 1)
    logits = network.logits(batch.ids, rows, last, positions, allowed, cache)
    going = list(range(len(rows)))  # places in the cache; those that have ended stay until it pays to drop them
    alive = list(going)  # the generation of each place
    positions = positions[:, -1:]
    for step in range(1, prompt.most + 1):
        tokens = logits.argmax(dim=-1)
        chosen = tokens.tolist()
        for place in going:
            generated[alive[place]].append(chosen[place])
        going = [place for place in going if not endings.ended(generated[alive[place]], prompt.until)]
        if not going or step == prompt.most:
            break
        if 2 * len(going) <= len(alive):
            kept = torch.tensor(going, device=network.device)
            cache.batch_select_indices(kept)
            seen, positions, tokens, rows = seen[kept], positions[kept], tokens[kept], rows[: len(kept)]
            alive = [alive[place] for place in going]
            going = list(range(len(alive)))
        positions = positions + 1
        allowed = seen[..., : known + step] if batch.padded else None
        logits = network.logits(tokens[:, None], rows, torch.zeros_like(rows), positions, allowed, cache)
    return generated


def _batch(rows: Sequence[tuple[int, tuple[int, ...]]], cached: int, most: int, device: torch.device) -> _Batch:
    length = max(len(tokens) for _, tokens in rows)
    padding = torch.tensor([length - len(tokens) for _, tokens in rows])[:, None]
    ids = torch.tensor([[0] * (length - len(tokens)) + list(tokens) for _, tokens in rows])
    places = torch.arange(length)[None]
    seen = torch.cat(
        [
            torch.ones((len(rows), cached), dtype=torch.bool),
            places >= padding,
            torch.ones((len(rows), most), dtype=torch.bool),
        ],
        dim=1,
    )
    positions = cached + (places - padding).clamp(min=0)
    return _Batch(
        members=tuple(member for member, _ in rows),
        ids=ids.to(device),
        positions=positions.to(device),
        seen=seen.to(device),
        padded=bool(padding.any()),
    )
