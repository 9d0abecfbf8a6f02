"""The vocabulary of a merged model, and how every model's vocabulary tensors come to follow it.

A recipe without `tokenizer_source` and `tokenizer` keeps the vocabulary that its models share. With one of them the
tokenizer is that of the base, that of a named model, or the union: the base's tokenizer, to which the tokens of the
other models are added. `tokenizer.tokens` adds tokens, too. For each token of the output a model gives its own row if
it has the token; else, and where `force` is set, the row is

- what `tokenizer.tokens` says: of a model, of a token of a model, or zeros; if it says nothing,
- that of the only model which has the token,
- that of the base, if it has the token,
- the mean over the models which have it, zeros if there is none.

Rows past the last token (`pad_to_multiple_of`) are the mean of all others; the rows that a model itself has past its
last token are dropped, and its tokens past the last row are not used. So it is in mergekit 0.1.5, too, but that means
are taken in float32 here, and that the tokens past the last row of the model whose tokenizer is taken are left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.checkpoint import OutputTokenizer
from evomerge.checkpoint.embeddings import TEXT_KEYS, TOKEN_EMBEDDINGS, with_vocab_size
from evomerge.errors import RecipeError, nearest
from evomerge.merge.layout import HEAD_BIASES, Layout
from evomerge.merge.rows import MEAN, PADDING, ZERO, Rows
from evomerge.recipe import ModelRef, ModelToken, TokenSpec, ZeroToken

_NAMED_TOKENS = 3


@dataclass(frozen=True)
class Filling:
    """Rows that a model gets from elsewhere: `source` is a model, `zeros` or `mean`; `such_as` are a few tokens."""

    source: str
    count: int
    such_as: tuple[str, ...]


@dataclass(frozen=True)
class TokenChanges:
    """What a policy does to a model's vocabulary: how many tokens are dropped, a few of them, and what rows it gets."""

    model: str
    dropped: int
    such_as: tuple[str, ...]
    filled: tuple[Filling, ...]

    def __str__(self) -> str:
        parts = [f"tokens dropped: {few(self.dropped, self.such_as)}"]
        parts += [f"rows filled from {each.source}: {few(each.count, each.such_as)}" for each in self.filled]
        return f"{self.model}: {'; '.join(parts)}"


