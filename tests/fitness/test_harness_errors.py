"""What a user can get wrong in a suite, its tasks and their data: one line each."""

import json
import socket

import pytest
import torch
from lm_eval.tasks import TaskManager

from fitness import tasks as fitness_tasks
from fitness.errors import ScoringError, SuiteError
from fitness.harness import Harness
from fitness.suite import SuiteConfig

GEN = {"name": "gen", "metric": "exact_match"}
PERPLEXITY = {"name": "cloze", "metric": "perplexity"}


def load(folder, *specs, **changes):
    return Harness(SuiteConfig(include_path=(str(folder),), tasks=specs, **changes))


@pytest.fixture
def without_lm_evals_own_tasks(monkeypatch, task_folder):
    """Indexing all of lm-eval's tasks takes seconds; the folder of these tests stands in for them."""

    def manager(include_path, include_defaults=True):
        folders = [str(task_folder), *include_path] if include_defaults else include_path
        return TaskManager(include_path=folders, include_defaults=False)

    monkeypatch.setattr(fitness_tasks, "TaskManager", manager)


@pytest.mark.parametrize(
    "spec, message",
    [
        (
            {"name": "chioce", "metric": "acc"},
            "unknown task (suite.tasks): found 'chioce'; did you mean 'choice'?",
        ),
        (
            {"name": "choice", "metric": "f1"},
            "unknown metric (task choice): found 'f1'; the task has 'acc', 'acc_norm'",
        ),
        (
            {"name": "choice", "metric": "acc", "filter": "strict"},
            "unknown filter (task choice): found 'strict'; the task has 'none'",
        ),
        (
            {"name": "gen_filtered", "metric": "exact_match"},
            "task has several filters (task gen_filtered): found raw, word; choose one with `filter`",
        ),
    ],
)
@pytest.mark.usefixtures("without_lm_evals_own_tasks")
def test_unknown_names(task_folder, spec, message):
    with pytest.raises(SuiteError) as error:
        load(task_folder, spec)
    assert str(error.value) == message


@pytest.mark.usefixtures("without_lm_evals_own_tasks")
def test_syntax_error_in_a_task_file_names_the_line(tmp_path):
    (tmp_path / "broken.yaml").write_text("task: broken\noutput_type: [multiple_choice\nmetric_list: 1\n")
    with pytest.raises(SuiteError, match=r"task file is not valid YAML \(.*broken.yaml:3\)"):
        load(tmp_path, {"name": "broken", "metric": "acc"})


@pytest.mark.usefixtures("without_lm_evals_own_tasks")
def test_task_file_that_includes_a_missing_one(tmp_path):
    (tmp_path / "child.yaml").write_text("include: parent.yaml\ntask: child\n")
    with pytest.raises(SuiteError, match=r"task file cannot be read \(.*child.yaml\).*parent.yaml"):
        load(tmp_path, {"name": "child", "metric": "acc"})


def test_a_broken_file_beside_the_tasks_does_no_harm(tmp_path, task_folder, write_task):
    (tmp_path / "broken.yaml").write_text("[")
    write_task(
        tmp_path, "cloze", dataset_kwargs={"data_files": {"test": str(task_folder / "test.jsonl")}}, fewshot_split=None
    )
    assert load(tmp_path, PERPLEXITY).directions == {"cloze": False}


def test_groups_and_tags_are_not_tasks(tmp_path, write_task):
    (tmp_path / "both.yaml").write_text("group: both\ntask: [gen, cloze]\n")
    write_task(tmp_path, "gen", tag="spoken")
    with pytest.raises(SuiteError, match=r"several tasks \(task both\).* found a group; list its members: gen, cloze"):
        load(tmp_path, {"name": "both", "metric": "acc"})
    with pytest.raises(SuiteError, match=r"several tasks \(task spoken\).* found a tag; list its members: gen"):
        load(tmp_path, {"name": "spoken", "metric": "acc"})


def test_missing_task_folder(tmp_path):
    with pytest.raises(SuiteError, match=r"task folder is missing .*nowhere"):
        load(tmp_path / "nowhere", GEN)


def test_missing_data_file(tmp_path, write_task):
    write_task(tmp_path, "gen", dataset_kwargs={"data_files": {"test": "gone.jsonl"}}, fewshot_split=None)
    with pytest.raises(SuiteError, match=r"task cannot be loaded \(task gen\).*gone.jsonl"):
        load(tmp_path, GEN)


def test_template_that_names_a_missing_field(tmp_path, task_folder, write_task):
    data = {"data_files": {"test": str(task_folder / "test.jsonl")}}
    write_task(tmp_path, "gen", dataset_kwargs=data, fewshot_split=None, doc_to_text="{{promt}}")
    with pytest.raises(SuiteError, match=r"task cannot be loaded \(task gen\).*'promt' is undefined"):
        load(tmp_path, GEN)


