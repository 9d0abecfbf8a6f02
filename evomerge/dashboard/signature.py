"""What tells that files have changed, without reading them."""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

Signature: TypeAlias = tuple[int, int, int] | None


def signature(path: Path) -> Signature:
    """Inode, size and time of the last change, in ns, of a file; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def digest(parts: Iterable[object]) -> str:
    """A short text for values that are equal where their `repr` is."""
    return sha256(repr(tuple(parts)).encode()).hexdigest()[:16]
