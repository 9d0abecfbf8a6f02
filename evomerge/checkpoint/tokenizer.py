"""Tokenizer files of a model folder: which they are, and the vocabulary and the chat template in them."""

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from evomerge.checkpoint.folder import read_json
from evomerge.errors import ModelError, RecipeError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "*.tiktoken",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
)
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def vocabulary(folder: Path) -> dict[str, int]:
    """Every token of a folder's tokenizer, added ones too, and its id.

    Raises:
        ModelError: the folder has no tokenizer, or one that cannot be read.
    """
    try:
        if (folder / "tokenizer.json").exists():
            from tokenizers import Tokenizer

            return Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab(with_added_tokens=True)
        from transformers import AutoTokenizer

        tokens: dict[str, int] = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).get_vocab()
    except Exception as error:  # what the tokenizers library raises is a bare Exception
        reason = str(error).partition("\n")[0]
        raise ModelError("tokenizer missing or damaged", where=folder, found=reason) from None
    return tokens


def chat_template(setting: str, folders: Sequence[Path]) -> str | None:
    """The chat template that a recipe's `chat_template` stands for.

    Args:
        setting: a Jinja template; or `chatml`; or `auto`, the template that most of the models have.
        folders: the folders of the models, where `auto` prefers the earlier on a tie.

    Returns:
        The template, or None when `auto` finds none.

    Raises:
        RecipeError: `setting` is neither.
    """
    if setting == "auto":
        templates = Counter(filter(None, map(_template_of, folders)))
        return max(templates, key=lambda template: templates[template], default=None)
    if setting == "chatml":
        return CHATML
    if "{" not in setting:
        raise RecipeError(
            "unknown chat template", where="chat_template", expected="auto, chatml or a Jinja template", found=setting
        )
    return setting


def copy_tokenizer(source: Path, target: Path, template: str | None) -> None:
    """Copy the tokenizer's files and the generation config of one folder to another; `template` replaces the chat's."""
    for pattern in (*TOKENIZER_FILES, *(TEMPLATE_FILES if template is None else ())):
        for file in sorted(source.glob(pattern)):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, copy)
    if template is not None:
        (target / "chat_template.jinja").write_text(template, encoding="utf-8")
        if (source / "tokenizer_config.json").exists():
            config = read_json(source / "tokenizer_config.json")
            config.pop("chat_template", None)
            (target / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _template_of(folder: Path) -> str | None:
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    for file in ("chat_template.json", "tokenizer_config.json"):
        template = read_json(folder / file).get("chat_template") if (folder / file).exists() else None
        if isinstance(template, list):
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        if isinstance(template, str):
            return template
    return None