@pytest.mark.parametrize("fraction, count", [(0.3, 1), (0.01, 30), (0.99, 30)])
def test_empty_split(tmp_path, task_folder, write_task, fraction, count):
    lines = (task_folder / "test.jsonl").read_text().splitlines(keepends=True)[:count]
    (tmp_path / "few.jsonl").write_text("".join(lines))
    write_task(tmp_path, "gen", dataset_kwargs={"data_files": {"test": "few.jsonl"}}, fewshot_split=None, num_fewshot=0)
    with pytest.raises(SuiteError, match=r"split is empty \(task gen\)"):
        load(tmp_path, GEN, holdout={"fraction": fraction})


def test_metric_without_a_direction(tmp_path, task_folder, write_task):
    (tmp_path / "own.py").write_text("def score(doc, results):\n    return {'own': 1.0}\n")
    path = write_task(
        tmp_path,
        "gen",
        dataset_kwargs={"data_files": {"test": str(task_folder / "test.jsonl")}},
        fewshot_split=None,
        num_fewshot=0,
        metric_list=[{"metric": "own", "aggregation": "mean"}],
    )
    path.write_text(path.read_text() + "process_results: !function own.score\n")
    with pytest.raises(SuiteError, match=r"metric has no direction \(task gen: own\); set higher_is_better"):
        load(tmp_path, {"name": "gen", "metric": "own"})


def test_task_that_runs_generated_code_is_refused(tmp_path, task_folder, write_task):
    data = {"data_files": {"test": str(task_folder / "test.jsonl")}}
    write_task(tmp_path, "gen", dataset_kwargs=data, fewshot_split=None, unsafe_code=True)
    with pytest.raises(SuiteError, match="runs generated code"):
        load(tmp_path, GEN)


@pytest.mark.parametrize(
    "spec, gate, message",
    [
        (GEN, {"at_most": 0.5}, "(task gen: exact_match): expected at_least, higher is better, found at_most"),
        (
            PERPLEXITY,
            {"at_least": 0.9, "of": "base"},
            "(task cloze: perplexity): expected at_most, lower is better, found at_least",
        ),
    ],
)
def test_a_gate_on_the_wrong_side(task_folder, spec, gate, message):
    with pytest.raises(SuiteError) as refused:
        load(task_folder, spec | {"gate": gate})
    assert f"gate bounds the wrong side {message}; write at_" in str(refused.value)


@pytest.mark.parametrize(
    "spec, gate, message",
    [
        (GEN, {"at_least": 1.01}, "(task gen: exact_match): expected a bound from 0 to 1, found >= 1.01"),
        (GEN, {"at_least": 90, "confidence": 0.9}, "from 0 to 1, found >= 90 with confidence 0.9"),
        (PERPLEXITY | {"range": [1, 50]}, {"at_most": 0.5}, "from 1 to 50, found <= 0.5"),
    ],
)
def test_a_gate_that_no_score_can_clear(task_folder, spec, gate, message):
    with pytest.raises(SuiteError) as refused:
        load(task_folder, spec | {"gate": gate})
    assert "no score can clear the gate" in str(refused.value)
    assert message in str(refused.value)


def test_a_gate_whose_metric_may_be_anything(tmp_path, task_folder, write_task):
    """A task may compute what it likes under the name of a metric that lm-eval knows."""
    (tmp_path / "own.py").write_text("def score(doc, results):\n    return {'exact_match': 100.0}\n")
    data = {"data_files": {"test": str(task_folder / "test.jsonl")}}
    path = write_task(tmp_path, "gen", dataset_kwargs=data, fewshot_split=None, num_fewshot=0)
    gated = GEN | {"gate": {"at_least": 90}}
    with pytest.raises(SuiteError, match="no score can clear the gate"):
        load(tmp_path, gated)
    path.write_text(path.read_text() + "process_results: !function own.score\n")
    assert load(tmp_path, gated).directions == {"gen": True}
    relative = {"at_least": 1.5, "of": "base"}
    assert load(task_folder, GEN | {"gate": relative}).directions == {"gen": True}


def test_a_gate_on_the_right_side(task_folder):
    gated = [GEN | {"gate": {"at_least": 0.5}}, PERPLEXITY | {"gate": {"at_most": 1.1, "of": "base"}}]
    assert load(task_folder, *gated).directions == {"gen": True, "cloze": False}


def test_fewshot_examples_never_come_from_the_holdout(tmp_path, task_folder, write_task):
    data = {"data_files": {"test": str(task_folder / "test.jsonl")}}
    write_task(tmp_path, "gen", dataset_kwargs=data, fewshot_split=None)
    with pytest.raises(SuiteError, match="few-shot examples would come from the documents that are scored"):
        load(tmp_path, GEN)
    assert load(tmp_path, GEN, holdout={"fraction": 0}).documents["gen"]["holdout"] == ()
    assert load(tmp_path, GEN | {"num_fewshot": 0}).directions == {"gen": True}


