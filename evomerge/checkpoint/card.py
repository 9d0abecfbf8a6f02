"""The model card of a merged checkpoint."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from evomerge.recipe import ModelRef, Recipe


def model_card(recipe: Recipe, name: str, licences: Mapping[ModelRef, str | None]) -> str:
    """README.md of a merged model: hub metadata, its sources with their licences, and the recipe.

    Args:
        recipe: what the model was made by.
        name: its title.
        licences: the licence of each source, None where it names none. One licence that all sources share becomes the
            card's; else the card gives none, because which one holds is not for a program to say.
    """
    hub_ids = [path for ref in recipe.models_used for path in (ref.path, ref.adapter) if path and _on_hub(path)]
    metadata: dict[str, object] = {"library_name": "transformers", "tags": ["merge", "evomerge"]}
    if hub_ids:
        metadata["base_model"] = list(dict.fromkeys(hub_ids))
    if len(set(licences.values())) == 1 and (licence := next(iter(licences.values()))):
        metadata["license"] = licence
    rows = [
        f"| {ref} | {'base' if ref == recipe.base_model else 'source'} | {licences.get(ref) or 'not stated'} |"
        for ref in recipe.models_used
    ]
    return "\n".join(
        (
            "---",
            yaml.safe_dump(metadata, sort_keys=False).rstrip(),
            "---",
            f"# {name}",
            "",
            f"A merge of {len(recipe.models_used)} models by the method `{recipe.merge_method}`, made with evomerge.",
            "",
            "| model | role | licence |",
            "|---|---|---|",
            *rows,
            "",
            "## Recipe",
            "",
            "```yaml",
            recipe.to_yaml().rstrip(),
            "```",
            "",
        )
    )


def _on_hub(path: str) -> bool:
    return not path.startswith((".", "/", "~")) and path.count("/") <= 1 and not Path(path).exists()
