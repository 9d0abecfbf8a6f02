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


def _write_task(folder: Path, name: str, like: str | None = None, **changes: object) -> Path:
    path = folder / f"{name}.yaml"
    config = {"task": name} | COMMON | TASKS.get(like or name, {}) | changes
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))
    return path


def sentence(generator: random.Random, length: int) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(length))


@pytest.fixture(scope="session")
def write_task():
    """write_task(folder, name, like=None, **changes): the common keys, those of a task of that name, or of the one that
    it is like, then the changes."""
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


CORPUS_METRICS = {  # task -> metric, aggregation
    "bleu": ("bleu", "bleu"),
    "chrf": ("chrf", "chrf"),
    "chrfpp": ("chrf++", "chrf++"),
    "ter": ("ter", "ter"),
    "f1": ("f1", "f1"),
    "mcc": ("mcc", "matthews_corrcoef"),
    "own": ("bleu", "OWN"),
}
OWN_AGGREGATION = """
def longest(values):
    if len(values) < 30:
        raise KeyError("all documents")
    return max(len(prediction) for _, prediction in values) / 7
"""


@pytest.fixture(scope="session")
def corpus_specs() -> list[dict[str, str]]:
    """The tasks of `corpus_folder` but `own`."""
    return [{"name": name, "metric": metric} for name, (metric, _) in CORPUS_METRICS.items() if name != "own"]


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory, task_folder) -> Path:
    """Tasks whose scores are no means over documents; that of `own` is defined for all of them alone."""
    folder = tmp_path_factory.mktemp("corpus")
    data = {"data_files": {split: str(task_folder / f"{split}.jsonl") for split in ("train", "test")}}
    for name, (metric, aggregation) in CORPUS_METRICS.items():
        facts = {"metric": metric, "aggregation": aggregation, "higher_is_better": name != "ter"}
        kind: dict[str, object] = {
            "output_type": "generate_until",
            "generation_kwargs": {"until": ["zzz"], "max_gen_toks": 8},
            "doc_to_target": "{{text}}",
        }
        if name in ("f1", "mcc"):
            kind = {
                "output_type": "multiple_choice",
                "doc_to_target": "{{gold % 2}}",
                "doc_to_choice": ["cat", "dog"],
            }
        path = _write_task(folder, name, dataset_kwargs=data, metric_list=[facts], **kind)
        path.write_text(path.read_text().replace("aggregation: OWN", "aggregation: !function own.longest"))
    (folder / "own.py").write_text(OWN_AGGREGATION)
    return folder
