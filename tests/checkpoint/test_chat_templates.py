"""Chat templates by name, by majority and as text; rendered as transformers renders them."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from evomerge.checkpoint import OutputTokenizer, chat_template
from evomerge.errors import ModelError, RecipeError

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Bye"},
]
RENDERED = {
    "alpaca": "Be kind.\n\n### Instruction:\nHi\n\n### Response:\nYes?\n\n### Instruction:\nBye\n\n### Response:\n",
    "chatml": (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    ),
    "exaone": "[|system|]Be kind.[|endofturn|]\n[|user|]Hi\n[|assistant|]Yes?[|endofturn|]\n[|user|]Bye\n[|assistant|]",
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "mistral": "<s> [INST] Be kind.\n\nHi [/INST] Yes?</s> [INST] Bye [/INST]",
}
FIRST_WORDS = {  # of a user, without a system message, to be completed by nobody
    "alpaca": "### Instruction:\nHi\n\n",
    "chatml": "<|im_start|>user\nHi<|im_end|>\n",
    "exaone": "[|system|][|endofturn|]\n[|user|]Hi\n",
    "llama3": "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
    "mistral": "<s> [INST] Hi [/INST]",
}


@pytest.fixture(scope="module")
def render():
    tokens = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, bos_token="<s>", eos_token="</s>")

    def run(name: str, messages: list[dict[str, str]], *, prompt: bool) -> str:
        return tokenizer.apply_chat_template(
            messages, chat_template=chat_template(name, []), tokenize=False, add_generation_prompt=prompt
        )

    return run


@pytest.mark.parametrize("name", RENDERED)
def test_a_conversation_is_rendered_as_its_format_says(render, name: str) -> None:
    assert render(name, TALK, prompt=True) == RENDERED[name]
    assert render(name, TALK[1:2], prompt=False) == FIRST_WORDS[name]


@pytest.mark.parametrize("messages", [TALK[2:], [*TALK[:2], *TALK[3:]], [TALK[1], TALK[0]]])
def test_mistral_refuses_roles_out_of_turn(render, messages) -> None:
    with pytest.raises(Exception, match="roles must alternate user, assistant, user"):
        render("mistral", messages, prompt=True)


def test_auto_is_what_most_models_have(tmp_path: Path) -> None:
    forms = {
        "jinja": {"chat_template.jinja": "A"},
        "json": {"chat_template.json": json.dumps({"chat_template": "B"})},
        "config": {"tokenizer_config.json": json.dumps({"chat_template": "B"})},
        "named": {"tokenizer_config.json": json.dumps({"chat_template": [{"name": "default", "template": "A"}]})},
        "none": {"tokenizer_config.json": "{}"},
    }
    own = {}
    for name, files in forms.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        own[name] = OutputTokenizer(tmp_path / name).chat_template
    assert chat_template("auto", [own[name] for name in ("jinja", "json", "config", "none")]) == "B"
    assert chat_template("auto", [own[name] for name in ("jinja", "json", "config", "named")]) == "A"
    assert chat_template("auto", [own["none"]]) is None


@pytest.mark.parametrize(
    "text",
    [
        "{% for message in messages %}hi {{ message.content }}{% endfor %}",
        "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m }}{% endfor %}",
        "{% generation %}{{ messages[0].content | tojson }}{% endgeneration %}",
    ],
)
def test_a_template_stands_for_itself(text: str) -> None:
    assert chat_template(text, []) == text


@pytest.mark.parametrize("entries", [["x"], [{"name": "default"}], [{"name": [], "template": "A"}]])
def test_templates_in_no_known_form(tmp_path: Path, entries: list[object]) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": entries}))
    message = r"chat template is damaged \(.*tokenizer_config.json\): expected a text, or a list of {name, template}"
    with pytest.raises(ModelError, match=message):
        _ = OutputTokenizer(tmp_path).chat_template


def test_a_template_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes("{{ 'dö' }}".encode("latin-1"))
    with pytest.raises(ModelError, match=r"chat template is damaged \(.*chat_template.jinja\): expected UTF-8 text"):
        _ = OutputTokenizer(tmp_path).chat_template


def test_a_word_that_is_no_name() -> None:
    message = r"unknown chat template \(chat_template\): expected auto, alpaca, .*found alpcaa; did you mean 'alpaca'\?"
    with pytest.raises(RecipeError, match=message):
        chat_template("alpcaa", [])


@pytest.mark.parametrize(
    "text, found",
    [("hi\n{% for message in messages %}", "Unexpected end of template"), ("\n{{ x | nosuch }}", "No filter named")],
)
def test_a_template_that_cannot_be_compiled(text: str, found: str) -> None:
    message = rf"chat template is not valid Jinja \(chat_template: line 2\): found {found}"
    with pytest.raises(RecipeError, match=message) as caught:
        chat_template(text, [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, found",
    [
        ("{{ " + "(" * 3000 + " }}", "maximum recursion depth"),
        ("{% for a in b %}" * 25 + "{% endfor %}" * 25, "too many statically nested blocks"),
        ("{{ " + "9" * 5000 + " }}", "Exceeds the limit"),
    ],
)
def test_a_template_that_is_too_much_for_python(text: str, found: str) -> None:
    with pytest.raises(RecipeError, match=rf"chat template cannot be compiled \(chat_template\): found {found}"):
        chat_template(text, [])
