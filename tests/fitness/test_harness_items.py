"""Parts of a split, reference answers, and what a batch does when memory runs out."""

import json

import pytest
import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from fitness import harness as harness_module
from fitness.batches import batch_size
from fitness.confidence import interval
from fitness.errors import ScoringError
from fitness.estimates import score_interval
from fitness.harness import Harness
from fitness.likelihood import Likelihoods
from fitness.network import Network
from fitness.questions import questions
from fitness.suite import SuiteConfig

SPECS = (
    {"name": "gen", "metric": "exact_match"},
    {"name": "gen_filtered", "metric": "exact_match", "filter": "word"},
    {"name": "choice", "metric": "acc_norm"},
    {"name": "cloze", "metric": "perplexity"},
    {"name": "prose", "metric": "word_perplexity"},
)


@pytest.fixture
def harness(task_folder, model, tokenizer):
    harness = Harness(SuiteConfig(include_path=(str(task_folder),), tasks=SPECS))
    harness.bind(model, tokenizer)
    return harness


def test_an_item_scores_what_it_scores_in_its_split(harness):
    whole = harness.score("dev")
    items = {"choice": harness.documents["choice"]["dev"][3:9], "cloze": harness.documents["cloze"]["dev"][::-2]}
    part = harness.score("dev", items=items)
    assert list(part) == ["choice", "cloze"]
    for name, scores in part.items():
        assert scores.doc_ids == tuple(sorted(items[name]))
        values = dict(zip(whole[name].doc_ids, whole[name].values, strict=True))
        assert scores.values == pytest.approx([values[document] for document in scores.doc_ids], rel=1e-5)
    assert part["choice"].score == pytest.approx(sum(part["choice"].values) / 6)
    assert harness.score("dev", items=items) == part
    assert harness.score("dev") == whole


@pytest.mark.parametrize("items", [{"choice": []}, {"choice": [10**6]}])
def test_items_that_are_not_in_the_split(harness, items):
    with pytest.raises(ValueError, match="task choice are not documents of dev"):
        harness.score("dev", items=items)
    with pytest.raises(ValueError, match="task choice are not documents of dev"):
        harness.likelihood("dev", items=items)


def test_batches_of_an_item_set_are_made_once(harness, monkeypatch):
    items = {"choice": harness.documents["choice"]["dev"][:5]}
    first = harness.score("dev", items=items), harness.likelihood("dev", items=items)

    def refuse(*arguments):
        raise AssertionError("made once per item set")

    monkeypatch.setattr(harness_module, "Plan", refuse)
    monkeypatch.setattr(harness_module, "Likelihoods", refuse)
    assert (harness.score("dev", items=items), harness.likelihood("dev", items=items)) == first


def test_likelihood_of_the_reference_answers(harness, task_folder, model, tokenizer):
    """Against a bare forward pass over prompt and answer, without examples."""
    scores = harness.likelihood("holdout")
    assert set(scores) == {spec["name"] for spec in SPECS}
    documents = [json.loads(line) for line in (task_folder / "test.jsonl").read_text().splitlines()]
    for name, delimiter in (("gen_filtered", " "), ("cloze", "")):  # lm-eval puts none before what it reads anyway
        wanted = []
        for number in harness.documents[name]["holdout"]:
            prompt = f"{documents[number]['prompt']} :"
            tokens = tokenizer.encode(prompt + delimiter + documents[number]["answer"])
            start = len(tokenizer.encode(prompt))
            with torch.no_grad():
                logarithms = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
            each = [float(logarithms[place - 1, tokens[place]]) for place in range(start, len(tokens))]
            wanted.append(sum(each) / len(each))
        assert scores[name].doc_ids == harness.documents[name]["holdout"]
        assert scores[name].values == pytest.approx(wanted, rel=1e-4)
        assert scores[name].score == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)
        assert scores[name].higher_is_better
    gold = {number: documents[number]["gold"] for number in harness.documents["choice"]["holdout"]}
    requests = harness._requests["choice", "holdout"]
    ids = harness.documents["choice"]["holdout"]
    chosen = [each for each in requests if each.instance.idx == gold[ids[each.instance.doc_id]]]
    assert [request.reads for request in harness._references["choice", "holdout"].values()] == [
        request.reads for request in chosen
    ]