class OutputVocabulary:
    """The vocabulary of the output; the same object for all recipes with the same models and tokenizer settings.

    Attributes:
        tokenizer: of the output, with the chat template of its folder.
        size: V, of the vocabulary tensors; None if they stay as they are.
        warnings: what a user should know.
    """

    def __init__(
        self,
        tokenizer: OutputTokenizer,
        *,
        size: int | None = None,
        tokens: Mapping[str, int] | None = None,
        known: Mapping[ModelRef, Mapping[str, int]] | None = None,
        settings: Mapping[str, TokenSpec] | None = None,
        special_ids: Mapping[str, Any] | None = None,
        warnings: Sequence[str] = (),
    ) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self.warnings = tuple(warnings)
        self._tokens = dict(tokens or {})
        self._places = torch.tensor(list(self._tokens.values()), dtype=torch.int64)  # of each token among the rows
        self._known = dict(known or {})
        self._settings = {token: spec for token, spec in (settings or {}).items() if spec.source or spec.force}
        self._special_ids = special_ids
        self._ids: dict[int, Tensor] = {}
        self._made: dict[tuple[Any, ...], tuple[Rows | None, ...]] = {}

    def rows(self, sources: Sequence[tuple[ModelRef, str, int]], base: ModelRef | None) -> tuple[Rows | None, ...]:
        """How the rows of a vocabulary tensor are made in each of the models that are merged there.

        Args:
            sources: each model, the tensor's name in it, and its number of rows.
            base: of the slice or the recipe.

        Returns:
            For each of `sources`; None where the tensor stays as it is.

        Raises:
            RecipeError: a row is to come from a model that is not among `sources`, or that it does not have.
        """
        if self.size is None:
            return (None,) * len(sources)
        key = (tuple(sources), base)
        if key not in self._made:
            self._made[key] = tuple(self._rows(sources, base))
        return self._made[key]

    def changes(self, ref: ModelRef, rows: Rows) -> TokenChanges:
        """What becomes of the tokens of a model, given the rows of its token embedding."""
        names = list(self._tokens)
        sources = [str(source) for source, _ in rows.sources]
        filled = []
        places = rows.place[self._places]
        own = (places == sources.index(str(ref))) & (rows.row == self._own(ref))[self._places]
        for place in dict.fromkeys(places[~own].tolist()):
            found = ((places == place) & ~own).nonzero().flatten().tolist()
            source = {ZERO: "zeros", MEAN: "mean"}.get(place) or sources[place]
            filled.append(Filling(source, len(found), tuple(names[index] for index in found[:_NAMED_TOKENS])))
        dropped = [token for token in self._known[ref] if token not in self._tokens]
        return TokenChanges(str(ref), len(dropped), tuple(dropped[:_NAMED_TOKENS]), tuple(filled))

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A config of the reference model with this vocabulary's size, and its ids of special tokens."""
        if self.size is None:
            return dict(config)
        return with_vocab_size(self._with_special_ids(config, self._special_ids), self.size)

    def _with_special_ids(self, config: Mapping[str, Any], theirs: Mapping[str, Any] | None) -> dict[str, Any]:
        """A config with the ids of special tokens that another states, or with its own; None for one without a row."""
        settled = dict(config)
        for key, value in config.items():
            if key.endswith(("_token_id", "_token_index")):
                settled[key] = self._usable(value if theirs is None else theirs.get(key))
            elif key.startswith(TEXT_KEYS) and isinstance(value, dict):
                settled[key] = self._with_special_ids(value, None if theirs is None else theirs.get(key) or {})
        return settled

    def _usable(self, special: Any) -> Any:
        """An id, or several, without what is past the last row; None if none is left."""
        if isinstance(special, list):
            return [index for index in special if self._usable(index) is not None] or None
        return None if isinstance(special, int) and special >= (self.size or 0) else special

    def _own(self, ref: ModelRef) -> Tensor:
        """(V,) the id that each output row's token has in a model, -1 where it has none."""
        known = self._known[ref]
        if id(known) not in self._ids:  # models often share a vocabulary
            found = np.fromiter(map(known.get, self._tokens, repeat(-1)), np.int64, len(self._tokens))
            self._ids[id(known)] = torch.full((self.size or 0,), -1)
            self._ids[id(known)][self._places] = torch.from_numpy(found)
        return self._ids[id(known)]

    def _rows(self, sources: Sequence[tuple[ModelRef, str, int]], base: ModelRef | None) -> Iterator[Rows | None]:
        refs = [ref for ref, _, _ in sources]
        own = torch.stack([self._own(ref) for ref in refs])
        own[own >= torch.tensor([count for _, _, count in sources])[:, None]] = -1
        has = own >= 0
        place = torch.where(has.any(0), MEAN, ZERO)
        if base in refs:
            place[has[refs.index(base)]] = refs.index(base)
        single = has.sum(0) == 1
        place[single] = has.long().argmax(0)[single]
        row = own.gather(0, place.clamp(min=0)[None]).squeeze(0)
        forced = torch.zeros_like(single)
        for token, spec in self._settings.items():
            index = self._tokens[token]
            forced[index] = spec.force
            if spec.source is None:
                continue
            needed = spec.force or not has[:, index].all()
            if needed or source_model(spec.source) in refs:
                chosen = self._chosen(token, spec.source, sources)
                if needed:
                    place[index], row[index] = chosen
        unused = torch.ones_like(single)
        unused[self._places] = False
        place[unused] = PADDING
        members = torch.where(place == MEAN, own, -1)
        tensors = tuple((ref, name) for ref, name, _ in sources)
        for index, (_, _, count) in enumerate(sources):
            keep = has[index] & ~forced
            made = Rows(tensors, torch.where(keep, index, place), torch.where(keep, own[index], row), members)
            yield None if count == self.size and made.keeps(index) else made

    def _chosen(
        self, token: str, source: ModelToken | ZeroToken | ModelRef, sources: Sequence[tuple[ModelRef, str, int]]
    ) -> tuple[int, int]:
        """Place and row of what a recipe names as the source of a token."""
        ref = source_model(source)
        if ref is None:
            return ZERO, 0
        where = f"tokenizer.tokens.{token}"
        refs = [each for each, _, _ in sources]
        if ref not in refs:
            raise RecipeError(
                "token source is not merged",
                where=where,
                expected=f"one of {', '.join(map(str, refs))}, which {sources[0][1]} is made from",
                found=ref,
            )
        count = sources[refs.index(ref)][2]
        index = source.token_id if isinstance(source, ModelToken) else None
        if index is None:
            name = (source.token if isinstance(source, ModelToken) else None) or token
            index = self._known[ref].get(name)
            if index is None:
                raise RecipeError(
                    "token source does not have the token",
                    where=where,
                    expected=f"a token of {ref}",
                    found=repr(name),
                    remedy=nearest(name, self._known[ref]),
                )
        if not 0 <= index < count:
            raise RecipeError(
                "no embedding of this id", where=where, expected=f"an id from 0 to {count - 1} of {ref}", found=index
            )
        return refs.index(ref), index


def source_model(source: ModelToken | ZeroToken | ModelRef) -> ModelRef | None:
    """The model that a row comes from; None for a row of zeros."""
    if isinstance(source, ZeroToken):
        return None
    return source.model if isinstance(source, ModelToken) else source


def is_vocabulary_tensor(layout: Layout, name: str) -> bool:
    """Whether the first dimension of a tensor is the vocabulary: token embeddings, the head and its biases."""
    head = layout.head
    if name in (layout.embedding, head) or (name in layout.before and name.endswith(TOKEN_EMBEDDINGS)):
        return True
    bias = head is not None and name == head.removesuffix("weight") + "bias"
    return bias or (name in layout.after and name.endswith(HEAD_BIASES))


def few(count: int, tokens: Sequence[str]) -> str:
    """A number of tokens, and some of them."""
    if not count:
        return "0"
    return f"{count}, such as {', '.join(map(repr, tokens[:_NAMED_TOKENS]))}"
