"""The rules of a small shop, and the documents that follow them.

Each task asks for the outcome of a rule: what a parcel costs, what becomes of a returned item, which code an article
has in the catalogue. A rule is a set of tables drawn from a seed. The base model saw last year's tables of all three
tasks, and fewer of this year's; each specialist then learnt this year's tables of one task. Every document is one
combination of words and numbers, so a model that answers documents it has not seen has learnt the rule.
"""

import itertools
import json
import random
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

__all__ = [
    "DECISIONS",
    "EVALUATION_SIZE",
    "TASKS",
    "YEARS",
    "Document",
    "documents",
    "split_documents",
    "write_evaluation_documents",
]

TASKS = ("shipping", "refunds", "catalogue")
YEARS = ("last", "this")
EVALUATION_SIZE = 560
DECISIONS = ("full", "half", "voucher", "refuse")

_CITIES = ("oslo", "rome", "bern", "riga", "paris", "lyon", "turin", "milan", "porto", "cork", "york", "bonn")
_ITEMS = ("lamp", "desk", "sofa", "chair", "rug", "vase", "clock", "bowl", "shelf", "mug", "fork", "bench")
_COLOURS = ("red", "blue", "green", "black", "white", "grey", "pink", "gold", "beige", "teal")
_SPEEDS = ("slow", "normal", "express")
_CONDITIONS = ("sealed", "opened", "worn", "broken")
_SIZES = ("small", "medium", "large", "huge")
_MATERIALS = ("oak", "steel", "glass", "wool", "clay")
_NUMBERS = range(100)
_LETTERS = "ABCDEFGH"
_DIGITS = "0123456789"

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Document:
    """A question and the answer that the rule gives; joined by one space they are what a model reads."""

    prompt: str
    answer: str


def documents(task: str, year: str) -> list[Document]:
    """Every document of one task under the tables of one year, in a fixed order; prompts are the same every year."""
    rng = random.Random(f"{task} {year}")
    return list(_RULES[task](rng))


def split_documents(task: str, year: str) -> tuple[list[Document], list[Document]]:
    """The documents for training and the `EVALUATION_SIZE` documents kept apart, shuffled; no prompt is in both."""
    shuffled = documents(task, year)
    random.Random(f"{task} split").shuffle(shuffled)
    return shuffled[EVALUATION_SIZE:], shuffled[:EVALUATION_SIZE]


def write_evaluation_documents(folder: Path) -> None:
    """Write this year's documents for evaluation, one JSON object a line, to `folder`/<task>.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        lines = (json.dumps(asdict(document)) + "\n" for document in split_documents(task, "this")[1])
        (folder / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")


def _shipping(rng: random.Random) -> Iterator[Document]:
    """Carrier letter by zone and speed, price digit by zone and weight class."""
    zone_of = _table(rng, _CITIES, range(4))
    class_of = _table(rng, range(10), range(4))
    carrier = _table(rng, list(itertools.product(range(4), _SPEEDS)), _LETTERS)
    price = _table(rng, list(itertools.product(range(4), range(4))), _DIGITS)
    for weight, city, speed in itertools.product(_NUMBERS, _CITIES, _SPEEDS):
        zone = zone_of[city]
        weight_class = class_of[weight // 10]
        yield Document(
            f"ship {weight:02d} kg to {city} {speed} :", f"{carrier[zone, speed]}{price[zone, weight_class]}"
        )


def _refunds(rng: random.Random) -> Iterator[Document]:
    """Decision by condition and by whether the term of the item's department is over."""
    department_of = _table(rng, _ITEMS, range(3))
    term_of = _table(rng, range(3), rng.sample(range(20, 80, 10), 3))
    decision = _table(rng, list(itertools.product((False, True), _CONDITIONS)), DECISIONS)
    for item, days, condition in itertools.product(_ITEMS, _NUMBERS, _CONDITIONS):
        late = days >= term_of[department_of[item]]
        yield Document(f"refund {item} after {days:02d} days {condition} :", decision[late, condition])


def _catalogue(rng: random.Random) -> Iterator[Document]:
    """Shelf letter by item, then a digit by colour and a letter by size and material."""
    shelf = _table(rng, _ITEMS, _LETTERS)
    colour_code = _table(rng, _COLOURS, _DIGITS)
    make = _table(rng, list(itertools.product(_SIZES, _MATERIALS)), _LETTERS)
    for colour, size, material, item in itertools.product(_COLOURS, _SIZES, _MATERIALS, _ITEMS):
        yield Document(
            f"code {colour} {size} {material} {item} :", f"{shelf[item]}{colour_code[colour]}{make[size, material]}"
        )


_RULES: Mapping[str, Callable[[random.Random], Iterator[Document]]] = {
    "shipping": _shipping,
    "refunds": _refunds,
    "catalogue": _catalogue,
}


def _table(rng: random.Random, keys: Sequence[Key], values: Sequence[Value]) -> dict[Key, Value]:
    """Give every key a value, each value about equally often, in an order drawn from `rng`."""
    column = [values[i % len(values)] for i in range(len(keys))]
    rng.shuffle(column)
    return dict(zip(keys, column, strict=True))
