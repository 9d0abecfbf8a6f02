"""The tokenizer and the vocabulary that a recipe asks for, given the tokenizers of its models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from weakref import WeakKeyDictionary

from evomerge.checkpoint import AddedToken, Checkpoint, OutputTokenizer, Vocabulary
from evomerge.checkpoint.folder import locate, read_json
from evomerge.errors import ModelError, RecipeError
from evomerge.merge.layout import layout_of
from evomerge.merge.vocabulary import OutputVocabulary, few, is_vocabulary_tensor, source_model
from evomerge.recipe import ModelRef, Recipe, TokenSpec

_KEPT = 8  # vocabularies of the latest recipes and models; the candidates of a search share one
_NAMED_TOKENS = 3

_digests: WeakKeyDictionary[Checkpoint, str | None] = WeakKeyDictionary()


def output_vocabulary(recipe: Recipe, checkpoints: Sequence[Checkpoint]) -> OutputVocabulary:
    """The vocabulary that a recipe asks for.

    Args:
        recipe: what is merged.
        checkpoints: the recipe's models, in the order of `inputs`.

    Raises:
        RecipeError: the recipe asks for a tokenizer or a token that its models cannot give.
        ModelError: the vocabularies differ and the recipe has no policy; a tokenizer is missing, damaged, or cannot be
            changed.
    """
    models = tuple(_Model(each.ref, each.tokenizer, _digest(each), _row_count(each)) for each in checkpoints)
    source = recipe.tokenizer_source if recipe.tokenizer is None else recipe.tokenizer.source
    if source is None:
        return OutputVocabulary(models[0].tokenizer, warnings=_check_equal(models))
    if source == "base" and recipe.base_model is None:
        raise RecipeError("tokenizer source 'base' without a base_model", remedy="set base_model, or name a model")
    for checkpoint in checkpoints:
        _check_tensors(checkpoint)
    spec = recipe.tokenizer
    return _align(
        models,
        source,
        tuple(spec.tokens.items()) if spec is not None and spec.tokens else (),
        (spec.pad_to_multiple_of if spec is not None else None) or 1,
    )


@dataclass(frozen=True)
class _Model:
    """What the alignment depends on: the tokenizer, its digest, and the number of embeddings, if it is known."""

    ref: ModelRef
    tokenizer: OutputTokenizer
    digest: str | None
    rows: int | None


@lru_cache(_KEPT)
def _align(
    models: tuple[_Model, ...], source: str | ModelRef, settings: tuple[tuple[str, TokenSpec], ...], multiple: int
) -> OutputVocabulary:
    base = models[0]
    if base.digest is None:
        raise ModelError("tokenizer missing or damaged", where=base.ref, remedy="check that the folder is complete")
    warnings = [
        f"{each.ref} has no tokenizer: taken to have the tokens of {base.ref}"
        for each in models[1:]
        if each.digest is None
    ]
    usable = {each: _usable(_tokens(base if each.digest is None else each), each.rows) for each in models}
    donor = _donor(models, source)
    everything = _tokens(donor)
    theirs = _usable(everything, donor.rows)
    past = [token for token in everything.ids if token not in theirs.ids]
    if past:
        warnings.append(f"tokens of {donor.ref} without an embedding, left out: {few(len(past), past)}")
    added = _union(usable, warnings) if source == "union" else {}
    flags = {token.content: token for each in usable.values() for token in reversed(each.added)}
    for token, _ in settings:
        if token not in theirs.ids:
            added.setdefault(token, flags.get(token, AddedToken(token)))
    tokenizer = replace(
        donor.tokenizer,
        limit=donor.rows if past else donor.tokenizer.limit,
        added=(*donor.tokenizer.added, *added.values()),
    )
    tokens = tokenizer.vocabulary().ids if past or added else theirs.ids
    for token, _ in settings:
        if token not in tokens:
            raise RecipeError("token cannot be added", where="tokenizer.tokens", found=repr(token))
    idle = _check_sources(settings, {each.ref: found for each, found in usable.items()})
    if idle:
        warnings.append(
            f"token sources without effect, as all models have the token: {few(len(idle), idle)}; set force"
        )
    given = {token for token, spec in settings if spec.source is not None}
    somewhere = set().union(given, *(each.ids for each in usable.values()))
    unknown = [token for token in tokens if token not in somewhere]
    if unknown:
        warnings.append(f"tokens that no model has, filled with zeros: {few(len(unknown), unknown)}")
    config = donor.tokenizer.folder / "config.json"
    stated = read_json(config) if config.exists() else {}
    size = max(tokens.values()) + 1
    return OutputVocabulary(
        tokenizer,
        size=-(-size // multiple) * multiple,
        tokens=tokens,
        known={each.ref: found.ids for each, found in usable.items()},
        settings=dict(settings),
        special_ids=stated if theirs.ids != usable[base].ids else None,
        warnings=warnings,
    )


def _check_sources(
    settings: tuple[tuple[str, TokenSpec], ...], vocabularies: Mapping[ModelRef, Vocabulary]
) -> list[str]:
    """Refuse a source that is no model of the recipe; gives the tokens whose source no model needs."""
    idle = []
    for token, spec in settings:
        if spec.source is None:
            continue
        ref = source_model(spec.source)
        if ref is not None and ref not in vocabularies:
            raise RecipeError(
                "token source is not merged",
                where=f"tokenizer.tokens.{token}",
                expected=f"one of {', '.join(map(str, vocabularies))}",
                found=ref,
            )
        if not spec.force and all(token in each.ids for each in vocabularies.values()):
            idle.append(token)
    return idle


@dataclass(frozen=True)
class _Read:
    """A tokenizer that is read; another of the same digest has the same tokens."""

    digest: str | None
    tokenizer: OutputTokenizer = field(compare=False)


def _tokens(model: _Model) -> Vocabulary:
    return _vocabulary(_Read(model.digest, model.tokenizer))


@lru_cache(_KEPT)
def _vocabulary(read: _Read) -> Vocabulary:
    return read.tokenizer.vocabulary()


def _donor(models: tuple[_Model, ...], source: str | ModelRef) -> _Model:
    """Whose tokenizer the output's is made from; a model that is named need not be merged."""
    if not isinstance(source, ModelRef):
        return models[0]
    donor = next((each for each in models if each.ref == source), None)
    if donor is None:
        tokenizer = OutputTokenizer(locate(source.path, source.revision, lambda _: ()))
        donor = _Model(source, tokenizer, tokenizer.digest(), None)
    if donor.digest is None:
        raise ModelError("tokenizer missing or damaged", where=source, remedy="name another model")
    return donor


