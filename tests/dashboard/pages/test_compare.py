import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from evomerge.dashboard.pages.compare import OFFERED, ComparePage, compare_page
from evomerge.dashboard.problems import NotFoundError
from evomerge.study import StudyView
from evomerge.study.document import study_document
from evomerge.study.verdict import ranked


@pytest.fixture(scope="session")
def two(tmp_path_factory, written, write) -> Path:
    """A folder with the studies `night` and `noon`, whose genomes differ. Nobody changes them."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(written, folder / "night")
    write(folder / "noon", "genome=ties", "genome.layer_groups=1", "genome.components=[]", "seed=1")
    return folder


@pytest.fixture
def compared(two):
    """compared(*asked): of these studies."""
    return lambda *asked: page_of(two, asked)


def page_of(runs_dir: Path, asked: Sequence[str]) -> ComparePage:
    names = sorted(folder.name for folder in runs_dir.iterdir())

    def find(name: str):
        if name not in names:
            raise NotFoundError("no such study", where=name)
        view = StudyView(runs_dir / name)
        return view, study_document(view)

    return compare_page(asked, names, find)


def test_sides_come_as_they_were_asked_for(compared, two):
    best = study_document(StudyView(two / "night")).best.number
    page = compared("noon:3", "", "night", " noon:3 ", f"night:{best}")
    assert [side.name for side in page.sides] == ["noon:3", f"night:{best}", f"night:{best}"]
    assert [side.best for side in page.sides[1:]] == [True, True]
    assert page.problems == ()


def test_the_best_score_of_a_task_stands_out(compared):
    page = compared("night:0", "night:1", "night:2")
    for line in page.tasks:
        scores = [side.candidate.scores[line.task] for side in page.sides]
        assert list(line.best) == [score == max(scores) for score in scores]
    assert [line.task for line in page.tasks] == ["shipping", "refunds", "catalogue"]


def test_one_side_has_nothing_to_be_better_than(compared):
    page = compared("night:0")
    assert all(line.best == (False,) for line in page.tasks)
    assert page.diffs == ()


def test_genomes_that_differ_leave_gaps(compared):
    page = compared("night:0", "noon:0")
    lines = {line.name: line for line in page.genes}
    density = next(name for name in lines if name.startswith("density"))
    assert lines[density].values[0] is None
    assert isinstance(lines[density].values[1], float)
    assert lines[density].differs


def test_a_diff_leads_from_the_first_recipe_to_another(compared):
    page = compared("night:0", "night:1", "night:0")
    [diff] = page.diffs
    first, other = (side.candidate.recipe.splitlines() for side in page.sides)
    removed = [line.text[1:] for line in diff.lines if line.kind == "removed"]
    added = [line.text[1:] for line in diff.lines if line.kind == "added"]
    assert removed
    assert set(removed) <= set(first) - set(other)
    assert set(added) <= set(other) - set(first)
    assert [line.text for line in diff.lines[:2]] == ["--- night:0", "+++ night:1"]


def test_a_candidate_does_not_differ_from_itself(compared, two):
    best = study_document(StudyView(two / "night")).best.number
    assert compared("night", f"night:{best}").diffs[0].lines == ()


@pytest.mark.parametrize(
    "asked, problem",
    [
        ("midnight", "no such study (midnight)"),
        ("midnight:1", "no such study (midnight)"),
        ("night:", "no such study (night:)"),
        ("night:-1", "no such study (night:-1)"),
        ("night:1e3", "no such study (night:1e3)"),
        ("night:99", "no such candidate (study night): expected 0 to 11, found 99"),
        ("../night:1", "no such study (../night)"),
        ("night:" + "9" * 50, "no such study"),
    ],
)
def test_what_is_not_there_is_told_and_the_rest_is_compared(compared, asked, problem):
    page = compared("night:0", asked, "night:1")
    assert len(page.sides) == 2
    assert page.problems[0].startswith(problem)


def test_one_is_too_few_and_the_page_says_so(compared):
    assert compared("night:0").cautions == ("Name another one: 2 to 6 can be compared.",)
    assert compared().cautions == compared("night:0", "night:1").cautions == ()


def test_candidates_are_offered_by_rank_once_their_study_is_asked_for(compared, two):
    assert compared().candidates == ()
    page = compared("night:0", "noon")
    order = [each.number for each in ranked(study_document(StudyView(two / "night")).candidates)]
    assert page.candidates[:OFFERED] == tuple(f"night:{number}" for number in order[:OFFERED])
    assert {each.partition(":")[0] for each in page.candidates[OFFERED:]} == {"noon"}


def test_six_at_most(compared):
    page = compared(*(f"night:{number}" for number in range(8)))
    assert len(page.sides) == 6
    assert page.problems == ("at most 6 can be compared; the first 6 are",)


def test_a_study_without_a_winner_says_why(runs_dir, write):
    write(runs_dir / "strict", "suite.tasks.0.gate.at_least=2")
    page = page_of(runs_dir, ["strict", "night:0"])
    assert "no candidate clears every gate" in page.problems[0]


def test_other_documents_are_a_caution(two, tmp_path):
    shutil.copytree(two, tmp_path / "two")
    for study, digest in (("night", "aa"), ("noon", "bb")):
        path = tmp_path / "two" / study / "environment.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tasks": {"refunds": digest}}))
    assert page_of(tmp_path / "two", ["night:0", "night:1"]).cautions == ()
    [caution] = page_of(tmp_path / "two", ["night:0", "noon:0"]).cautions
    assert caution.startswith("refunds is not the same task in night and in noon")


def test_the_page(opened):
    page = opened("/compare?with=night&with=night:0&with=nix")
    assert "no such study (nix)" in page.text
    values = [each.get("value") for each in page.all("input") if each.get("name") == "with"]
    assert values == ["night", "night:0", "nix", ""]
    assert [each.get("class") for each in page.all("pre")] == ["diff tall"]


def test_the_page_before_anything_is_asked_for(opened):
    page = opened("/compare")
    assert [each.get("value") for each in page.all("option")] == ["night"]
    assert not list(page.all("table"))
