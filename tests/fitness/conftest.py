"""A tiny Llama with random weights, a real BPE tokenizer, and a folder of lm-eval tasks on local files."""

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


@pytest.fixture(scope="session", autouse=True)
def own_data_cache(tmp_path_factory):
    """Data sets are cached in a folder of this run, not in the home of whoever runs the tests."""
    import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="session")
def write_task():
    """write_task(folder, name, **changes): the common keys, those of the task of that name, then the changes."""
    return _write_task


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    generator = random.Random(0)
    tokenizer.train_from_iterator(
        [sentence(generator, 20) for _ in range(50)],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.fixture
def model(tokenizer):
    """Weights are large enough that prompts differ in their likeliest answer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

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
    return LlamaForCausalLM(config).eval()


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
