"""A folder of lm-eval tasks on local files."""

import json
import random
from pathlib import Path

import pytest
import yaml

TEST_DOCUMENTS = 30
TRAIN_DOCUMENTS = 12
WORDS = ["red", "green", "blue", "cat", "dog", "bird", "runs", "sleeps", "eats", "one", "two", "three", "big", "small"]

COMMON = {
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"train": "train.jsonl", "test": "test.jsonl"}},
    "fewshot_split": "train",
    "test_split": "test",
    "doc_to_text": "{{prompt}} :",
    "doc_to_target": "{{answer}}",
    "fewshot_delimiter": "\n",
}
TASKS = {
    "gen": {
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 3, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "num_fewshot": 2,
    },
    "gen_filtered": {
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["zzz"], "max_gen_toks": 6, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [
            {"name": "raw", "filter": [{"function": "take_first"}]},
            {
                "name": "word",
                "filter": [{"function": "regex", "regex_pattern": "([a-z]+)"}, {"function": "take_first"}],
            },
        ],
    },
    "gen_sampled": {
        "output_type": "generate_until",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 2, "do_sample": True, "temperature": 0.3},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_target": "gold",
        "doc_to_choice": "choices",
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        ],
        "num_fewshot": 1,
    },
    "cloze": {
        "output_type": "loglikelihood",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    "prose": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
        ],
    },
}


def _write_task(folder: Path, name: str, **changes: object) -> Path:
    path = folder / f"{name}.yaml"
    config = {"task": name} | COMMON | TASKS.get(name, {}) | changes
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))
    return path


def sentence(generator: random.Random, length: int) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(length))


@pytest.fixture(scope="session")
def write_task():
    """write_task(folder, name, **changes): the common keys, those of the task of that name, then the changes."""
    return _write_task


@pytest.fixture
def model(make_llama):
    return make_llama()


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    generator = random.Random(1)
    for split, count in (("train", TRAIN_DOCUMENTS), ("test", TEST_DOCUMENTS)):
        documents = [
            {
                "prompt": sentence(generator, generator.randrange(2, 6)),
                "answer": generator.choice(WORDS),
                "choices": generator.sample(WORDS, 3),
                "gold": generator.randrange(3),
                "text": sentence(generator, generator.randrange(5, 15)),
            }
            for _ in range(count)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    for name in TASKS:
        _write_task(folder, name)
    return folder
