import time
from pathlib import Path

import pytest

from evomerge.study import Environment, Result, Study, StudyView

CANDIDATES = 3000
DIMENSIONS = 36


@pytest.mark.soak
def test_a_large_study_opens_quickly_and_a_candidate_costs_little(tmp_path: Path):
    space = {f"weight.layers_{index}.self_attn.shipping": (0.0, 1.2) for index in range(DIMENSIONS)}
    with Study.create(
        tmp_path / "night", {"study": "night"}, Environment(python="", platform="", packages={}, models=())
    ) as study:
        began = time.perf_counter()
        for index in range(CANDIDATES):
            number = study.start(
                [index / CANDIDATES] * DIMENSIONS, dict.fromkeys(space, 0.5), space, "# recipe\n" * 300
            )
            result = Result(scores={"t": 0.5}, violations={"t": index % 3 - 1.0}, objective=index % 7 / 7)
            study.finish(number, result)
        each = (time.perf_counter() - began) / CANDIDATES
    began = time.perf_counter()
    Study.open(tmp_path / "night").close()
    opening = time.perf_counter() - began
    began = time.perf_counter()
    assert StudyView(tmp_path / "night").best.objective == 6 / 7
    reading = time.perf_counter() - began
    print(f"{1000 * each:.1f} ms a candidate, opening {opening:.2f} s, reading {reading:.2f} s")
    assert each < 0.1
    assert opening < 2.5
    assert reading < 2.5