def _usable(vocabulary: Vocabulary, rows: int | None) -> Vocabulary:
    """The tokens that have an embedding."""
    if rows is None or max(vocabulary.ids.values(), default=-1) < rows:
        return vocabulary
    ids = {token: index for token, index in vocabulary.ids.items() if index < rows}
    return Vocabulary(ids, tuple(token for token in vocabulary.added if token.content in ids))


def _union(usable: Mapping[_Model, Vocabulary], warnings: list[str]) -> dict[str, AddedToken]:
    """What the first model's tokenizer lacks: tokens of the others' own, by model and id, then their added ones."""
    (_, ours), *others = usable.items()
    flags = {token.content: token for token in ours.added}
    for each, theirs in others:
        unlike = [token.content for token in theirs.added if flags.setdefault(token.content, token) != token]
        if unlike:
            warnings.append(f"added tokens of {each.ref} with other settings than before: {few(len(unlike), unlike)}")
    plain: dict[str, AddedToken] = {}
    for each, theirs in others:
        known = ours.ids.keys() | flags.keys() | plain.keys()
        fresh = [token for token in theirs.ids if token not in known]
        plain |= {token: AddedToken(token) for token in fresh}
        if fresh:
            warnings.append(
                f"ordinary tokens of {each.ref} become added tokens, found in any text before all others: "
                + few(len(fresh), fresh)
            )
    for token in ours.added:
        del flags[token.content]
    return plain | flags


def _row_count(checkpoint: Checkpoint) -> int | None:
    layout = layout_of(checkpoint)
    name = layout.embedding or layout.head
    return None if name is None else checkpoint.headers[name].shape[0]


def _check_tensors(checkpoint: Checkpoint) -> None:
    """Refuse a model whose vocabulary tensors are not all known: what is left behind would not fit the others."""
    layout, remedy = layout_of(checkpoint), "remove tokenizer_source and tokenizer"
    name = layout.embedding or layout.head
    if name is None:
        raise ModelError(
            "no token embedding of a known name",
            where=checkpoint.ref,
            expected="one, for the tokenizer policy of the recipe",
            remedy=remedy,
        )
    rows, *width = checkpoint.headers[name].shape
    for other in (*layout.before, *layout.after):
        shape = checkpoint.headers[other].shape
        if rows in shape and rows not in width and not is_vocabulary_tensor(layout, other):
            raise ModelError(
                "unknown tensor of the size of the vocabulary",
                where=f"{checkpoint.ref}: {other}",
                expected=f"{rows} rows in token embeddings and heads of a known name alone",
                found=list(shape),
                remedy=remedy,
            )


@lru_cache(_KEPT)
def _check_equal(models: tuple[_Model, ...]) -> tuple[str, ...]:
    """Refuse models of different vocabularies; warn of those that have no tokenizer to compare."""
    first, *others = models
    warnings = []
    expected: Mapping[str, int] | None = None
    for each in others:
        if first.digest is None or each.digest is None:
            warnings.append(f"vocabularies of {first.ref} and {each.ref} not compared: no tokenizer")
        elif first.digest != each.digest:
            expected = expected or first.tokenizer.vocabulary().ids
            found = each.tokenizer.vocabulary().ids
            if expected != found:
                raise _difference(first, expected, each, found)
    return tuple(warnings)


def _difference(first: _Model, expected: Mapping[str, int], other: _Model, found: Mapping[str, int]) -> ModelError:
    differing = sorted(
        (token for token in expected.keys() | found.keys() if expected.get(token) != found.get(token)),
        key=lambda token: (found.get(token, expected.get(token, 0)), token),
    )
    named = ", ".join(map(repr, differing[:_NAMED_TOKENS]))
    return ModelError(
        "vocabularies differ",
        where=other.ref,
        expected=f"the {len(expected)} tokens of {first.ref}",
        found=f"{len(found)} tokens, of which {len(differing)} have no or another id there, such as {named}"
        if len(differing) > _NAMED_TOKENS
        else f"{len(found)} tokens; {named} differ{'s' if len(differing) == 1 else ''}",
        remedy="merge models of one vocabulary, or set tokenizer_source to base, union or one of the models",
    )


def _digest(checkpoint: Checkpoint) -> str | None:
    """The digest of the tokenizer, worked out once for each checkpoint."""
    if checkpoint not in _digests:
        _digests[checkpoint] = checkpoint.tokenizer.digest()
    return _digests[checkpoint]
