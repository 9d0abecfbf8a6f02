"""What a search has to beat, also where a parent has tokens that the base has not."""

import json
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer, LlamaForCausalLM

from evomerge.checkpoint import open_checkpoint
from evomerge.config import ModelsConfig
from evomerge.merge import make_plan
from evomerge.recipe import Recipe
from evomerge.search.baselines import source_recipes, uniform_recipes


@pytest.fixture(scope="module")
def chat(tmp_path_factory, family) -> Path:
    """The model first with a token for chats."""
    folder = tmp_path_factory.mktemp("chat") / "chat"
    tokenizer = AutoTokenizer.from_pretrained(family / "first")
    tokenizer.add_tokens(["<|im_start|>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(family / "first")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("source, size", [("base", 300), ("union", 301)])
def test_uniform_merges_have_the_vocabulary_of_the_candidates(chat, family, source, size):
    parents = [str(family / "second"), str(chat)]
    models = ModelsConfig(base=str(family / "base"), parents=parents, tokenizer={"source": source})
    checkpoints = {each.ref: open_checkpoint(each.ref) for each in (models.base, *models.parents)}
    for name, recipe in uniform_recipes(models).items():
        assert make_plan(Recipe.from_yaml(recipe), checkpoints).config["vocab_size"] == size, name
    alone = [
        make_plan(Recipe.from_yaml(recipe), checkpoints).config["vocab_size"]
        for recipe in source_recipes(models).values()
    ]
    assert alone == [300, 300, 301]


@pytest.mark.soak
@pytest.mark.parametrize("method, source", [("task_arithmetic", "union"), ("linear", "base")])
def test_models_of_two_vocabularies_are_searched(chat, family, words, run, shown, tmp_path, method, source):
    models = [f"models.parents=[{family / 'second'},{chat}]", f"models.tokenizer={{source: {source}}}"]
    assert run(words(tmp_path / "s", *models, f"genome.method={method}", "budget.candidates=2", "workers.count=1")) == 0
    assert [each["state"] for each in shown(tmp_path / "s")["candidates"]] == ["complete"] * 2
    best = yaml.safe_load((tmp_path / "s" / "best.yaml").read_text())
    assert best["tokenizer"] == {"source": "union" if source == "union" else str(family / "base")}
    environment = json.loads((tmp_path / "s" / "environment.json").read_text())
    assert len(environment["tokens"]) == 64
