"""Model cards: front matter that the hub reads, and the recipe, which reads back."""

import yaml

from evomerge.checkpoint import model_card
from evomerge.recipe import ModelRef, Recipe

RECIPE = Recipe.from_yaml("""
merge_method: ties
base_model: org/base
models:
- {model: org/a@v1+org/lora, parameters: {weight: 0.5, density: 0.3}}
- {model: /models/local, parameters: {weight: 0.5, density: 0.3}}
""")
BASE, LORA, LOCAL = RECIPE.models_used


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_front_matter_names_the_hub_models() -> None:
    metadata = front_matter(model_card(RECIPE, "shop", dict.fromkeys(RECIPE.models_used, "apache-2.0")))
    assert metadata["base_model"] == ["org/base", "org/a", "org/lora"]
    assert metadata["license"] == "apache-2.0"
    assert "merge" in metadata["tags"]
    assert metadata["library_name"] == "transformers"


def test_licences_that_differ_are_listed_and_not_combined() -> None:
    card = model_card(RECIPE, "shop", {BASE: "apache-2.0", LORA: "llama3", LOCAL: None})
    assert "license" not in front_matter(card)
    assert "| org/base | base | apache-2.0 |" in card
    assert "| org/a@v1+org/lora | source | llama3 |" in card
    assert "| /models/local | source | not stated |" in card


def test_unknown_licences_are_not_a_licence() -> None:
    assert "license" not in front_matter(model_card(RECIPE, "shop", dict.fromkeys(RECIPE.models_used)))


def test_the_recipe_reads_back() -> None:
    card = model_card(RECIPE, "shop", {})
    assert Recipe.from_yaml(card.split("```yaml\n")[1].split("```")[0]) == RECIPE
    assert "# shop\n" in card


def test_a_merge_of_local_models_names_no_base() -> None:
    recipe = Recipe.from_document({"merge_method": "linear", "models": [{"model": ModelRef("./a")}]})
    assert "base_model" not in front_matter(model_card(recipe, "shop", {}))
