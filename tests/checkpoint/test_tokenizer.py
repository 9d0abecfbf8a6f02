"""Vocabularies and chat templates, in the forms that transformers writes."""

import json
from pathlib import Path

import pytest
from jinja2 import Environment
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from evomerge.checkpoint import chat_template, vocabulary, write_checkpoint
from evomerge.errors import ModelError, RecipeError

HI = "{% for message in messages %}hi {{ message.content }}{% endfor %}"


def save_tokenizer(folder: Path, template: str | None = None) -> Path:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_tokens([AddedToken("<ship>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    fast.chat_template = template
    fast.save_pretrained(folder)
    return folder


def test_vocabulary_has_the_added_tokens(tmp_path) -> None:
    assert vocabulary(save_tokenizer(tmp_path)) == {"a": 0, "b": 1, "[UNK]": 2, "<ship>": 3}


def test_vocabulary_of_an_older_format(tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nparcel\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert vocabulary(tmp_path)["parcel"] == 5


@pytest.mark.parametrize("text", [None, "{", '{"model": {}}'])
def test_no_tokenizer_or_a_damaged_one(tmp_path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match="tokenizer missing or damaged") as caught:
        vocabulary(tmp_path)
    assert "\n" not in str(caught.value)


def write(out: Path, tokenizer_from: Path, template: str | None) -> None:
    write_checkpoint(
        out,
        [],
        headers=[],
        config={"model_type": "llama"},
        tokenizer_from=tokenizer_from,
        max_shard_size=1,
        card="",
        chat_template=template,
    )


@pytest.mark.parametrize("template", [None, "{{ messages[0].content }} and so on"])
def test_a_checkpoint_has_tokenizer_generation_config_and_template(tmp_path, template: str | None) -> None:
    source = save_tokenizer(tmp_path / "source", HI)
    (source / "generation_config.json").write_text('{"eos_token_id": 2}')
    (source / "modeling_evil.py").write_text("")
    write(tmp_path / "out", source, template)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == vocabulary(source)
    assert tokenizer.chat_template == (template or HI)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {"eos_token_id": 2}
    assert not (tmp_path / "out" / "modeling_evil.py").exists()


def test_a_new_template_replaces_every_form_of_the_old(tmp_path) -> None:
    source = save_tokenizer(tmp_path / "source")
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": HI}))
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("old")
    (source / "chat_template.json").write_text('{"chat_template": "old"}')
    write(tmp_path / "kept", source, None)
    assert (tmp_path / "kept" / "additional_chat_templates" / "tool_use.jinja").read_text() == "old"
    write(tmp_path / "out", source, "new {{ messages }}")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "new {{ messages }}"
    assert HI not in (tmp_path / "out" / "tokenizer_config.json").read_text()


def test_auto_is_what_most_models_have(tmp_path) -> None:
    forms = {
        "jinja": {"chat_template.jinja": "A"},
        "json": {"chat_template.json": json.dumps({"chat_template": "B"})},
        "config": {"tokenizer_config.json": json.dumps({"chat_template": "B"})},
        "named": {
            "tokenizer_config.json": json.dumps({"chat_template": [{"name": "default", "template": "A"}]}),
        },
        "none": {"tokenizer_config.json": "{}"},
    }
    folders = {}
    for name, files in forms.items():
        folders[name] = tmp_path / name
        folders[name].mkdir()
        for file, text in files.items():
            (folders[name] / file).write_text(text)
    assert chat_template("auto", [folders[name] for name in ("jinja", "json", "config", "none")]) == "B"
    assert chat_template("auto", [folders[name] for name in ("jinja", "json", "config", "named")]) == "A"
    assert chat_template("auto", [folders["none"]]) is None


def test_chatml_frames_each_message() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    template = Environment().from_string(chat_template("chatml", []))
    assert template.render(messages=messages, add_generation_prompt=True) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_template_stands_for_itself_and_a_word_does_not() -> None:
    assert chat_template(HI, []) == HI
    with pytest.raises(RecipeError, match=r"unknown chat template .*found alpcaa"):
        chat_template("alpcaa", [])
