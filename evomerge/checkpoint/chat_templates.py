"""Chat templates: the well-known ones by name, the one that most models of a merge have, or Jinja text.

The templates are Jinja as transformers renders it: `messages`, `add_generation_prompt`, `bos_token` and `eos_token` are
given, and `raise_exception`. They hold no line break outside of a string, so that no whitespace setting matters. Where
mergekit 0.1.5 puts blanks and line breaks that a format does not have, these keep to the format.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from evomerge.checkpoint.folder import read_json
from evomerge.errors import ModelError, RecipeError, nearest

CHAT_TEMPLATES = {
    "alpaca": (
        "{% set titles = {'user': '### Instruction:\\n', 'user_context': '### Input:\\n', "
        "'assistant': '### Response:\\n'} %}"
        "{% for message in messages %}"
        "{{ titles.get(message['role'], '') + message['content'] | trim + '\\n\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ titles['assistant'] }}{% endif %}"
    ),
    "chatml": (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "exaone": (
        "{% if messages[0]['role'] != 'system' %}{{ '[|system|][|endofturn|]\\n' }}{% endif %}"
        "{% for message in messages %}"
        "{{ '[|' + message['role'] + '|]' + message['content'] "
        "+ ('' if message['role'] == 'user' else '[|endofturn|]') + '\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}"
        "{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' "
        "+ message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "mistral": (
        "{% set system = messages[0]['role'] == 'system' %}"
        "{% set turns = messages[1:] if system else messages %}"
        "{{ bos_token }}"
        "{% for message in turns %}"
        "{% if message['role'] != ('user', 'assistant')[loop.index0 % 2] %}"
        "{{ raise_exception('roles must alternate user, assistant, user ... after an optional system message') }}"
        "{% elif message['role'] == 'assistant' %}"
        "{{ ' ' + message['content'] + eos_token }}"
        "{% else %}"
        "{{ ' [INST] ' + (messages[0]['content'] + '\\n\\n' if system and loop.first else '') "
        "+ message['content'] + ' [/INST]' }}"
        "{% endif %}"
        "{% endfor %}"
    ),
}


def chat_template(setting: str, own: Iterable[str | None]) -> str | None:
    """The chat template that a recipe's `chat_template` stands for.

    Args:
        setting: a Jinja template; or a name of CHAT_TEMPLATES; or `auto`, the template that most of the models have.
        own: the template of each model, None where it has none; `auto` prefers the earlier on a tie.

    Returns:
        The template, or None when `auto` finds none.

    Raises:
        RecipeError: `setting` is none of these, or a template that Jinja cannot compile.
    """
    if setting == "auto":
        templates = Counter(filter(None, own))
        return max(templates, key=lambda template: templates[template], default=None)
    if setting in CHAT_TEMPLATES:
        return CHAT_TEMPLATES[setting]
    if "{" not in setting:
        known = ("auto", *CHAT_TEMPLATES)
        raise RecipeError(
            "unknown chat template",
            where="chat_template",
            expected=f"{', '.join(known)} or a Jinja template",
            found=setting,
            remedy=nearest(setting, known),
        )
    _compile(setting)
    return setting


def _compile(template: str) -> None:
    """Refuse an error of syntax and a filter or test that there is not: what transformers has is what Jinja has."""
    from jinja2 import Environment, TemplateSyntaxError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser

    class Generation(Extension):
        """The tag with which transformers marks what an assistant wrote."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    try:
        Environment(extensions=[loopcontrols, Generation]).compile(template)
    except TemplateSyntaxError as error:
        raise RecipeError(
            "chat template is not valid Jinja", where=f"chat_template: line {error.lineno}", found=error.message
        ) from None
    except (RecursionError, SyntaxError, ValueError) as error:  # nested too deep for Python; a number too long for it
        raise RecipeError("chat template cannot be compiled", where="chat_template", found=error) from None


def template_of(folder: Path) -> str | None:
    """The chat template in a model's folder, in whichever form; None if there is none.

    Raises:
        ModelError: it is not UTF-8, or in no form that transformers reads.
    """
    if (folder / "chat_template.jinja").exists():
        try:
            return (folder / "chat_template.jinja").read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise _damaged(folder / "chat_template.jinja", "UTF-8 text") from None
    for file in ("chat_template.json", "tokenizer_config.json"):
        template = read_json(folder / file).get("chat_template") if (folder / file).exists() else None
        if isinstance(template, list):
            try:
                template = {entry["name"]: entry["template"] for entry in template}.get("default")
            except (KeyError, TypeError):
                raise _damaged(folder / file, "a text, or a list of {name, template}") from None
        if isinstance(template, str):
            return template
    return None


def _damaged(file: Path, expected: str) -> ModelError:
    return ModelError("chat template is damaged", where=file, expected=expected, remedy="download or save it again")
