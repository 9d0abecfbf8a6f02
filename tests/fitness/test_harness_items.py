"""Parts of a split, reference answers, and what a batch does when memory runs out."""

import json

import pytest
import torch

from fitness import harness as harness_module
from fitness.batches import batch_size
from fitness.harness import Harness
from fitness.likelihood import Likelihoods
from fitness.network import Network
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
