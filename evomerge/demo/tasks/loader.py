"""Loads the documents that lie beside the task files, wherever the package is installed."""

import json
from pathlib import Path
from typing import Any

from datasets import Dataset


def load(file: str, **_: Any) -> dict[str, Dataset]:
    """The documents of one JSON-lines file as lm-eval's validation split; lm-eval adds its own keywords."""
    lines = (Path(__file__).parent / file).read_text(encoding="utf-8").splitlines()
    return {"validation": Dataset.from_list([json.loads(line) for line in lines])}
