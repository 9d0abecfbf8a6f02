import pytest

from fitness.benchmarks import benchmark
from fitness.errors import SuiteError
from fitness.suite import SuiteConfig, TaskSpec
from fitness.tasks import _benchmark


@pytest.mark.parametrize(
    "path, name, split",
    [
        ("openai/gsm8k", "main", "test"),
        ("gsm8k", "main", "test[:100]"),
        ("cais/mmlu", "anatomy", "test"),
        ("hails/mmlu_no_train", "anatomy", "test"),
        ("TIGER-Lab/MMLU-Pro", None, "test"),
        ("Rowan/hellaswag", None, "validation"),
        ("alexandrainst/m_hellaswag", "de", "val"),
        ("baber/piqa", None, "validation"),
        ("ybisk/piqa", None, "validation"),
        ("allenai/winogrande", "winogrande_xl", "validation"),
        ("allenai/ai2_arc", "ARC-Challenge", "test"),
        ("allenai/ai2_arc", "ARC-Easy", "validation"),
        ("aps/super_glue", "boolq", "validation"),
        ("nyu-mll/glue", "rte", "validation"),
        ("truthfulqa/truthful_qa", "multiple_choice", "validation"),
        ("Idavidrein/gpqa", "gpqa_diamond", "train"),
        ("google/IFEval", None, "train"),
        ("openai/openai_humaneval", None, "test"),
        ("google-research-datasets/mbpp", "full", "test"),
        ("lukaemon/bbh", "navigate", "test"),
        ("EleutherAI/hendrycks_math", "algebra", "test"),
        ("EleutherAI/lambada_openai", "default", "test"),
        ("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", "test"),
        ("EleutherAI/drop", None, "validation"),
        ("mandarjoshi/trivia_qa", "rc.nocontext", "validation"),
        ("facebook/flores", "all", "devtest"),
        ("facebook/anli", None, "test_r1"),
        ("someone/evals", "hellaswag", "validation"),
        ("allenai/openbookqa", "main", "train+test"),
    ],
)
def test_evaluation_splits_of_public_benchmarks(path, name, split):
    assert benchmark(path, name, split) is not None


@pytest.mark.parametrize(
    "path, name, split",
    [
        (None, None, "test"),
        ("openai/gsm8k", "main", "train"),
        ("cais/mmlu", "anatomy", "validation"),
        ("Rowan/hellaswag", None, "train"),
        ("allenai/ai2_arc", "ARC-Easy", "train"),
        ("acme/support-tickets", "refunds", "test"),
        ("acme/support-tickets", "race", "test"),
        ("json", None, "test"),
    ],
)
def test_other_data_may_steer_a_search(path, name, split):
    assert benchmark(path, name, split, {"data_files": {"test": "hellaswag.jsonl"}}) is None


def test_a_local_copy_is_the_users_own(tmp_path):
    (tmp_path / "hellaswag").mkdir()
    assert benchmark(str(tmp_path / "hellaswag"), None, "validation") is None


@pytest.mark.parametrize(
    "url",
    [
        "hf://datasets/openai/gsm8k/main/test.parquet",
        "https://huggingface.co/datasets/openai/gsm8k/resolve/main/t.json",
    ],
)
def test_files_read_from_the_hub_are_the_data_set_they_lie_in(url):
    assert benchmark("parquet", None, "test", {"data_files": {"test": url}}) == "openai/gsm8k (test)"


def test_leave_is_given_by_the_suite_and_reported():
    spec = TaskSpec(name="mine", metric="acc")
    config = {"dataset_path": "Rowan/hellaswag", "validation_split": "validation"}
    with pytest.raises(SuiteError, match="keep the benchmark for the end, or set allow_benchmarks=true"):
        _benchmark(spec, config.get, SuiteConfig(tasks=[spec]))
    allowed = SuiteConfig(tasks=[spec], allow_benchmarks=True)
    assert _benchmark(spec, config.get, allowed) == "Rowan/hellaswag (validation)"
