import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evomerge.dashboard import prompts
from evomerge.dashboard.pages.candidate import ITEMS, ItemsQuery, candidate_page
from evomerge.dashboard.prompts import Prompt
from evomerge.errors import UsageError
from evomerge.study import Environment, ModelFacts, Result, Study, StudyView
from evomerge.study.document import study_document
from evomerge.study.items import SCHEMA, baseline_items, candidate_items
from fitness.items import Scores, TaskScores

CONFIG = {
    "seed": 0,
    "budget": {"candidates": 4},
    "models": {"base": {"path": "org/base"}, "parents": [{"path": "org/good"}, {"path": "org/better"}]},
    "suite": {
        "tasks": [
            {"name": "shop", "metric": "acc", "gate": {"at_least": 0.5}},
            {"name": "prose", "metric": "word_perplexity", "gate": {"at_most": 1.1, "of": "best_parent"}},
        ]
    },
}
ENVIRONMENT = Environment(
    python="3.11", platform="Linux", packages={}, models=(ModelFacts(ref="org/base", digest="ab" * 32),)
)
SOURCE = "merge_method: passthrough\nmodels:\n- model: org/{}\n"
SPACE = {"weight.layers_0_3.good": (0.0, 2.0), "source.layers_0_3": ("good", "better")}


def scored(shop: Mapping[int, float], prose: Mapping[int, float], perplexity: float, *answers: str | None) -> Scores:
    mean = sum(shop.values()) / len(shop)
    return {
        "shop": TaskScores("shop", "acc", tuple(shop), tuple(shop.values()), mean, True, answers=answers or None),
        "prose": TaskScores("prose", "word_perplexity", tuple(prose), tuple(prose.values()), perplexity, False),
    }


def result(scores: Scores, objective: float, **violations: float) -> Result:
    return Result(
        scores={name: task.score for name, task in scores.items()},
        violations={"shop": -0.1, "prose": -0.1} | violations,
        objective=objective,
        timings={"merge": 0.5, "score": 1.25},
    )


@pytest.fixture
def small(tmp_path) -> StudyView:
    """A base, two parents, and two candidates over a few documents: one complete, one failed."""
    base = scored({0: 0.0, 2: 0.0, 3: 0.0}, {1: -9.0, 4: -9.0}, 20.0)
    said = ("8 crowns", "none", None)
    good = scored({0: 1.0, 2: 0.0, 3: 1.0}, {1: -5.0, 4: -6.0}, 12.0, *said)  # the better one on shop
    better = scored({0: 1.0, 2: 0.0, 3: 0.0}, {1: -4.0, 4: -4.0}, 10.0)  # and on prose
    said = (" ", "<script>alert(1)</script> " + "y" * 400, "red")
    own = scored({0: 0.0, 2: 1.0, 3: 1.0}, {1: -3.0, 4: -4.0}, 9.0, *said)
    with Study.create(tmp_path / "small", CONFIG | {"study": "small"}, ENVIRONMENT) as study:
        for name, scores in (("base", base), ("good", good), ("better", better)):
            study.add_baseline(name, SOURCE.format(name), result(scores, 0.5), scores)
        genome = {"weight.layers_0_3.good": 0.5, "source.layers_0_3": "better"}
        for recipe in ("merge_method: ties\n", "merge_method: linear\n"):
            study.start((0.25, 0.75), genome, SPACE, recipe)
        study.finish(0, result(own, 0.7), own)
        study.finish(1, Result(reason="NaN in its logits", timings={"merge": 0.5}))
    return StudyView(tmp_path / "small")


@pytest.fixture
def shown(small, opened, runs_dir):
    """shown(study, outcome): what the page of its first candidate says of the items."""

    def items(study: str, outcome: str) -> str:
        shutil.copytree(small.folder.path, runs_dir / study, dirs_exist_ok=True)
        return opened(f"/studies/{study}/candidates/0?outcome={outcome}").with_id("items").text

    return items


def page_of(study: StudyView, number: int = 0, **query: object):
    return candidate_page(study, study_document(study), number, ItemsQuery(**query))


