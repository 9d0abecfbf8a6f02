"""The rules of a small shop, and the documents that follow them.

Each task asks for the outcome of a rule: what a parcel costs, what becomes of a returned item, which code an item has in the
catalogue. A rule is a set of tables drawn from a seed. The base model learnt the old tables of all three; each
specialist learnt the new tables of one. Every document is one combination of words and numbers, so a model that answers
unseen documents has learnt the rule and not the document.
"""

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["DECISIONS", "EVALUATION_SIZE", "TASKS", "Document", "evaluation_documents", "training_documents"]

TASKS = ("shipping", "refunds", "catalogue")
EVALUATION_SIZE = 560
DECISIONS = ("full", "half", "voucher", "refuse")

_CITIES = tuple("oslo rome bern riga kiev paris lyon turin milan porto cork york bonn graz linz brno".split())
_ITEMS = tuple("lamp desk sofa chair rug vase clock bowl shelf mug fork kettle toaster mirror bench stool".split())
_COLOURS = tuple("red blue green black white grey pink gold beige teal".split())
_SPEEDS = ("slow", "normal", "express")
_CONDITIONS = ("sealed", "opened", "worn", "broken", "stained")
_SIZES = ("small", "medium", "large", "huge")
_MATERIALS = ("oak", "steel", "glass", "wool", "clay")
_LETTERS = "ABCDEFGH"
_DIGITS = "0123456789"


@dataclass(frozen=True)
class Document:
    """A question, and the answer that the rule gives; joined by one space they are what a model reads."""

    prompt: str
    answer: str


def _table[K](rng: random.Random, keys: Sequence[K], values: Sequence[str]) -> dict[K, str]:
    """Map keys to values so that every value is used about equally often."""
    cycle = [values[i % len(values)] for i in range(len(keys))]
    rng.shuffle(cycle)
    return dict(zip(keys, cycle, strict=True))