def test_num_fewshot_that_the_task_fixes_at_zero(tmp_path, task_folder, write_task):
    data = {"data_files": {"test": str(task_folder / "test.jsonl")}}
    write_task(tmp_path, "gen", dataset_kwargs=data, fewshot_split=None, num_fewshot=0)
    with pytest.raises(SuiteError, match="task fixes num_fewshot at 0"):
        load(tmp_path, GEN | {"num_fewshot": 2})


def test_more_examples_than_there_are(task_folder, model, tokenizer):
    harness = load(task_folder, GEN | {"num_fewshot": 50})
    harness.bind(model, tokenizer)
    with pytest.raises(SuiteError, match=r"prompts cannot be built \(task gen\)"):
        harness.score("dev")


def test_answer_longer_than_the_model(tmp_path, task_folder, write_task, model, tokenizer):
    data = {"data_files": {"test": str(task_folder / "test.jsonl")}}
    options = {"until": ["\n"], "max_gen_toks": 128}
    write_task(tmp_path, "gen", dataset_kwargs=data, fewshot_split=None, num_fewshot=0, generation_kwargs=options)
    harness = load(tmp_path, GEN)
    harness.bind(model, tokenizer)
    with pytest.raises(SuiteError, match="max_gen_toks below the model's 128 tokens, found 128"):
        harness.score("dev")


def test_prompts_that_are_cut_are_counted(task_folder, model, tokenizer, caplog):
    harness = load(task_folder, PERPLEXITY, max_length=9)
    harness.bind(model, tokenizer)
    harness.score("dev")
    documents = [json.loads(line) for line in (task_folder / "test.jsonl").read_text().splitlines()]
    dev = [documents[number] for number in harness.documents["cloze"]["dev"]]
    # the last token of the answer is predicted, never fed
    fed = [len(tokenizer.encode(f"{document['prompt']} :{document['answer']}")) - 1 for document in dev]
    cut = sum(length > 9 for length in fed)
    assert 0 < cut < len(dev)
    assert f"task cloze: {cut} of {len(dev)} prompts are too long" in caplog.text


def test_tokenizer_without_a_chat_template(task_folder, model, tokenizer):
    with pytest.raises(SuiteError, match="tokenizer has no chat template"):
        load(task_folder, GEN, apply_chat_template=True).bind(model, tokenizer)


@pytest.mark.parametrize("spec", [GEN, PERPLEXITY, {"name": "prose", "metric": "bits_per_byte"}])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite(task_folder, model, tokenizer, spec, value):
    harness = load(task_folder, spec)
    harness.bind(model, tokenizer)
    sound = harness.score("dev")
    kept = model.lm_head.weight[7].clone()
    with torch.no_grad():
        model.lm_head.weight[7] = value
    with pytest.raises(ScoringError, match="logits are not finite"):
        harness.score("dev")
    with torch.no_grad():
        model.lm_head.weight[7] = kept
    assert harness.score("dev") == sound, "a failed candidate leaves nothing behind for the next"


def test_perplexity_beyond_any_number(task_folder, model, tokenizer):
    harness = load(task_folder, {"name": "prose", "metric": "word_perplexity"})
    harness.bind(model, tokenizer)
    with torch.no_grad():
        model.lm_head.weight.mul_(1e4)
    with pytest.raises(ScoringError, match=r"metric has no value \(task prose: word_perplexity\)"):
        harness.score("dev")


def test_scoring_before_binding(task_folder):
    with pytest.raises(RuntimeError, match="bind first"):
        load(task_folder, GEN).score("dev")


def test_nothing_to_score_without_a_holdout(task_folder, model, tokenizer):
    harness = load(task_folder, GEN, holdout={"fraction": 0})
    harness.bind(model, tokenizer)
    with pytest.raises(SuiteError, match=r"split is empty .*expected holdout documents"):
        harness.score("holdout")


def test_benchmark_is_refused_before_it_is_downloaded(tmp_path, write_task):
    write_task(tmp_path, "innocent", dataset_path="Rowan/hellaswag", dataset_kwargs=None, test_split="validation")
    with pytest.raises(SuiteError, match=r"public benchmark \(task innocent\): found Rowan/hellaswag \(validation\)"):
        load(tmp_path, {"name": "innocent", "metric": "acc"})


def test_a_changed_data_file_is_read_again(tmp_path, write_task):
    data = {"data_files": {"test": "own.jsonl"}}
    write_task(tmp_path, "gen", dataset_kwargs=data, fewshot_split=None, num_fewshot=0)
    for count in (10, 20):
        documents = [{"prompt": f"cat {count} {number}", "answer": "x"} for number in range(count)]
        (tmp_path / "own.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
        assert len(load(tmp_path, GEN).documents["gen"]["all"]) == count


def test_local_tasks_need_no_network_and_draw_no_bars(task_folder, model, tokenizer, monkeypatch, capfd):
    calls = []

    def refuse(*arguments):
        calls.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    harness = load(task_folder, GEN, PERPLEXITY, {"name": "prose", "metric": "bits_per_byte"})
    harness.bind(model, tokenizer)
    harness.score("dev")
    assert calls == []
    assert capfd.readouterr() == ("", "")
