"""What a model answered, document for document: lm-eval's own samples have it, and it explains each value."""

import pytest
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.config import search_config
from fitness import answers
from fitness.harness import Harness
from fitness.items import TaskScores
from fitness.questions import questions
from fitness.racing import joined
from fitness.suite import SuiteConfig

PHRASES = "{{['é' + answer, '€€€', 'ü' + choices[1] + 'ü', choices[2] + ' „“']}}"


@pytest.fixture(scope="module")
def config():
    return search_config(["experiment=demo"])


@pytest.fixture(scope="module")
def demo(config):
    """A specialist of the demo and its tokenizer."""
    path = config.models.parents[0].path
    return AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)


def test_answers_of_the_demo_are_those_of_lm_eval(config, demo, monkeypatch):
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)  # one second of pip
    harness = Harness(config.suite)
    harness.bind(*demo)
    items = {task: splits["dev"][:40] for task, splits in harness.documents.items()}
    scores = harness.score("dev", items=items)
    found = evaluator.simple_evaluate(
        HFLM(demo[0], tokenizer=demo[1], batch_size=16),
        tasks=list(items),
        samples={task: list(ids) for task, ids in items.items()},
        task_manager=TaskManager(include_path=list(config.suite.include_path), include_defaults=False),
        bootstrap_iters=0,
    )["samples"]
    for task in ("catalogue", "shipping"):
        assert scores[task].answers == tuple(sample["resps"][0][0] for sample in found[task])
    options = ["full", "half", "voucher", "refuse"]
    likeliest = [max(range(4), key=lambda place: each["resps"][place][0][0]) for each in found["refunds"]]
    assert scores["refunds"].answers == tuple(options[place] for place in likeliest)
    for task in questions(config.suite):
        right = [task.documents[each].target for each in scores[task.name].doc_ids]
        pairs = zip(scores[task.name].answers, right, strict=True)
        explained = [float(answer.strip() == target) for answer, target in pairs]
        assert scores[task.name].values == tuple(explained)
        assert sum(explained) > 0, "some are right"
        assert len(set(scores[task.name].answers)) > 1


@pytest.fixture
def chosen(tmp_path, task_folder, write_task, model, tokenizer):
    """chosen(metrics, **task): metric -> the options that the model takes, which explain its items."""

    def choose(metrics, **task):
        listed = [{"metric": each, "aggregation": "mean", "higher_is_better": True} for each in metrics]
        data = {"data_files": {"test": str(task_folder / "test.jsonl")}}
        changes = {"metric_list": listed, "dataset_kwargs": data, "fewshot_split": None}
        write_task(tmp_path, "choosing", output_type="multiple_choice", **changes | task)
        found = {}
        for metric in metrics:
            spec = {"name": "choosing", "metric": metric}
            suite = SuiteConfig(include_path=(str(tmp_path),), tasks=(spec,), holdout={"fraction": 0})
            harness = Harness(suite)
            harness.bind(model, tokenizer)
            scores, [asked] = harness.score("dev")["choosing"], questions(suite)
            pairs = zip(scores.doc_ids, scores.answers, strict=True)
            explained = [float(answer == asked.documents[doc_id].target) for doc_id, answer in pairs]
            assert scores.values == tuple(explained), metric
            assert len(set(explained)) == 2
            found[metric] = scores.answers
        return found

    return choose


def test_the_option_is_the_one_that_the_metric_counts(chosen):
    metrics = ["acc", "acc_norm", "acc_bytes", "acc_mutual_info"]
    found = chosen(metrics, doc_to_target="gold", doc_to_choice=PHRASES)
    assert len(set(found.values())) == len(metrics), "no two of them choose alike here"


def test_the_option_may_be_what_comes_before(chosen):
    """As in Winogrande, all options go on alike."""
    found = chosen(["acc"], doc_to_text="gold", doc_to_choice="choices", doc_to_target="and one {{prompt}}")
    assert len(set(found["acc"])) > 1


def test_nothing_is_answered_where_a_text_is_only_read(task_folder, model, tokenizer):
    specs = ({"name": "cloze", "metric": "perplexity"}, {"name": "prose", "metric": "word_perplexity"})
    tasks = (*specs, {"name": "gen", "metric": "exact_match"})
    harness = Harness(SuiteConfig(include_path=(str(task_folder),), tasks=tasks))
    harness.bind(model, tokenizer)
    assert [each.answers is None for each in harness.score("dev").values()] == [True, True, False]
    assert [each.answers for each in harness.likelihood("dev").values()] == [None, None, None]


def test_parts_of_a_split_are_answered_alike_also_where_lm_eval_generates(task_folder, model, tokenizer):
    specs = ({"name": "gen_filtered", "metric": "exact_match", "filter": "word"}, {"name": "choice", "metric": "acc"})
    harness = Harness(SuiteConfig(include_path=(str(task_folder),), tasks=specs))
    harness.bind(model, tokenizer)
    whole = harness.score("dev")
    ids = {task: splits["dev"] for task, splits in harness.documents.items()}
    first, rest = ({task: each[start::2] for task, each in ids.items()} for start in (0, 1))
    merged = joined(harness.score("dev", items=first), harness.score("dev", items=rest))
    assert {task: each.answers for task, each in merged.items()} == {task: each.answers for task, each in whole.items()}
    model.generation_config.repetition_penalty = 1.0001  # left to lm-eval
    harness.bind(model, tokenizer)
    assert not harness._lm.generates_plainly
    assert harness.score("dev")["gen_filtered"].answers == whole["gen_filtered"].answers


def test_rungs_of_which_one_has_no_answers():
    before = {"t": TaskScores("t", "acc", (1, 4), (1.0, 0.0), 0.5, True)}
    after = {"t": TaskScores("t", "acc", (0, 2), (1.0, 1.0), 1.0, True, answers=("yes", "no"))}
    assert joined(before, after)["t"].answers == ("yes", None, "no", None)
    assert joined(before, before)["t"].answers is None
    silent = {"t": TaskScores("t", "acc", (0, 2), (1.0, 1.0), 1.0, True)}
    assert joined(before, silent)["t"].answers is None


def test_a_long_answer_is_cut_after_it_was_scored(task_folder, model, tokenizer, monkeypatch):
    spec = {"name": "gen_filtered", "metric": "exact_match", "filter": "word"}
    harness = Harness(SuiteConfig(include_path=(str(task_folder),), tasks=(spec,)))
    harness.bind(model, tokenizer)
    whole = harness.score("dev")["gen_filtered"]
    assert answers.LONGEST > 1_000
    monkeypatch.setattr(answers, "LONGEST", 8)
    cut = harness.score("dev")["gen_filtered"]
    assert cut.values == whole.values
    assert max(map(len, whole.answers)) > 8
    assert cut.answers == tuple(each if len(each) <= 8 else f"{each[:3]}…{each[-4:]}" for each in whole.answers)


def test_a_task_that_asks_in_a_way_of_its_own_has_no_answer(task_folder, model, tokenizer):
    """Its code may make any number of requests, which then stand for no option."""
    harness = Harness(SuiteConfig(include_path=(str(task_folder),), tasks=({"name": "choice", "metric": "acc"},)))
    harness.bind(model, tokenizer)
    harness.score("dev")
    [task], requests = harness._tasks, harness._requests["choice", "dev"][:3]
    assert answers.given_answer(task, requests) in requests[0].options
    assert answers.given_answer(task, requests[:2]) is None
