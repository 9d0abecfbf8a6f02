"""How values read on pages and in reports: the filters of all templates."""

import re
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape

from evomerge.study import status
from evomerge.study.results import Range

NONE = "–"


def number(value: float | None) -> str:
    """A score or an objective, to four decimals."""
    return NONE if value is None else f"{value:.4f}"


def short(value: float | None) -> str:
    """A number that may be whole, such as the score of one document."""
    return NONE if value is None else f"{value:.4g}"


def interval(ends: Range | None) -> str:
    """The ends of an interval; nothing where there is none."""
    return "" if ends is None else f"[{ends[0]:.4f}, {ends[1]:.4f}]"


def margin(violation: float | None) -> str:
    """By how much a gate is cleared, in percent of its bound; negative where it is missed."""
    return NONE if violation is None else f"{0.0 - 100 * violation:+.1f} %".replace("-", "−")


def gate(text: str) -> str:
    """A gate as the suite writes it, such as `>= 0.98 x best_parent`, with the signs of print."""
    return text.replace(">=", "≥").replace("<=", "≤").replace(" x ", " × ").replace("best_parent", "best parent")


def count(value: int | float | None) -> str:
    """A whole number, with commas."""
    return NONE if value is None else f"{value:,.0f}"


def size(count_of_bytes: float) -> str:
    """An amount of data, such as 1.4 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count_of_bytes < 999.5:
            return f"{count_of_bytes:.3g} {unit}"
        count_of_bytes /= 1000
    return f"{count_of_bytes:.3g} TB"


def duration(seconds: float | None) -> str:
    """A time span, such as 3.2 s or 2 h 05 min."""
    if seconds is None:
        return NONE
    return f"{seconds:.1f} s" if seconds < 9.95 else status.duration(seconds)


def moment(utc: str | None) -> str:
    """A moment in UTC, given as ISO 8601; a browser shows it in its own time zone."""
    return NONE if utc is None else f"{utc[:16].replace('T', ' ')} UTC"


def sentence(text: str) -> str:
    """A line that may begin a sentence: its first letter is a capital, the others stay as they are."""
    return text[:1].upper() + text[1:]


def breakable(name: str) -> Markup:
    """A long name, such as that of a dimension, that may be broken behind its dots and slashes."""
    return Markup(re.sub(r"([./])", r"\1<wbr>", str(escape(name))))


FILTERS: dict[str, Callable[[Any], str]] = {
    each.__name__: each
    for each in (number, short, interval, margin, gate, count, size, duration, moment, sentence, breakable)
}
