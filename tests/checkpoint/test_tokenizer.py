"""Tokenizers as transformers writes them, copied and changed."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import ByteLevel, RobertaProcessing, Sequence, TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from evomerge.checkpoint import AddedToken as NewToken
from evomerge.checkpoint import OutputTokenizer, write_checkpoint
from evomerge.errors import ModelError

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
    assert OutputTokenizer(save_tokenizer(tmp_path)).vocabulary().ids == {"a": 0, "b": 1, "[UNK]": 2, "<ship>": 3}


def test_vocabulary_of_an_older_format(tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nparcel\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    assert OutputTokenizer(tmp_path).vocabulary().ids["parcel"] == 5


@pytest.mark.parametrize("text", [None, "{", '{"model": {}}'])
def test_no_tokenizer_or_a_damaged_one(tmp_path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match="tokenizer missing or damaged") as caught:
        OutputTokenizer(tmp_path).vocabulary()
    assert "\n" not in str(caught.value)


def write(out: Path, tokenizer: OutputTokenizer) -> None:
    write_checkpoint(
        out,
        [],
        headers=[],
        config={"model_type": "llama"},
        tokenizer=tokenizer,
        max_shard_size=1,
        card="",
    )


@pytest.mark.parametrize("template", [None, "{{ messages[0].content }} and so on"])
def test_a_checkpoint_has_tokenizer_generation_config_and_template(tmp_path, template: str | None) -> None:
    source = save_tokenizer(tmp_path / "source", HI)
    (source / "generation_config.json").write_text('{"eos_token_id": 2}')
    others = ("tekken.json", "normalizer.json", "video_preprocessor_config.json")
    for file in (*others, "modeling_evil.py"):
        (source / file).write_text("{}")
    write(tmp_path / "out", OutputTokenizer(source, template))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.get_vocab() == OutputTokenizer(source).vocabulary().ids
    assert tokenizer.chat_template == (template or HI)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {"eos_token_id": 2}
    assert all((tmp_path / "out" / file).exists() for file in others)
    assert not (tmp_path / "out" / "modeling_evil.py").exists()


def test_a_new_template_replaces_every_form_of_the_old(tmp_path) -> None:
    source = save_tokenizer(tmp_path / "source")
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": HI}))
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tool_use.jinja").write_text("old")
    (source / "chat_template.json").write_text('{"chat_template": "old"}')
    write(tmp_path / "kept", OutputTokenizer(source))
    assert (tmp_path / "kept" / "additional_chat_templates" / "tool_use.jinja").read_text() == "old"
    write(tmp_path / "out", OutputTokenizer(source, "new {{ messages }}"))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "new {{ messages }}"
    assert HI not in (tmp_path / "out" / "tokenizer_config.json").read_text()


def save_bpe(folder: Path, kind: str, extra: list[str], **settings) -> Path:
    """A byte-level BPE that knows `the` and ` the`, saved as a class that transformers builds anew on loading."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokens = [*sorted(alphabet), "th", "the", "Ġthe"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: index for index, token in enumerate(tokens)},
            merges=[("t", "h"), ("th", "e"), ("Ġ", "the")],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in extra])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings).save_pretrained(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": kind}))
    return folder


@pytest.mark.parametrize("kind", ["PreTrainedTokenizerFast", "Qwen2Tokenizer", "GPT2Tokenizer"])
@pytest.mark.parametrize("older", [False, True])
def test_added_tokens_come_last_and_are_found_whole(tmp_path, kind: str, older: bool) -> None:
    source = save_bpe(
        tmp_path / "source", kind, ["<|endoftext|>"], eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    if older:  # transformers 4 says of each added token in the settings, too
        config = json.loads((source / "tokenizer_config.json").read_text())
        decoder = {"259": {"content": "<|endoftext|>", "special": True}}
        (source / "tokenizer_config.json").write_text(json.dumps(config | {"added_tokens_decoder": decoder}))
    added = (NewToken("<turn>", special=True, normalized=False), NewToken("ship"))
    changed = OutputTokenizer(source, added=added)
    assert {token: changed.vocabulary().ids[token] for token in ("the", "<|endoftext|>", "<turn>", "ship")} == {
        "the": 257,
        "<|endoftext|>": 259,
        "<turn>": 260,
        "ship": 261,
    }
    tokenizer = changed.load()
    assert tokenizer.get_vocab() == changed.vocabulary().ids
    assert tokenizer.tokenize("the<turn>ship the") == ["the", "<turn>", "ship", "Ġthe"]
    assert tokenizer.decode(tokenizer("the<turn>ship")["input_ids"], skip_special_tokens=True) == "theship"
    assert tokenizer.eos_token_id == 259


def test_tokens_without_an_embedding_are_left_out(tmp_path) -> None:
    source = save_bpe(tmp_path / "source", "TokenizersBackend", ["<a>", "<b>"], eos_token="<a>", pad_token="<b>")
    whole = OutputTokenizer(source).load()
    changed = OutputTokenizer(source, limit=260)  # <b> is 260
    tokenizer = changed.load()
    assert tokenizer.get_vocab() == {token: index for token, index in whole.get_vocab().items() if index < 260}
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<a>", None)
    assert tokenizer.tokenize(" the<a>") == ["Ġthe", "<a>"]
    assert OutputTokenizer(source, limit=258).load().tokenize(" the") == ["Ġ", "the"]


def test_settings_do_not_bring_left_out_tokens_back(tmp_path) -> None:
    special = dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<a>")
    source = save_bpe(tmp_path / "source", "Qwen2Tokenizer", ["<a>", "<b>"], **special)
    config = json.loads((source / "tokenizer_config.json").read_text())
    names = {"extra_special_tokens": {"image_token": "<b>", "boi_token": "<a>"}}
    (source / "tokenizer_config.json").write_text(json.dumps(config | names))
    assert OutputTokenizer(source).load().image_token == "<b>"
    tokenizer = OutputTokenizer(source, limit=260).load()  # <b> is 260
    assert max(tokenizer.get_vocab().values()) == 259
    assert tokenizer.boi_token == "<a>"


@pytest.mark.parametrize(
    "processor, ids",
    [
        (TemplateProcessing("<a> $A <b>", "<a> $A <b> $B", [("<a>", 259), ("<b>", 260)]), [259, 257]),
        (RobertaProcessing(("<b>", 260), ("<a>", 259), add_prefix_space=False), [257]),
        (Sequence([ByteLevel(), RobertaProcessing(("<b>", 260), ("<a>", 259))]), [257]),
        (TemplateProcessing("<a> $A", "<a> $A $B", [("<a>", 259)]), [259, 257]),
        (ByteLevel(), [257]),
    ],
)
def test_left_out_tokens_are_not_added_to_a_text(tmp_path, processor, ids) -> None:
    source = save_bpe(tmp_path / "source", "TokenizersBackend", ["<a>", "<b>"])
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.post_processor = processor
    tokenizer.save(str(source / "tokenizer.json"))
    assert OutputTokenizer(source, limit=260).load()("the")["input_ids"] == ids


@pytest.mark.parametrize(
    "model",
    [
        models.WordLevel({"one": 0, "two": 1, "three": 2}, unk_token="one"),
        models.WordPiece({"one": 0, "two": 1, "three": 2}, unk_token="one"),
        models.Unigram([("one", -1.0), ("two", -2.0), ("three", -3.0)], unk_id=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_tokens_of_any_model_can_be_left_out(tmp_path, model) -> None:
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model)).save_pretrained(tmp_path)
    changed = OutputTokenizer(tmp_path, limit=2, added=(NewToken("four"),))
    assert changed.vocabulary().ids == changed.load().get_vocab() == {"one": 0, "two": 1, "four": 2}


def test_what_is_saved_is_what_is_loaded(tmp_path) -> None:
    source = save_bpe(tmp_path / "source", "GPT2Tokenizer", ["<|endoftext|>"])
    (source / "merges.txt").write_text("t h\n")
    (source / "generation_config.json").write_text('{"eos_token_id": 259}')
    changed = OutputTokenizer(source, HI, added=(NewToken("<turn>"),))
    (tmp_path / "out").mkdir()
    changed.save(tmp_path / "out")
    saved, loaded = AutoTokenizer.from_pretrained(tmp_path / "out"), changed.load()
    assert saved.get_vocab() == loaded.get_vocab()
    assert saved.chat_template == loaded.chat_template == changed.chat_template == HI
    assert (tmp_path / "out" / "generation_config.json").exists()
    assert not (tmp_path / "out" / "merges.txt").exists()  # it would not agree with tokenizer.json


def test_the_digest_tells_tokens_apart_and_not_settings(tmp_path) -> None:
    first = save_bpe(tmp_path / "first", "Qwen2Tokenizer", ["<a>"], model_max_length=8)
    second = save_bpe(tmp_path / "second", "Qwen2Tokenizer", ["<a>"], model_max_length=9)
    third = save_bpe(tmp_path / "third", "Qwen2Tokenizer", ["<b>"])
    (tmp_path / "empty").mkdir()
    assert OutputTokenizer(first).digest() == OutputTokenizer(second).digest()
    assert OutputTokenizer(first).digest() != OutputTokenizer(third).digest()
    assert OutputTokenizer(first).digest() != OutputTokenizer(first, added=(NewToken("<b>"),)).digest()
    assert OutputTokenizer(tmp_path / "empty").digest() is None


def test_a_tokenizer_in_python_alone_cannot_be_changed(tmp_path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer", "extra_ids": 0}')
    assert OutputTokenizer(tmp_path).vocabulary().ids["a"] == 3 + ord("a")  # after <pad>, </s> and <unk>
    message = r"tokenizer cannot be changed .*found ByT5Tokenizer; take the tokenizer of another model"
    with pytest.raises(ModelError, match=message):
        OutputTokenizer(tmp_path, added=(NewToken("<turn>"),)).vocabulary()


def test_a_tokenizer_without_a_tokenizer_json_can_be_changed(tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nparcel\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    tokenizer = OutputTokenizer(tmp_path, added=(NewToken("[turn]", special=True),)).load()
    assert tokenizer("[turn] parcel")["input_ids"] == [2, 6, 5, 3]
