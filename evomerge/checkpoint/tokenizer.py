"""Tokenizers of model folders: their tokens, and the tokenizer that a merged model gets."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from evomerge.checkpoint.chat_templates import template_of
from evomerge.checkpoint.folder import read_json
from evomerge.errors import ModelError

_TOKEN_FILES = (
    "tokenizer.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "*.tiktoken",
    "tekken.json",
)
_SETTING_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "normalizer.json",
    "generation_config.json",
)
_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text before the tokenizer's model sees it, with the flags of `tokenizers`."""

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a tokenizer.

    Attributes:
        ids: id of every token, added ones too, in the order of the ids.
        added: the added tokens, in the order of their ids.
    """

    ids: Mapping[str, int]
    added: tuple[AddedToken, ...]


@dataclass(frozen=True)
class OutputTokenizer:
    """The tokenizer of a merged model: that of a folder, as it is or with other tokens.

    Attributes:
        folder: whose tokenizer and generation config these are.
        template: a Jinja chat template instead of the folder's own.
        limit: tokens with this id and above are left out, as the model has no embedding for them; None keeps all.
        added: tokens that are added at the end.
    """

    folder: Path
    template: str | None = None
    limit: int | None = None
    added: tuple[AddedToken, ...] = ()

    def __str__(self) -> str:
        left_out = "" if self.limit is None else f", without the tokens from id {self.limit} on"
        return f"{self.folder}{left_out}" + (f", with {len(self.added)} tokens more" if self.added else "")

    @property
    def chat_template(self) -> str | None:
        """Its chat template."""
        return template_of(self.folder) if self.template is None else self.template

    def digest(self) -> str | None:
        """SHA-256, in hex, of all that its tokens depend on; None if there is no tokenizer.

        A tokenizer.json says all of the tokens, so that other files do not count beside it.
        """
        files = list(self._files(*_TOKEN_FILES, "tokenizer_config.json"))
        if not files:
            return None
        digest = hashlib.sha256(repr((self.limit, self.added)).encode())
        for file in files[:1] if files[0].name == "tokenizer.json" else files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def vocabulary(self) -> Vocabulary:
        """Its tokens.

        Raises:
            ModelError: the folder's tokenizer is missing, damaged, or cannot be changed.
        """
        return _vocabulary(self._rebuilt() if self._changed else _read(self.folder))

    @property
    def nbytes(self) -> int:
        """How many bytes `save` writes: of a changed tokenizer about as many as it was read from."""
        return sum(file.stat().st_size for file in self._files(*_SETTING_FILES, *_TOKEN_FILES, *_TEMPLATE_FILES))

    def save(self, target: Path) -> None:
        """Write tokenizer, chat template and generation config into a folder.

        A tokenizer that is not changed is copied; of one that is, there is tokenizer.json alone.

        Raises:
            ModelError: the folder's tokenizer is missing, damaged, or cannot be changed.
            OSError: a file cannot be written.
        """
        patterns = _SETTING_FILES if self._changed else (*_SETTING_FILES, *_TOKEN_FILES)
        for file in self._files(*patterns, *(_TEMPLATE_FILES if self.template is None else ())):
            copy = target / file.relative_to(self.folder)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
        if self._changed:
            tokenizer = self._rebuilt()
            # its own `save` tells a full disk by a bare Exception
            (target / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
            self._settle(target, _vocabulary(tokenizer))
        if self.template is not None:
            (target / "chat_template.jinja").write_text(self.template, encoding="utf-8")
            _edit(
                target / "tokenizer_config.json",
                lambda config: {key: value for key, value in config.items() if key != "chat_template"},
            )

    def load(self) -> Any:
        """The transformers tokenizer that a saved one is loaded as; code from a model's folder is never run.

        Raises:
            ModelError: the folder's tokenizer is missing, damaged, or cannot be changed.
        """
        if not self._changed and self.template is None:
            return _load(self.folder)
        with tempfile.TemporaryDirectory() as folder:
            self.save(Path(folder))
            return _load(Path(folder))

    def _files(self, *patterns: str) -> Iterator[Path]:
        for pattern in patterns:
            yield from sorted(self.folder.glob(pattern))

    @property
    def _changed(self) -> bool:
        return self.limit is not None or bool(self.added)

    def _rebuilt(self) -> Any:
        import tokenizers

        tokenizer = _read(self.folder)
        if not isinstance(tokenizer, tokenizers.Tokenizer):
            raise ModelError(
                "tokenizer cannot be changed",
                where=self.folder,
                expected="one that the tokenizers library reads, with a tokenizer.json",
                found=type(tokenizer).__name__,
                remedy="take the tokenizer of another model",
            )
        if self.limit is not None:
            tokenizer = tokenizers.Tokenizer.from_str(_cut(tokenizer.to_str(), self.limit))
        tokenizer.add_tokens([tokenizers.AddedToken(**asdict(token)) for token in self.added])
        return tokenizer

    def _settle(self, target: Path, tokens: Vocabulary) -> None:
        """What the settings say of single tokens must hold for those that there are now."""
        added = {str(tokens.ids[token.content]): asdict(token) for token in tokens.added}

        def settle(config: dict[str, Any]) -> dict[str, Any]:
            config = {key: _known(value, tokens.ids) if "_token" in key else value for key, value in config.items()}
            return config | ({"added_tokens_decoder": added} if "added_tokens_decoder" in config else {})

        _edit(target / "tokenizer_config.json", settle)
        _edit(target / "special_tokens_map.json", settle)


def _vocabulary(tokenizer: Any) -> Vocabulary:
    if hasattr(tokenizer, "get_added_tokens_decoder"):
        ids, added = tokenizer.get_vocab(with_added_tokens=True), tokenizer.get_added_tokens_decoder()
    else:
        ids, added = tokenizer.get_vocab(), tokenizer.added_tokens_decoder
    flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    return Vocabulary(
        dict(sorted(ids.items(), key=itemgetter(1))),
        tuple(AddedToken(**{flag: getattr(token, flag) for flag in flags}) for _, token in sorted(added.items())),
    )


def _read(folder: Path) -> Any:
    """A `tokenizers.Tokenizer`, or, where a folder's tokenizer is none, what transformers makes of it."""
    if not (folder / "tokenizer.json").exists():
        tokenizer = _load(folder)
        return getattr(tokenizer, "backend_tokenizer", tokenizer)
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # what the tokenizers library raises is a bare Exception
        raise _damaged(folder, error) from None


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # as above
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> ModelError:
    return ModelError(
        "tokenizer missing or damaged",
        where=folder,
        found=next(iter(str(error).splitlines()), "") or type(error).__name__,
        remedy="check that the folder is complete",
    )


