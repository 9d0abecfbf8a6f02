"""What a search has to beat: every source alone, and the plain merges of all parents at their papers' settings."""

from typing import Any

import yaml

from evomerge.config import ModelsConfig
from evomerge.genome import naming_base, short_names

SCALES = (0.2, 0.4, 0.6, 0.8)  # of task arithmetic, the grid of its paper (arXiv 2212.04089) coarsened


def source_recipes(models: ModelsConfig) -> dict[str, str]:
    """The base and each parent as a recipe: name -> YAML. Gates refer to these names.

    They have no tokenizer policy: each is scored with its own tokens, as it would be served.
    """
    refs = [models.base.ref, *(parent.ref for parent in models.parents)]
    names = ["base", *short_names([parent.ref for parent in models.parents])]
    return {
        name: _yaml(models, {"merge_method": "passthrough", "models": [{"model": str(ref)}]})
        for name, ref in zip(names, refs, strict=True)
    }


def uniform_recipes(models: ModelsConfig) -> dict[str, str]:
    """The merges that give every parent the same weight, with the candidates' vocabulary: name -> YAML."""
    recipes: dict[str, dict[str, Any]] = {"uniform": _merge(models, "linear", weight=1.0)}
    for scale in SCALES:
        recipes[f"task_arithmetic_{scale}"] = _merge(models, "task_arithmetic", weight=scale)
    recipes["ties"] = _merge(models, "ties", weight=1.0, density=0.2)
    recipes["dare_ties"] = _merge(models, "dare_ties", weight=1.0, density=0.5)
    tokenizer = {"tokenizer": naming_base(models.tokenizer, models.base.ref)}
    return {name: _yaml(models, recipe | tokenizer) for name, recipe in recipes.items()}


def _merge(models: ModelsConfig, method: str, **parameters: float) -> dict[str, Any]:
    recipe: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": str(parent.ref), "parameters": dict(parameters)} for parent in models.parents],
    }
    if method != "linear":
        recipe["base_model"] = str(models.base.ref)
    return recipe


def _yaml(models: ModelsConfig, recipe: dict[str, Any]) -> str:
    return yaml.safe_dump(recipe | {"dtype": models.dtype}, sort_keys=False)
