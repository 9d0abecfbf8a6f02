"""`python -m evomerge.bench.probe ARGUMENTS`: run `evomerge ARGUMENTS`, and tell when it began to read weights.

The last line of the output is the moments of the first mapping of a file and of the end, in seconds of the system's
monotonic clock, which other processes share.
"""

import json
import runpy
import sys
import time


def main() -> int:
    """Run, and give the exit code."""
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
    print(json.dumps({"first_read": mapped[0] if mapped else None, "end": time.monotonic()}))
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
