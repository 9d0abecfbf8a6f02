import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import NothingFeasibleError, UsageError, exit_code
from evomerge.study import Candidate, Study
from evomerge.study.export import choose, pareto, write_export

Add = Callable[..., Candidate]


def test_the_winner_is_exported_unless_a_number_is_given(study: Study, recorded: Add):
    recorded(study, 0.9, violation=0.1)
    best = recorded(study, 0.5)
    assert choose(study) == best
    assert choose(study, 0).number == 0
    with pytest.raises(UsageError, match="no such candidate"):
        choose(study, 2)


def test_nothing_feasible_names_the_nearest(study: Study, recorded: Add):
    for export in (choose, pareto):
        with pytest.raises(NothingFeasibleError, match="found 0 scored candidates"):
            export(study)
    recorded(study, 0.9, violation=0.4)
    recorded(study, 0.1, violation=0.2)
    recorded(study, None)
    for export in (choose, pareto):
        with pytest.raises(NothingFeasibleError, match="found 2 scored") as refused:
            export(study)
        assert "the nearest is number 1, which misses shipping" in str(refused.value)
        assert exit_code(refused.value) == 3


def test_pareto_knows_the_direction_of_each_task_and_the_gates(study: Study, recorded: Add):
    points = [
        (0.5, 9.0, 0.0),  # beaten by 2 on both
        (0.9, 20.0, 0.0),  # best at shipping
        (0.7, 8.0, 0.0),  # between
        (0.7, 8.0, 0.0),  # the same as 2
        (0.7, 8.5, 0.0),  # beaten by 2 on prose
        (0.1, 5.0, 0.0),  # best at prose, where lower is better
        (1.0, 1.0, 0.1),  # beats all, and misses a gate
    ]
    for shipping, prose, violation in points:
        recorded(study, 0.5, violation=violation, shipping=shipping, prose=prose)
    assert [candidate.number for candidate in pareto(study)] == [1, 2, 5]


class _Scored:
    """As much of a study as the front looks at."""

    name = "s"

    def __init__(self, points: list[tuple[int, int, int]]) -> None:
        self._candidates = tuple(
            Candidate(
                number=number,
                state="complete",
                x=(),
                genome={},
                recipe="",
                objective=0.0,
                scores=dict(zip("abc", map(float, point), strict=True)),
            )
            for number, point in enumerate(points)
        )

    def tasks(self) -> dict[str, dict[str, bool]]:
        return {"a": {"higher_is_better": True}, "b": {"higher_is_better": False}, "c": {"higher_is_better": True}}

    def candidates(self) -> tuple[Candidate, ...]:
        return self._candidates


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=12))
def test_the_front_is_exactly_what_nothing_dominates(points: list[tuple[int, int, int]]):
    def beats(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
        gains = (one[0] - other[0], other[1] - one[1], one[2] - other[2])
        return min(gains) >= 0 and max(gains) > 0

    front = {points[candidate.number] for candidate in pareto(_Scored(points))}
    assert front == {point for point in points if not any(beats(other, point) for other in points)}


def test_an_export_is_the_recipe_and_a_sidecar(study: Study, recorded: Add, tmp_path: Path):
    candidate = recorded(study, 0.5)
    sidecar = write_export(study, candidate, tmp_path / "night.yaml")
    assert (tmp_path / "night.yaml").read_text() == candidate.recipe
    assert sidecar == tmp_path / "night.provenance.json"
    facts = json.loads(sidecar.read_text())
    assert facts["recipe_sha256"] == hashlib.sha256((tmp_path / "night.yaml").read_bytes()).hexdigest()
    assert (facts["study"], facts["candidate"], facts["feasible"]) == ("night", 0, True)
    assert (facts["scores"], facts["gates"]) == ({"shipping": 0.5, "prose": 7.0}, {"shipping": True})
    assert facts["config"] == {"study": "night", "seed": 0}
    with pytest.raises(UsageError, match="cannot write the recipe"):
        write_export(study, candidate, tmp_path / "missing" / "night.yaml")