def test_a_task_is_held_against_the_parent_that_is_best_on_it(small):
    shop, prose = page_of(small).scores
    assert (shop.parent, shop.parent_score) == ("good", pytest.approx(2 / 3))
    assert (prose.parent, prose.parent_score) == ("better", 10.0)  # lower is better
    assert prose.task.bound == pytest.approx(11.0)
    assert (shop.cleared, shop.holdout) == (True, None)


def test_items_won_and_lost_against_that_parent(small):
    items = page_of(small, outcome="lost").items
    assert items.counts["shop"] == {"lost": 1, "won": 1, "level": 1}
    assert (items.task, items.rival) == ("shop", "good")
    assert [(row.doc_id, row.value, row.rival, row.prompt) for row in items.rows] == [(0, 0.0, 1.0, None)]
    assert not items.prompts


def test_the_answers_of_both_and_which_is_right(small):
    items = page_of(small, outcome="lost").items
    assert items.answers
    (row,) = items.rows
    assert (row.answer, row.right, row.rival_answer, row.rival_right) == (" ", False, "8 crowns", True)
    (row,) = page_of(small, outcome="level").items.rows
    assert (row.answer, row.right, row.rival_answer, row.rival_right) == ("red", True, None, True)
    items = page_of(small, task="prose", outcome="won").items
    assert not items.answers
    assert [(row.answer, row.right, row.rival_right) for row in items.rows] == [(None, None, None)]


def test_a_metric_between_right_and_wrong_calls_no_answer_right(small):
    path = small.folder.items / f"{candidate_items(0)}.parquet"
    table = pq.read_table(path).to_pydict()
    table["value"][0] = 0.25
    pq.write_table(pa.table(table, schema=SCHEMA), path)
    (row,) = page_of(small, outcome="lost").items.rows
    assert (row.answer, row.value, row.right, row.rival_right) == (" ", 0.25, None, None)


def test_zeros_alone_do_not_say_wrong(small):
    """A document has the value 0 also where the metric has none for it alone."""
    for path in small.folder.items.iterdir():
        table = pq.read_table(path).to_pydict()
        table["value"] = [0.0] * len(table["value"])
        pq.write_table(pa.table(table, schema=SCHEMA), path)
    rows = page_of(small, outcome="level").items.rows
    assert [(row.value, row.right, row.rival_right) for row in rows] == [(0.0, None, None)] * 3


def test_a_study_of_an_older_evomerge_has_no_answers(small, shown):
    for path in small.folder.items.iterdir():
        pq.write_table(pq.read_table(path, columns=["task", "doc_id", "value"]), path)
    items = page_of(small, outcome="lost").items
    assert not items.answers
    assert [(row.value, row.answer, row.rival_answer, row.right) for row in items.rows] == [(0.0, None, None, False)]
    said = shown("small", "lost")
    assert "No answers are shown" in said
    assert said.endswith("0 ✗ wrong ✓ right 1–1 of 1")


def test_answers_are_shown_as_text_and_told_right_or_wrong(shown):
    said = shown("small", "lost")
    assert "No answers are shown" not in said
    assert said.endswith("0 nothing ✗ wrong 8 crowns ✓ right 1–1 of 1")  # what the candidate says is blank
    won = shown("small", "won")
    assert "<script>alert(1)</script> yyy" in won
    assert "y… " in won  # folded
    assert won.endswith("✓ right none ✗ wrong 1–1 of 1")
    assert shown("small", "level").endswith("3 red ✓ right ✓ right 1–1 of 1")  # the parent's is not known


def test_of_a_perplexity_the_likelier_document_is_won(small):
    items = page_of(small, task="prose", outcome="won").items
    assert items.counts["prose"] == {"lost": 0, "won": 1, "level": 1}
    assert items.likelihoods
    assert [(row.doc_id, row.value, row.rival) for row in items.rows] == [(1, -3.0, -4.0)]


def test_a_task_that_is_not_there_is_the_first(small):
    assert page_of(small, task="nix").items.task == "shop"


def test_a_number_has_a_place_in_its_range_and_an_option_has_none(small):
    assert [(gene.name, gene.value, gene.share) for gene in page_of(small).genes] == [
        ("weight.layers_0_3.good", 0.5, 0.25),
        ("source.layers_0_3", "better", None),
    ]


