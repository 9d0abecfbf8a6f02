"""Logs, read from their end."""

import os
from pathlib import Path

_READ = 64 * 1024  # bytes in which the last lines are looked for


def tail(path: Path, lines: int) -> tuple[str, ...]:
    """The last lines of a log; none where it cannot be read.

    Args:
        path: of the file, to which others may be writing.
        lines: how many at most, from 1; there are fewer of very long ones.
    """
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - _READ)
            file.seek(start)
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    whole = text.splitlines()[1 if start else 0 :]  # the first one may be cut
    return tuple(whole[-lines:])
