"""YAML documents: read strictly, written so that people and mergekit read them."""

from typing import Any

import yaml

from evomerge.errors import RecipeError


def read_documents(text: str, where: str) -> list[Any]:
    """The documents of a YAML text, at least one; empty ones beside others do not count.

    Raises:
        RecipeError: `text` is not YAML, gives a key twice, or escapes what is no character.
    """
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise RecipeError(f"not valid YAML: {getattr(error, 'problem', error)}", where=place) from None
    except (ValueError, RecursionError) as error:  # of a date or a tagged number that is none; of deep nesting
        raise RecipeError("not valid YAML", where=where, found=error) from None
    return [document for document in documents if document is not None] or [None]


def write_document(document: Any) -> str:
    """A document of mappings, lists and scalars as YAML."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key given twice and strings that cannot be written."""

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node: yaml.ScalarNode = super().compose_scalar_node(anchor)
        try:
            node.value.encode()
        except UnicodeEncodeError:
            raise yaml.composer.ComposerError(
                problem=f"no character, but half of a surrogate pair: {ascii(node.value)[:80]}",
                problem_mark=node.start_mark,
            ) from None
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        first = {key.value: key for key in reversed(keys)}
        for key in keys:
            if key is not first[key.value]:
                raise yaml.composer.ComposerError(problem=f"key {key.value!r} given twice", problem_mark=key.start_mark)
        return node


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, without anchors, with lists of scalars on one line and text in blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: yaml.SafeDumper, entries: list[Any]) -> yaml.Node:
    flow = not any(isinstance(entry, list | dict) for entry in entries)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", entries, flow_style=flow)


def _represent_str(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # PyYAML folds the separators other than a newline into one unless they are escaped.
    style = '"' if any(mark in text for mark in "\r\x85\u2028\u2029") else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(list, _represent_list)
_Dumper.add_representer(str, _represent_str)
