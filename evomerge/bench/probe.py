"""`python -m evomerge.bench.probe [--floor FILE] merge ...`: run `evomerge merge ...`, and tell when it began to read.

The last line of the output is the moments of the first mapping of a file and of the end, in seconds of the system's
monotonic clock, which other processes share; and the seconds of the floor of that merge, null unless it was asked for.
"""

import json
import runpy
import sys
import time
from pathlib import Path


def main() -> int:
    """Run, and give the exit code."""
    floor = None
    if sys.argv[1] == "--floor":
        _, _, file, _, recipe, *_ = sys.argv
        floor = _floor(Path(recipe), Path(file))
        del sys.argv[1:3]
    mapped: list[float] = []

    def watch(event: str, details: object) -> None:
        if event == "mmap.__new__" and not mapped:
            mapped.append(time.monotonic())

    sys.addaudithook(watch)  # weights are read through maps, and nothing else is
    sys.argv[0] = "evomerge"
    code: object = 0
    try:
        runpy.run_module("evomerge", run_name="__main__")
    except SystemExit as ending:
        code = ending.code
    print(json.dumps({"first_read": mapped[0] if mapped else None, "end": time.monotonic(), "floor": floor}))
    return code if isinstance(code, int) else 0


def _floor(recipe: Path, file: Path) -> float:
    """Seconds of the second of two floors.

    The first, and then the second, leaves memory behind that is not in use for an instant, for the next to write to. Of
    a virtual machine it may later be the host's again, and take a second to get back, whoever writes to it.
    """
    from evomerge.bench.floor import disk_floor
    from evomerge.recipe import Recipe

    models = Recipe.read(recipe).models_used
    disk_floor(models, file)
    return disk_floor(models, file)


if __name__ == "__main__":
    sys.exit(main())
