import json
import shutil

import pytest
import torch
import yaml
from rich.console import Console

from evomerge.bench.candidate import CandidateCost, CandidateReport, DiskCost, _few_shot_suite
from evomerge.bench.machine import Machine
from evomerge.bench.table import candidate_table
from evomerge.checkpoint import OutputTokenizer
from evomerge.cli import main
from evomerge.demo import FOLDER
from evomerge.search.evaluator import Evaluator
from evomerge.search.outcome import Outcome
from fitness.suite import SuiteConfig, TaskSpec
from fitness.tasks import load_tasks


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def bench(capsys):
    """bench(*words): what `evomerge bench candidate` prints as JSON."""

    def run(*words: str) -> dict:
        assert main(["bench", "candidate", "--json", "--repeat", "1", *words]) == 0
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.soak
def test_the_demo_from_the_command_line(bench, monkeypatch):
    monkeypatch.setattr("fitness.reference.evaluator.add_env_info", lambda results: None)  # seconds of pip
    report = bench("experiment=demo", "suite.holdout.fraction=0.9", "--compare")
    width, inner, layers, vocabulary = 96, 192, 6, 453
    layer = 4 * width**2 + 3 * width * inner + 2 * width
    assert report["parameters"] == vocabulary * width + layers * layer + width
    assert report["documents"] == {"shipping": 56, "refunds": 56, "catalogue": 56}
    assert report["repeat"] == 1
    live, disk = report["live"], report["disk"]
    assert min(live["merge"], live["score"], live["judge"], live["bare"]) > 0
    assert live["whole"] >= live["merge"] + live["score"] + live["judge"]
    assert live["ratio"] == pytest.approx(live["whole"] / live["bare"])
    assert live["per_hour"] * live["whole"] == pytest.approx(3600)
    assert disk["whole"] >= disk["merge"] + disk["load"] + disk["evaluate"]
    assert 0 < disk["passes"] < disk["evaluate"]
    assert disk["ratio"] == pytest.approx(disk["whole"] / live["whole"])
    assert disk["difference"] == 0


def test_synthetic_models_on_a_generated_task(bench):
    report = bench("--params", "1M", "--shots", "2", "--no-compare")
    assert report["parameters"] == pytest.approx(10**6, rel=0.05)
    assert report["documents"] == {"colours": 28}
    assert report["disk"] is None


def test_models_and_suite_of_a_user(bench, tiny):
    report = bench("models=tiny", "genome=tiny", "suite=tiny", "--config-dir", str(tiny))
    assert list(report["documents"]) == ["choice", "prose"]
    assert report["disk"] is None


def test_passes_of_texts_that_are_drawn_count(bench, tiny, tmp_path):
    """lm-eval makes them, not the harness."""
    configs = tmp_path / "configs"
    shutil.copytree(tiny, configs)
    task = yaml.safe_load((configs / "tasks" / "choice.yaml").read_text())
    task |= {
        "task": "said",
        "output_type": "generate_until",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 3, "do_sample": True, "temperature": 1.0},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    del task["doc_to_choice"]
    (configs / "tasks" / "said.yaml").write_text(yaml.safe_dump(task))
    suite = {"include_path": ["tasks/"], "tasks": [{"name": "said", "metric": "exact_match"}]}
    (configs / "suite" / "said.yaml").write_text(yaml.safe_dump(suite))
    live = bench("models=tiny", "genome=tiny", "suite=said", "--config-dir", str(configs))["live"]
    assert 0 < live["bare"] < live["whole"]
    assert live["ratio"] == pytest.approx(live["whole"] / live["bare"])


def test_prompts_of_the_generated_task_share_what_stands_before_the_document(tmp_path):
    suite = SuiteConfig(tasks=(TaskSpec(name="replaced", metric="acc"),))
    task = load_tasks(_few_shot_suite(tmp_path, 5, suite))[0].task
    task.build_all_requests()
    tokenizer = OutputTokenizer(FOLDER / "models" / "base").load()
    prompts = [tokenizer(prompt)["input_ids"] for prompt in {each.args[0] for each in task.instances}]
    assert len(prompts) == 40
    shared = next(place for place, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1)
    assert shared * len(prompts) >= 0.8 * sum(map(len, prompts))
    assert {doc["answer"] for doc in task.eval_docs} == {"red", "blue", "gold", "grey"}


@pytest.mark.parametrize("compared", [True, False])
def test_the_table_has_the_ratio_to_the_bare_passes(capsys, compared):
    machine = Machine("a processor", 2, 8 * 2**30, None, "Linux 6", "3.11", "2.13", 1)
    live = CandidateCost(merge=0.01, score=0.4, judge=0.0005, whole=0.45, bare=0.4)
    disk = DiskCost(merge=0.1, load=0.2, evaluate=2.0, passes=1.0, whole=2.25, difference=0.0)
    report = CandidateReport(machine, 607_008, "float32", {"refunds": 392}, 3, live, disk if compared else None)
    Console(width=80).print(*candidate_table(report))
    said = capsys.readouterr().out
    assert "1.12 x bare forward passes; 8,000 candidates/h" in said
    assert "0.6M parameters in float32, median of 3 candidates" in said
    assert "392 of refunds" in said
    assert ("5.0 x" in said) == ("load" in said) == ("2.2500" in said) == compared


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--repeat", "0"], "--repeat"),
        (["--shots", "101"], "--shots"),
        (["--params", "abc"], "--params"),
        (["experiment=nothing"], "experiment/nothing"),
        (["models=demo"], "suite"),
    ],
)
def test_wrong_usage_is_one_line(words, told, capsys):
    assert main(["bench", "candidate", *words]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert told in said


def test_a_candidate_that_cannot_be_scored_says_why(monkeypatch, capsys, tiny):
    monkeypatch.setattr(Evaluator, "evaluate", lambda *arguments: Outcome(reason="out of memory: 2 GiB"))
    words = ["models=tiny", "genome=tiny", "suite=tiny", "--config-dir", str(tiny)]
    assert main(["bench", "candidate", *words]) == 4
    assert "out of memory: 2 GiB" in capsys.readouterr().err
