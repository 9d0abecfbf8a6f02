"""What a candidate pays for: forward passes, and nothing that could be done once."""

import subprocess
import sys

from lm_eval import utils as lm_eval_utils
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM

from fitness.harness import Harness
from fitness.suite import SuiteConfig


def test_prompts_are_rendered_and_tokenized_once(task_folder, model, tokenizer, monkeypatch):
    specs = (
        {"name": "gen", "metric": "exact_match"},
        {"name": "choice", "metric": "acc"},
        {"name": "cloze", "metric": "perplexity"},
        {"name": "prose", "metric": "word_perplexity"},
    )
    harness = Harness(SuiteConfig(include_path=(str(task_folder),), tasks=specs))
    harness.bind(model, tokenizer)
    first = harness.score("dev")
    compiled = lm_eval_utils.env.from_string.cache_info().misses

    def refuse(*arguments, **options):
        raise AssertionError("done once per worker, not per candidate")

    for owner, name in (
        (HFLM, "tok_encode"),
        (HFLM, "tok_batch_encode"),
        (HFLM, "loglikelihood"),
        (HFLM, "loglikelihood_rolling"),
        (HFLM, "generate_until"),
        (ConfigurableTask, "build_all_requests"),
        (ConfigurableTask, "fewshot_context"),
        (subprocess, "Popen"),
    ):
        monkeypatch.setattr(owner, name, refuse)
    harness.bind(model, tokenizer)
    assert harness.score("dev") == first
    assert lm_eval_utils.env.from_string.cache_info().misses == compiled


def test_what_a_config_needs_is_light():
    modules = "fitness.errors, fitness.suite, fitness.items, fitness.ranking, fitness.benchmarks"
    heavy = {"torch", "lm_eval", "transformers", "datasets", "numpy"}
    script = f"import sys, {modules}; print(sorted(set(sys.modules) & {heavy}))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"
