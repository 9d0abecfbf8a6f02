"""The one shape of every error that a user can cause.

OneLineError               what (where): expected ..., found ...; what to do
 +-- SuiteError            a suite, a task or a gate is wrong
 +-- ScoringError          a model cannot be scored (NaN or Inf in its logits)
 +-- evomerge.errors.*     everything about models, recipes, configs and studies
"""

from collections.abc import Iterable
from difflib import get_close_matches

_LISTED = 20  # known words in one line


class OneLineError(Exception):
    """An error that a user can mend, told in one line.

    Args:
        what: what is wrong.
        where: the file, key, model or tensor it is wrong in.
        expected: what would have been right.
        found: what is there instead.
        remedy: what to do about it.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        expected: object = None,
        found: object = None,
        remedy: str | None = None,
    ) -> None:
        self.what, self.where, self.expected, self.found, self.remedy = what, where, expected, found, remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        line = self.what if self.where is None else f"{self.what} ({self.where})"
        facts = [
            f"{name} {fact}" for name, fact in (("expected", self.expected), ("found", self.found)) if fact is not None
        ]
        if facts:
            line += ": " + ", ".join(facts)
        if self.remedy is not None:
            line += f"; {self.remedy}"
        return " ".join(line.split())

    def __reduce__(self) -> tuple[object, ...]:
        fields = {key: getattr(self, key) for key in ("where", "expected", "found", "remedy")}
        return (_rebuild, (type(self), self.what, fields))


def _rebuild(kind: type[OneLineError], what: str, fields: dict[str, object]) -> OneLineError:
    return kind(what, **fields)  # type: ignore[arg-type]


class SuiteError(OneLineError):
    """The suite, one of its tasks or one of its gates cannot be used."""


class ScoringError(OneLineError):
    """A model cannot be scored: its logits are not finite, or a score has no value."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A remedy that names the known word nearest to a misspelt one, or lists them, the first of many."""
    words = sorted(known)
    close = get_close_matches(word, words, n=1, cutoff=0.5)
    more = f", ... ({len(words)} in all)" if len(words) > _LISTED else ""
    return f"did you mean {close[0]!r}?" if close else "known: " + ", ".join(map(repr, words[:_LISTED])) + more