def test_documents_without_an_answer_are_left_out(tmp_path, write_task, model, tokenizer):
    for name, answers in (("some", ["cat", "", "dog"]), ("none", ["", "", ""])):
        documents = [{"prompt": f"one {number}", "answer": answer} for number, answer in enumerate(answers)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
        write_task(
            tmp_path,
            name,
            output_type="generate_until",
            generation_kwargs={"until": ["\n"], "max_gen_toks": 2},
            metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
            dataset_kwargs={"data_files": {"test": f"{name}.jsonl"}},
            fewshot_split=None,
        )
    specs = [{"name": name, "metric": "exact_match"} for name in ("some", "none")]
    harness = Harness(SuiteConfig(include_path=(str(tmp_path),), tasks=specs, holdout={"fraction": 0}))
    harness.bind(model, tokenizer)
    scores = harness.likelihood("dev")
    assert list(scores) == ["some"]
    assert scores["some"].doc_ids == (0, 2)


TARGETS = [
    "answer",
    "{{answer}}",
    "{{answer if answer is not none}}",
    " {{answer}}",
    "{{answer}}\n",
    "{{answer | trim}}",
    "{{qa.answer}}",
    "{{answers[0]}}",
]


@pytest.mark.parametrize("target", TARGETS)
def test_a_null_is_no_answer(tmp_path, write_task, model, tokenizer, target):
    """Jinja renders it as "None"; a document may also say so itself."""
    documents = [
        {"prompt": f"one {number}", "answer": answer, "qa": {"answer": answer}, "answers": [answer]}
        for number, answer in enumerate(["cat", None, "None"])
    ]
    (tmp_path / "nulls.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    data = {"dataset_kwargs": {"data_files": {"test": "nulls.jsonl"}}, "fewshot_split": None, "num_fewshot": 0}
    write_task(tmp_path, "nulls", like="gen", doc_to_target=target, **data)
    spec = {"name": "nulls", "metric": "exact_match"}
    suite = SuiteConfig(include_path=(str(tmp_path),), tasks=[spec], holdout={"fraction": 0})
    harness = Harness(suite)
    harness.bind(model, tokenizer)
    assert harness.likelihood("dev")["nulls"].doc_ids == (0, 2)
    told = [each.target.strip() for each in questions(suite)[0].documents.values()]
    assert told == ["cat", "", "None"]


POINTS = """
def points(doc, results):
    length = len(doc["prompt"])
    return {"points": NAN if length % 3 == 0 else length % 10}
"""


@pytest.fixture
def points(tmp_path, task_folder, write_task, model, tokenizer):
    """points(aggregation, **spec): a harness of a task whose metric has no number for some of its documents."""

    def make(aggregation, nan="float('nan')", **spec):
        (tmp_path / "points.py").write_text(POINTS.replace("NAN", nan))
        changes = {
            "dataset_kwargs": {"data_files": {"test": str(task_folder / "test.jsonl")}},
            "fewshot_split": None,
            "num_fewshot": 0,
            "metric_list": [{"metric": "points", "aggregation": aggregation, "higher_is_better": True}],
        }
        path = write_task(tmp_path, "points", like="gen", **changes)
        path.write_text(path.read_text() + "process_results: !function points.points\n")
        tasks = [{"name": "points", "metric": "points"} | spec]
        changes = {"holdout": {"fraction": 0}, "batch_size": 16}
        harness = Harness(SuiteConfig(include_path=(str(tmp_path),), tasks=tasks, **changes))
        harness.bind(model, tokenizer)
        return harness

    return make


@pytest.fixture
def lengths(task_folder):
    return [len(json.loads(line)["prompt"]) for line in (task_folder / "test.jsonl").read_text().splitlines()]


def test_a_mean_may_leave_documents_out(points, lengths, model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)  # seconds of pip
    harness = points("nanmean")
    found = harness.score("dev")["points"]
    assert found.doc_ids == tuple(number for number, length in enumerate(lengths) if length % 3)
    assert 0 < len(found.doc_ids) < len(lengths)
    assert found.values == tuple(lengths[number] % 10 for number in found.doc_ids)
    assert len(found.answers) == len(found.doc_ids)
    results = evaluator.simple_evaluate(
        HFLM(model, tokenizer=tokenizer, batch_size=16),
        tasks=["points"],
        task_manager=TaskManager(include_path=[str(tmp_path)], include_defaults=False),
        bootstrap_iters=0,
    )["results"]
    assert found.score == results["points"]["points,none"]
    assert score_interval(found) == interval(found.values)
    assert (harness.raceable, harness.additive) == ({"points": False}, {"points": False})
    with pytest.raises(ScoringError, match=r"score is not finite \(task points: points\)"):
        harness.score("dev", items={"points": [lengths.index(next(each for each in lengths if each % 3 == 0))]})


def test_a_document_that_has_no_number_is_named(points, lengths):
    first = next(number for number, length in enumerate(lengths) if length % 3 == 0)
    with pytest.raises(ScoringError) as refused:
        points("mean").score("dev")
    told = f"score is not finite (task points: points of document {first}): expected a finite number, found nan"
    assert str(refused.value) == told


def test_scores_keep_to_the_range_that_the_suite_states(points, lengths, caplog):
    assert points("mean", nan="0", range=[0, 9]).score("dev")["points"].score > 0
    first = next(number for number, length in enumerate(lengths) if length % 3 and length % 10 > 5)
    with pytest.raises(ScoringError) as refused:
        points("mean", nan="0", range=[0, 5]).score("dev")
    assert str(refused.value) == (
        f"score is out of range (task points: points of document {first}): "
        f"expected 0 to 5, the range that the suite states, found {lengths[first] % 10}.0"
    )
    # of a median it is the score that keeps to it
    assert points("median", nan="0", range=[0, 8]).score("dev")["points"].score <= 8
    with pytest.raises(ScoringError, match=r"score is out of range \(task points: points\): expected 20 to 30"):
        points("median", nan="0", range=[20, 30]).score("dev")
    assert caplog.text == ""


@pytest.mark.parametrize("aggregation", ["mean", "nanmean"])
def test_rounding_does_not_leave_a_stated_range(points, tmp_path, aggregation):
    harness = points(aggregation, nan="0", range=[0, 1])
    shares = "def points(doc, results):\n    return {'points': %s}\n"
    for changed, expected in (
        ("1 + 5e-7", 1.0),
        ("-5e-7", 0.0),
        ("1.0000005 if len(doc['prompt']) % 2 else 0.5", None),
    ):
        (tmp_path / "points.py").write_text(shares % changed)
        again = Harness(harness.suite)
        again.bind(harness._network.model, harness._lm.tokenizer)
        found = again.score("dev")["points"]
        assert set(found.values) <= {0.0, 0.5, 1.0}
        assert found.score == sum(found.values) / len(found.values)
        assert expected in (None, found.score)
        assert score_interval(found, within=(0, 1)) is not None
    (tmp_path / "points.py").write_text(shares % "1 + 2e-6")
    beyond = Harness(harness.suite)
    beyond.bind(harness._network.model, harness._lm.tokenizer)
    with pytest.raises(ScoringError, match=r"of document 0\): expected 0 to 1, the range that the suite states"):
        beyond.score("dev")


def test_a_range_is_part_of_what_scores_depend_on(points):
    plain, ranged = points("mean", nan="0"), points("mean", nan="0", range=[0, 9])
    assert plain.digests != ranged.digests
    assert plain.digests == points("mean", nan="0").digests


def test_who_does_not_state_a_range_is_told_where_it_is_missed(points, tmp_path, caplog):
    harness = points("mean", nan="0")
    ids = harness.documents["points"]["dev"]
    harness.score("dev", items={"points": ids[:5]})  # part of the documents, as on a rung
    assert caplog.text == ""
    harness.score("dev")
    assert "task points: the range of points is not known, so documents that all score alike give no" in caplog.text
    caplog.clear()
    (tmp_path / "points.py").write_text("def points(doc, results):\n    return {'points': 1}\n")
    for aggregation, told in (("mean", ""), ("median", "points has no confidence interval, as no document changes it")):
        (tmp_path / "points.yaml").write_text(
            (tmp_path / "points.yaml").read_text().replace("aggregation: mean", f"aggregation: {aggregation}")
        )
        alike = Harness(harness.suite)
        alike.bind(harness._network.model, harness._lm.tokenizer)
        assert alike.score("dev")["points"].score == 1
        assert told in caplog.text
        assert bool(told) is bool(caplog.text)


def test_metrics_of_a_corpus_cannot_race(tmp_path, task_folder, write_task):
    data = {"data_files": {"test": str(task_folder / "test.jsonl")}}
    for name, metric, aggregation in (("mean", "exact_match", "mean"), ("corpus", "bleu", "bleu")):
        write_task(
            tmp_path,
            name,
            output_type="generate_until",
            generation_kwargs={"until": ["\n"], "max_gen_toks": 2},
            metric_list=[{"metric": metric, "aggregation": aggregation, "higher_is_better": True}],
            dataset_kwargs=data,
            fewshot_split=None,
        )
    specs = [{"name": "mean", "metric": "exact_match"}, {"name": "corpus", "metric": "bleu"}]
    assert Harness(SuiteConfig(include_path=(str(tmp_path),), tasks=specs)).raceable == {"mean": True, "corpus": False}


def test_out_of_memory_halves_the_batches_for_good(harness, model, monkeypatch):
    whole = harness.score("dev")
    forward, rows = type(model).forward, []

    def narrow(self, ids, **options):
        rows.append(len(ids))
        if len(ids) > 5:
            raise torch.OutOfMemoryError("no room")
        return forward(self, ids, **options)

    monkeypatch.setattr(type(model), "forward", narrow)
    scores = harness.score("dev")
    assert any(count > 5 for count in rows)
    for name in whole:
        assert scores[name].values == pytest.approx(whole[name].values, rel=1e-5)
    rows.clear()
    assert harness.score("dev") == scores
    assert harness.likelihood("dev")
    assert max(rows) <= 5, "remembered"


def test_a_row_that_does_not_fit_alone_is_an_error(harness, model, monkeypatch):
    def full(self, ids, **options):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(type(model), "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        harness.score("dev")


def test_bare_seconds_are_part_of_the_whole(harness, monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr("fitness.network.perf_counter", lambda: next(ticks))
    passes = []
    handle = harness._network.model.register_forward_hook(lambda *_: passes.append(1))
    assert harness.bare_seconds("dev") == len(passes) > 0
    handle.remove()


def test_bare_seconds_hold_what_lm_eval_generates(task_folder, model, tokenizer, monkeypatch):
    """Texts that are drawn are lm-eval's, and so are all where the model changes its own logits."""
    specs = ({"name": "gen_sampled", "metric": "exact_match"}, {"name": "choice", "metric": "acc"})
    ticks = iter(range(10**6))
    monkeypatch.setattr("fitness.network.perf_counter", lambda: next(ticks))
    seconds = []
    for tasks in (specs[:1], specs):
        harness = Harness(SuiteConfig(include_path=(str(task_folder),), tasks=tasks))
        harness.bind(model, tokenizer)
        passes = []
        with model.register_forward_hook(lambda *_, seen=passes: seen.append(1)):
            seconds.append(harness.bare_seconds("dev"))
        assert seconds[-1] == len(passes)
    assert 0 < seconds[0] < seconds[1]


def test_logits_are_computed_only_where_they_are_read(model):
    network = Network(model)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    seen = []
    handle = model.lm_head.register_forward_hook(lambda _head, inputs, _output: seen.append(inputs[0].shape[:-1]))
    read = network.logits(ids, torch.tensor([1, 0]), torch.tensor([0, 2]))
    handle.remove()
    with torch.no_grad():
        every = model(ids).logits
    assert seen == [(1, 2)]
    torch.testing.assert_close(read, torch.stack([every[1, 0], every[0, 2]]))


def test_auto_is_a_matter_of_the_machine_and_the_model(model, make_llama):
    assert batch_size(7, model).rows == 7
    assert batch_size("auto", model) == batch_size("auto", make_llama())
    network = Network(model)
    assert Likelihoods([], network, batch_size("auto", model)).run(network) == []