def test_a_failed_candidate_has_no_rank_and_no_items(small):
    page = page_of(small, 1)
    assert (page.rank, page.ranked, page.items, page.items_problem) == (None, 1, None, None)
    assert (page.previous, page.next) == (0, None)
    assert page.timings == {"merge": 0.5}


def test_items_that_cannot_be_read_leave_the_rest_of_the_page(small):
    (small.folder.items / f"{baseline_items('good')}.parquet").write_bytes(b"torn")
    page = page_of(small)
    assert page.items is None
    assert page.items_problem.startswith("item scores cannot be read")
    assert page.scores[0].score == pytest.approx(2 / 3)


def test_no_such_candidate(small):
    with pytest.raises(UsageError, match="no such candidate"):
        page_of(small, 2)


def test_every_document_is_on_one_page(written):
    study = StudyView(written)
    own = study.scores(candidate_items(3), study.candidate(3))["shipping"].doc_ids
    seen: list[int] = []
    for outcome in ("lost", "won", "level"):
        first = page_of(study, 3, task="shipping", outcome=outcome).items
        for number in range(1, first.pages + 1):
            rows = page_of(study, 3, task="shipping", outcome=outcome, page=number).items.rows
            assert len(rows) <= ITEMS
            seen += [row.doc_id for row in rows]
        assert page_of(study, 3, task="shipping", outcome=outcome, page=10**6).items.page == first.pages
    assert sorted(seen) == sorted(own)


def test_the_page_shows_recipe_scores_and_items(opened, written):
    best = study_document(StudyView(written)).best
    page = opened(f"/studies/night/candidates/{best.number}")
    assert page.with_id("recipe").text.startswith("merge_method: task_arithmetic")
    assert "to export" in page.with_id("head").text
    assert f"{best.scores['shipping']:.4f} ✓ clears its gate" in page.text
    assert "Read the prompts" in page.with_id("items").text
    links = [each.get("href") for each in page.all("a")]
    assert f"/studies/night/recipe?candidate={best.number}" in links


def test_prompts_are_shown_as_text(opened, runs_dir):
    asked = Prompt(prompt="<script>alert(1)</script> " + "x" * 400, target="<b>", options=("one", "two"))
    with_prompts(runs_dir / "night", asked)
    page = opened("/studies/night/candidates/3?task=refunds&outcome=level")
    items = page.with_id("items").text
    assert "Read the prompts" not in items
    assert "<script>alert(1)</script> " in items
    assert "options: one · two" in items


def with_prompts(folder: Path, prompt: Prompt) -> None:
    study = StudyView(folder)
    documents = study.scores(candidate_items(3), study.candidate(3))["refunds"].doc_ids
    rows = [{"task": "refunds", "doc_id": doc_id, **prompt.model_dump()} for doc_id in documents]
    pq.write_table(pa.Table.from_pylist(rows, schema=prompts.SCHEMA), prompts.prompts_path(study.folder))


def test_any_candidate_is_exported_from_its_page(opened, browser, runs_dir):
    study = StudyView(runs_dir / "night")
    best = study.best
    other = next(each.number for each in study.candidates() if each.number != best.number)
    form = opened(f"/studies/night/candidates/{other}").with_id("export")
    (action,) = [each.get("action") for each in form.all("form")]
    fields = {each.get("name"): each.get("value") for each in form.all("input")}
    token = fields.pop("csrf")
    assert (action, fields) == ("/studies/night/export", {"candidate": str(other), "path": f"night-{other}.yaml"})
    response = browser.post(action, data={"csrf": token, **fields}, headers={"Origin": str(browser.base_url)})
    assert f"candidate {other} is in" in opened(response.headers["location"]).text
    written = runs_dir / "night" / f"night-{other}.yaml"
    assert written.read_text() == study.candidate(other).recipe
    assert written.with_name(f"night-{other}.provenance.json").is_file()


@pytest.mark.parametrize("number, status", [("12", 404), ("-1", 422), ("one", 422), ("99999999999999", 422)])
def test_no_such_number(opened, number, status):
    opened(f"/studies/night/candidates/{number}", status)


def test_no_such_study(opened):
    assert "No such study: noon" in opened("/studies/noon/candidates/1", 404).text
