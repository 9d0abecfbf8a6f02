"""A family of tiny models on disk, and a config folder that searches it in seconds."""

import json
import random
from pathlib import Path

import pytest
import yaml

WORDS = ["red", "green", "blue", "cat", "dog", "bird", "runs", "sleeps", "eats", "one", "two", "three", "big", "small"]


def make_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    generator = random.Random(0)
    tokenizer.train_from_iterator(
        [" ".join(generator.choices(WORDS, k=20)) for _ in range(50)],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.fixture(scope="session")
def family(tmp_path_factory) -> Path:
    """A folder with the models base, first and second: Llamas of two layers whose weights lie close together."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("family")
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    base = {name: value.clone() for name, value in model.state_dict().items()}
    for name in ("base", "first", "second"):
        if name != "base":
            model.load_state_dict({key: value + 0.1 * torch.randn_like(value) for key, value in base.items()})
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def config_dir(tmp_path, family) -> Path:
    """A config folder with models=tiny, genome=tiny and suite=tiny: one task of choices, one of perplexity."""
    folder = tmp_path / "configs"
    generator = random.Random(1)
    tasks = folder / "tasks"
    tasks.mkdir(parents=True)
    documents = [
        {
            "prompt": " ".join(generator.choices(WORDS, k=4)),
            "choices": generator.sample(WORDS, 3),
            "gold": generator.randrange(3),
        }
        for _ in range(24)
    ]
    (tasks / "documents.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "documents.jsonl"}},
        "test_split": "test",
    }
    choice = {
        "task": "choice",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "gold",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    prose = {
        "task": "prose",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{prompt}}",
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    }
    options = {
        "tasks/choice.yaml": choice | common,
        "tasks/prose.yaml": prose | common,
        "models/tiny.yaml": {
            "base": str(family / "base"),
            "parents": [str(family / "first"), str(family / "second")],
            "dtype": "float32",
        },
        "genome/tiny.yaml": {
            "method": "task_arithmetic",
            "layer_groups": 2,
            "weight": {"low": 0.0, "high": 1.0, "init": 0.5},
        },
        "suite/tiny.yaml": {
            "include_path": ["tasks/"],
            "tasks": [
                {"name": "choice", "metric": "acc", "gate": {"at_least": 0.0}},
                {"name": "prose", "metric": "bits_per_byte", "gate": {"at_most": 1.5, "of": "base"}},
            ],
        },
    }
    for name, content in options.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
    return folder
