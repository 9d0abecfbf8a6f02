from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.study import Environment, Study


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    """A new study without a candidate, open."""
    environment = Environment(python="", platform="", packages={}, models=())
    with Study.create(tmp_path / "night", {"study": "night"}, environment) as study:
        yield study