def _cut(text: str, limit: int) -> str:
    """A tokenizer.json without the tokens from the id `limit` on."""
    document = json.loads(text)
    document["added_tokens"] = [token for token in document["added_tokens"] if token["id"] < limit]
    document["post_processor"] = _cut_processor(document["post_processor"], limit)
    model = document["model"]
    if isinstance(model["vocab"], list):  # of a Unigram model, where the place is the id
        model["vocab"] = model["vocab"][:limit]
        return json.dumps(document)
    model["vocab"] = kept = {token: index for token, index in model["vocab"].items() if index < limit}
    if "merges" in model:
        prefix = len(model.get("continuing_subword_prefix") or "")
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [
            [left, right]
            for left, right in pairs
            if left in kept and right in kept and (left + right in kept or left + right[prefix:] in kept)
        ]
    return json.dumps(document)


def _cut_processor(processor: dict[str, Any] | None, limit: int) -> dict[str, Any] | None:
    """A post-processor of a tokenizer.json that adds no token from the id `limit` on; None if nothing is left of it."""
    if processor is None:
        return None
    if "processors" in processor:
        parts = [_cut_processor(part, limit) for part in processor["processors"]]
        return {**processor, "processors": [part for part in parts if part is not None]}
    if any(processor[key][1] >= limit for key in ("sep", "cls") if key in processor):
        return None
    if "special_tokens" not in processor:
        return processor
    kept = {name: token for name, token in processor["special_tokens"].items() if max(token["ids"]) < limit}
    pieces = {
        key: [piece for piece in processor[key] if "Sequence" in piece or piece["SpecialToken"]["id"] in kept]
        for key in ("single", "pair")
    }
    return {**processor, **pieces, "special_tokens": kept}


def _known(value: Any, ids: Mapping[str, int]) -> Any:
    """A setting that names a token, or several, without those that there are not; None if none is left."""
    if isinstance(value, str):
        return value if value in ids else None
    if isinstance(value, dict) and isinstance(value.get("content"), str):
        return value if value["content"] in ids else None
    if isinstance(value, dict):
        return {key: entry for key, entry in value.items() if _known(entry, ids) is not None}
    if isinstance(value, list):
        return [entry for entry in value if _known(entry, ids) is not None]
    return value


def _edit(file: Path, edit: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    if file.exists():
        file.write_text(json.dumps(edit(read_json(file)), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
