"""Several documents in one text: which one is the recipe, and how the others hang together."""

from pathlib import Path

import pytest
import yaml

from evomerge.errors import RecipeError
from evomerge.recipe import ModelRef, Recipe


def document(name: str | None, *models: str, **keys: object) -> str:
    content = {"merge_method": "linear", "models": [{"model": model} for model in models], **keys}
    return yaml.safe_dump(content | ({} if name is None else {"name": name}))


def chain(*documents: str) -> Recipe:
    return Recipe.from_yaml("---\n".join(documents))


def names(recipe: Recipe) -> list[str | None]:
    return [stage.name for stage in recipe.stages]


def test_the_document_without_a_name_is_the_recipe() -> None:
    recipe = chain(document(None, "one", "two"), document("two", "b", "one"), document("one", "a"))
    assert recipe.name is None
    assert names(recipe) == ["one", "two"]  # each after those that it reads
    assert recipe.inputs == (ModelRef("one"), ModelRef("two"))
    assert recipe.models_used == (ModelRef("b"), ModelRef("a"))


def test_the_last_document_is_the_recipe_if_all_have_names() -> None:
    recipe = chain(document("one", "a"), document("two", "one"))
    assert recipe.name == "two"
    assert names(recipe) == ["one"]


def test_one_document_has_no_stages() -> None:
    assert Recipe.from_yaml("---\n" + document("shop", "shop") + "---\n").stages == ()


def test_a_stage_may_stand_wherever_a_model_may() -> None:
    slices = [{"sources": [{"model": "s1", "layer_range": [0, 1]}], "base_model": "s2"}]
    last = {
        "merge_method": "linear",
        "base_model": "s3",
        "modules": {"text": {"slices": slices}, "vision": {"models": [{"model": "s4"}]}},
        "tokenizer": {
            "source": "s1",
            "tokens": {"x": {"source": "s2"}, "y": {"source": {"kind": "model_token", "model": "s3", "token_id": 0}}},
        },
    }
    recipe = chain(*(document(f"s{number}", "a") for number in range(1, 6)), yaml.safe_dump(last))
    stored = recipe.stored_in(Path("/kept"))
    assert [stored.to_yaml().count(f"/kept/s{number}") for number in range(1, 6)] == [2, 2, 2, 1, 0]
    assert stored.stages == ()
    assert recipe.inputs == tuple(ModelRef(name) for name in ("s3", "s1", "s2", "s4"))
    assert recipe.unused_stages == ("s5",)


def test_each_result_has_the_stages_that_it_comes_from() -> None:
    recipe = chain(
        document("one", "a"), document("odd", "b"), document("two", "one"), document("three", "odd", "two", "c")
    )
    found = {result.name: names(result) for result in recipe.results}
    assert found == {"one": [], "odd": [], "two": ["one"], "three": ["one", "odd", "two"]}
    assert recipe.results[2].models_used == (ModelRef("a"),)
    assert names(recipe) == ["one", "odd", "two"]


def test_it_is_written_as_it_was_and_stages_are_part_of_the_digest() -> None:
    text = "---\n".join((document("one", "a"), document("two", "one", "b"), document(None, "two", base_model="one")))
    recipe = Recipe.from_yaml(text)
    again = Recipe.from_yaml(recipe.to_yaml())
    assert list(yaml.safe_load_all(recipe.to_yaml())) == list(yaml.safe_load_all(text))
    assert again == recipe
    assert again.digest == recipe.digest
    other = Recipe.from_yaml(text.replace("model: a", "model: c"))
    assert other != recipe
    assert other.digest != recipe.digest


def test_a_stage_that_nothing_reads_is_named() -> None:
    recipe = chain(document("one", "a"), document("two", "b"), document("three", "two"), document(None, "three"))
    assert recipe.unused_stages == ("one",)
    assert recipe.models_used == (ModelRef("b"),)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (
            [document("a", "b"), document("b", "a"), document(None, "a")],
            r"stages in a cycle \(recipe\): found a reads b reads a",
        ),
        ([document("a", "a"), document(None, "a")], "found a reads a"),
        ([document("a", "x"), document("a", "y"), document(None, "a")], "stage 'a' given twice .* documents 1 and 2"),
        ([document(None, "x"), document(None, "y")], "two documents without a name"),
        ([document("a", "b"), document("b", "x")], "a stage reads the recipe itself .*: found 'a' reads 'b'"),
        ([document("a", "x"), document(None, "a+lora")], r"no adapter \(recipe: the last document\): found a\+lora"),
        (
            [document("a", "x"), document("b", "a@main"), document(None, "b")],
            r"no revision .*\(recipe: b\): found a@main",
        ),
        (
            [document("a", "x"), document(None, "b", tokenizer_source="a")],
            r"tokenizer of a stage that is not merged \(recipe: the last document\): found a; ",
        ),
        ([document("a+b", "x"), document(None, "b")], r"bad name \(recipe, document 1: name\).*found 'a\+b'"),
        ([document("a", "x"), "merge_method: linear"], r"\(recipe, document 2\): expected exactly one of models,"),
    ],
)
def test_stages_that_do_not_fit(documents, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        chain(*documents)
    assert "\n" not in str(caught.value)
