"""A small shop: a base model, three specialists and the tasks that tell them apart, all inside the package.

`FOLDER` holds `models/` (Hugging Face checkpoints) and `tasks/` (lm-eval tasks with their documents).
`python -m evomerge.demo.train OUT` builds both again.
"""

from pathlib import Path

__all__ = ["FOLDER"]

FOLDER = Path(__file__).parent
