import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.cli import main
from evomerge.errors import NothingFeasibleError, UsageError, exit_code
from evomerge.study import Candidate, Result, Study
from evomerge.study.export import caution, choose, pareto, write_export

Add = Callable[..., Candidate]


def test_the_winner_is_exported_unless_a_number_is_given(study: Study, recorded: Add):
    recorded(study, 0.9, violation=0.1)
    best = recorded(study, 0.5)
    assert choose(study) == best
    assert choose(study, 0).number == 0
    with pytest.raises(UsageError, match="no such candidate"):
        choose(study, 2)


def test_what_is_passed_on_does_not_say_who_was_told(folder: Path, created: Callable[..., Study], recorded: Add):
    with created(folder, notify={"webhook": "https://here/secret"}) as study:
        best = recorded(study, 0.5)
        sidecar = write_export(study, best, folder / "recipe.yaml")
    for path in (sidecar, folder / "best.provenance.json"):
        assert json.loads(path.read_text())["config"] == {"study": "night", "seed": 0}


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
        assert f"evomerge resume {study.folder.path} budget.candidates=N" in str(refused.value)
        assert exit_code(refused.value) == 3


def refuse(study: Study, number: int, **violations: float) -> None:
    """On holdout; without violations it has failed there."""
    objective, reason = (0.4, None) if violations else (None, "worker died")
    study.add_finalist(str(number), number, Result(violations=violations, objective=objective, reason=reason))


def test_finalists_that_holdout_refuses_are_named_with_what_they_miss(study: Study, recorded: Add):
    for objective in (0.7, 0.6, 0.5):
        recorded(study, objective)
    study.add_finalist("base", None, Result(violations={"prose": 0.5}, objective=0.1))
    refuse(study, 0, shipping=0.1, prose=0.2, refunds=-0.1)
    refuse(study, 1)
    study.elect(None)
    with pytest.raises(NothingFeasibleError) as refused:
        choose(study)
    assert str(refused.value) == (
        "no finalist clears every gate on holdout (study night): found candidate 0 misses shipping, prose on holdout, "
        f"candidate 1 failed on holdout: worker died; evomerge resume {study.folder.path} budget.candidates=N "
        "with a larger N, or start a study with a wider genome"
    )


def test_a_candidate_that_misses_gates_is_exported_with_a_caution(study: Study, recorded: Add, tmp_path: Path, capsys):
    recorded(study, 0.5)
    recorded(study, 0.9, violation=0.1)
    recorded(study, None)
    study.start([0.5], {}, {}, "")
    assert caution(study, study.candidate(0)) is None
    refuse(study, 0, prose=0.2)
    assert caution(study, study.candidate(0)) == "candidate 0 misses prose on holdout"
    refuse(study, 1, prose=0.2)
    assert caution(study, study.candidate(1)) == "candidate 1 misses shipping on dev and misses prose on holdout"
    assert caution(study, study.candidate(2)) == "candidate 2 failed on dev: worker died"
    assert caution(study, study.candidate(3)) == "candidate 3 has no score on dev yet"
    there = tmp_path / "a.yaml"
    for more, out in (([], study.candidate(1).recipe), (["-o", str(there)], f"{there}\n")):
        assert main(["export", str(study.folder.path), "--candidate", "1", *more]) == 0
        told = capsys.readouterr()
        assert told.err == "evomerge: candidate 1 misses shipping on dev and misses prose on holdout\n"
        assert told.out == out
    assert there.read_text() == study.candidate(1).recipe


def test_the_front_is_written_into_a_folder_that_is_made(study: Study, recorded: Add, tmp_path: Path, capsys):
    recorded(study, 0.5, shipping=0.5, prose=9.0)
    recorded(study, 0.5, shipping=0.4, prose=10.0)
    third = recorded(study, 0.5, shipping=0.4, prose=8.0)
    out = tmp_path / "a" / "front"
    for _ in range(2):  # an older one is replaced
        assert main(["export", str(study.folder.path), "--pareto", "-o", str(out)]) == 0
        assert capsys.readouterr() == (f"{out / '000000.yaml'}\n{out / '000002.yaml'}\n", "")
    assert (out / "000002.yaml").read_text() == third.recipe
    (tmp_path / "file").write_text("mine")
    for there in (tmp_path / "file", tmp_path / "file" / "front"):
        assert main(["export", str(study.folder.path), "--pareto", "-o", str(there)]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"evomerge: cannot write the recipes ({there}): expected a folder")
        assert len(told.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("place", [".", "/", "..", ""])
def test_an_export_needs_the_name_of_a_file(study: Study, recorded: Add, place, capsys):
    recorded(study, 0.5)
    assert main(["export", str(study.folder.path), "-o", place]) == 2
    told = capsys.readouterr().err
    assert told.startswith("evomerge: cannot write the recipe (")
    assert len(told.splitlines()) == 1


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
    assert facts["benchmarks"] == []
    with pytest.raises(UsageError, match="cannot write the recipe"):
        write_export(study, candidate, tmp_path / "missing" / "night.yaml")
