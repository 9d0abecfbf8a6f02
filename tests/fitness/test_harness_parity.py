"""Scores equal lm-eval's own, score for score and item for item, on the same documents.

What counts (accuracy, exact match) is equal; what sums log-likelihoods is equal but for the rounding of float32.
"""

import json
import random
from functools import partial

import numpy as np
import pytest
import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from fitness.harness import Harness
from fitness.suite import SuiteConfig

SPECS = [
    {"name": "gen", "metric": "exact_match"},
    {"name": "gen_filtered", "metric": "exact_match", "filter": "word"},
    {"name": "gen_sampled", "metric": "exact_match"},
    {"name": "choice", "metric": "acc_norm"},
    {"name": "cloze", "metric": "perplexity"},
    {"name": "prose", "metric": "word_perplexity"},
]
BATCH_SIZE = 4


@pytest.fixture
def reference(task_folder, tokenizer, monkeypatch):
    """lm-eval's own scores and samples."""
    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)  # one second of pip, no part of a score
    monkeypatch.chdir(task_folder)

    def evaluate(model, samples, num_fewshot=None, folder=task_folder, **limits):
        return evaluator.simple_evaluate(
            HFLM(model, tokenizer=tokenizer, batch_size=BATCH_SIZE, **limits),
            tasks=list(samples),
            samples={name: list(ids) for name, ids in samples.items()},
            num_fewshot=num_fewshot,
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
        )

    return evaluate


def suite_of(folder, *specs, **changes):
    return SuiteConfig(include_path=(str(folder),), tasks=specs, **{"batch_size": BATCH_SIZE} | changes)


def assert_equal(scores, expected, specs):
    for spec in specs:
        name, metric, filter_name = spec["name"], spec["metric"], spec.get("filter", "none")
        rounding = 1e-5 if "perplexity" in metric else 0
        wanted = expected["results"][name][f"{metric},{filter_name}"]
        assert scores[name].score == pytest.approx(wanted, rel=rounding, abs=0), name
        samples = [sample for sample in expected["samples"][name] if sample["filter"] == filter_name]
        assert scores[name].doc_ids == tuple(sample["doc_id"] for sample in samples)
        values = [sample[metric][0] if isinstance(sample[metric], tuple) else sample[metric] for sample in samples]
        assert scores[name].values == pytest.approx(values, rel=rounding, abs=0), name


@pytest.mark.parametrize("split", ["dev", "holdout", "all"])
def test_scores_equal_simple_evaluate(split, task_folder, model, tokenizer, reference):
    harness = Harness(suite_of(task_folder, *SPECS))
    harness.bind(model, tokenizer)
    scores = harness.score(split)
    expected = reference(model, {name: splits[split] for name, splits in harness.documents.items()})
    assert_equal(scores, expected, SPECS)
    # a metric that is the same for every document would agree by accident
    assert len(set(scores["choice"].values)) == 2
    assert len(set(scores["cloze"].values)) == len(scores["cloze"].values)


def test_scores_follow_weights_that_change_in_place(task_folder, model, tokenizer, reference):
    harness = Harness(suite_of(task_folder, *SPECS))
    harness.bind(model, tokenizer)
    before = harness.score("dev")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    after = harness.score("dev")
    assert after["cloze"].score != before["cloze"].score
    assert_equal(after, reference(model, {name: splits["dev"] for name, splits in harness.documents.items()}), SPECS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert harness.score("dev") == before


def test_exact_match_counts_the_documents_that_the_model_answers(tmp_path, write_task, model, tokenizer):
    """The references are the model's likeliest next tokens by a bare forward pass, but for every third document."""
    prompts = [f"cat {word} dog" for word in ("red", "green", "blue", "bird", "runs", "sleeps", "eats", "one", "two")]
    documents = []
    for number, prompt in enumerate(prompts):
        with torch.no_grad():
            token = model(torch.tensor([tokenizer.encode(prompt)])).logits[0, -1].argmax()
        documents.append({"prompt": prompt, "answer": "?!" if number % 3 == 0 else tokenizer.decode(token)})
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    write_task(
        tmp_path,
        "own",
        output_type="generate_until",
        generation_kwargs={"until": ["zzz"], "max_gen_toks": 1},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        dataset_kwargs={"data_files": {"test": "own.jsonl"}},
        fewshot_split=None,
        doc_to_text="prompt",
        doc_to_target="answer",
    )
    harness = Harness(suite_of(tmp_path, {"name": "own", "metric": "exact_match"}, holdout={"fraction": 0}))
    harness.bind(model, tokenizer)
    scores = harness.score("dev")["own"]
    assert scores.values == tuple(float(number % 3 != 0) for number in range(len(prompts)))
    assert scores.score == pytest.approx(2 / 3)


def test_fewshot_of_the_suite_equals_num_fewshot_of_lm_eval(tmp_path, task_folder, model, tokenizer, reference):
    spec = {"name": "cloze", "metric": "perplexity", "num_fewshot": 3}
    harness = Harness(suite_of(task_folder, spec))
    harness.bind(model, tokenizer)
    scores = harness.score("dev")
    ids = {"cloze": harness.documents["cloze"]["dev"]}
    assert_equal(scores, reference(model, ids, num_fewshot=3), [spec])
    assert scores["cloze"].score != reference(model, ids)["results"]["cloze"]["perplexity,none"]


def test_a_model_bound_later_is_the_one_that_is_scored(task_folder, model, tokenizer):
    harness = Harness(suite_of(task_folder, {"name": "cloze", "metric": "perplexity"}))
    harness.bind(model, tokenizer)
    first = harness.score("dev")
    other = type(model)(model.config).eval()
    harness.bind(other, tokenizer)
    second = harness.score("dev")
    fresh = Harness(harness.suite)
    fresh.bind(other, tokenizer)
    assert second == fresh.score("dev") != first


def test_scoring_leaves_the_global_generators_alone(task_folder, model, tokenizer):
    harness = Harness(suite_of(task_folder, *SPECS))
    harness.bind(model, tokenizer)
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = harness.score("dev")
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    torch.manual_seed(6)
    assert harness.score("dev") == first, "a sampled task draws the same numbers for every candidate"


def test_chat_template_is_applied_as_lm_eval_does(task_folder, model, tokenizer, reference, monkeypatch):
    monkeypatch.setattr(
        tokenizer,
        "chat_template",
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{{ '<a>' if add_generation_prompt }}",
    )
    spec = {"name": "cloze", "metric": "perplexity", "num_fewshot": 2}
    harness = Harness(suite_of(task_folder, spec, apply_chat_template=True))
    harness.bind(model, tokenizer)
    plain = evaluator.simple_evaluate

    def templated(*args, **kwargs):
        return plain(*args, apply_chat_template=True, **kwargs)

    monkeypatch.setattr(evaluator, "simple_evaluate", templated)
    expected = reference(model, {"cloze": harness.documents["cloze"]["dev"]}, num_fewshot=2)
    assert_equal(harness.score("dev"), expected, [spec])


PHRASES = "{{[choices[0] + ' ' + prompt, choices[0] + ' ' + answer, choices[0], prompt]}}"
STOPS = ["\n", "red ", "ed b", "o", *"#%:H1fdc"]  # the second and the third overlap
MULTIPLE_CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_target": "gold",
    "metric_list": [{"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}],
}
LONG_SPECS = [
    {"name": "phrases", "metric": "acc_norm"},
    {"name": "letters", "metric": "acc_norm"},
    {"name": "gen", "metric": "exact_match"},
    {"name": "stops", "metric": "exact_match", "filter": "raw"},
    {"name": "cloze", "metric": "perplexity"},
    {"name": "prose", "metric": "word_perplexity"},
]


@pytest.fixture(scope="module")
def long_folder(tmp_path_factory, task_folder, write_task):
    """Tasks whose prompts share most of their tokens: the same five examples, or a long description."""
    folder = tmp_path_factory.mktemp("long")
    files = {"data_files": {split: str(task_folder / f"{split}.jsonl") for split in ("train", "test")}}
    shots = {"fewshot_config": {"sampler": "first_n"}, "num_fewshot": 5, "dataset_kwargs": files}
    exact = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
    stops = {"output_type": "generate_until", "metric_list": exact} | {
        "generation_kwargs": {"until": STOPS, "max_gen_toks": 12, "do_sample": False},
        "filter_list": [
            {"name": "raw", "filter": [{"function": "take_first"}]},
            {
                "name": "word",
                "filter": [{"function": "regex", "regex_pattern": "([a-z]+)"}, {"function": "take_first"}],
            },
        ],
    }
    write_task(folder, "phrases", **MULTIPLE_CHOICE | shots | {"doc_to_choice": PHRASES})
    write_task(folder, "letters", **MULTIPLE_CHOICE | shots | {"doc_to_choice": ["a", "b", "c"]})
    write_task(folder, "gen", **shots)
    write_task(folder, "stops", **stops | shots)
    write_task(folder, "cloze", **shots)
    write_task(folder, "prose", dataset_kwargs=files)
    return folder


def prefixes(harness):
    """Lengths of the prefixes that the harness shares."""
    plans = list(harness._plans.values())
    read = [len(each.prefix) for plan in plans for each in plan._likelihoods._passes]
    return {each for each in read + [len(prefix) for plan in plans for prefix, _ in plan._generations._passes] if each}


@pytest.mark.parametrize("batch_size, max_length", [("auto", None), (3, None), (3, 64), ("auto", 20)])
def test_shared_prefixes_and_cut_prompts(batch_size, max_length, long_folder, model, tokenizer, reference, caplog):
    """At 64 tokens some prompts lose their beginning and with it the prefix; at 20 all of the few-shot ones do."""
    harness = Harness(suite_of(long_folder, *LONG_SPECS, batch_size=batch_size, max_length=max_length))
    harness.bind(model, tokenizer)
    scores = harness.score("all")
    harness.score("all")
    ids = {name: splits["all"] for name, splits in harness.documents.items()}
    expected = reference(model, ids, folder=long_folder, max_length=max_length)
    assert_equal(scores, expected, LONG_SPECS)
    assert (max_length == 20) is not any(length >= 32 for length in prefixes(harness))
    for task in ("phrases", "letters", "gen", "stops", "cloze"):
        warnings = sum(f"task {task}: " in message for message in caplog.messages)
        assert warnings == (max_length == 20) or (max_length == 64 and warnings <= 1), "said once, not per candidate"
    generated = [sample["resps"][0][0] for sample in expected["samples"]["stops"] if sample["filter"] == "raw"]
    assert [request.instance.resps[0] for request in harness._requests["stops", "all"]] == generated
    assert "" in generated
    assert len(set(generated)) > 5


def architectures():
    from transformers import BloomConfig, Gemma2Config, GPT2Config, LlamaConfig, MistralConfig

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
    grouped = small | {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 128}
    return {
        "window": MistralConfig(**grouped, sliding_window=24),
        "softcap": Gemma2Config(**grouped, head_dim=8, sliding_window=24, final_logit_softcapping=3.0),
        "learned positions": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3),
        "alibi": BloomConfig(**small, max_position_embeddings=128),
        "eager": LlamaConfig(**grouped, attn_implementation="eager"),
        "half": LlamaConfig(**grouped, dtype="bfloat16"),
    }


@pytest.mark.parametrize("name", list(architectures()))
def test_other_architectures(name, long_folder, tokenizer, reference):
    from transformers import AutoModelForCausalLM

    config = architectures()[name]
    config.vocab_size = len(tokenizer)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, 1
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    specs = [spec for spec in LONG_SPECS if spec["name"] in ("phrases", "stops", "prose")]
    harness = Harness(suite_of(long_folder, *specs, batch_size="auto"))
    harness.bind(model, tokenizer)
    ids = {name: splits["dev"] for name, splits in harness.documents.items()}
    scores, expected = harness.score("dev"), reference(model, ids, folder=long_folder)
    assert_equal(scores, expected, specs)
    assert bool(prefixes(harness)) is (name not in ("window", "softcap", "alibi"))


def metric_of(name, **facts):
    lower = name in ("brier_score", "ter", "bits_per_byte", "byte_perplexity", "perplexity")
    return {"metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": not lower} | facts]}


@pytest.fixture(scope="module")
def metric_folder(tmp_path_factory, task_folder, corpus_folder, write_task):
    """A task for each metric of lm-eval; some ask several times, or begin the answer."""
    folder = tmp_path_factory.mktemp("metrics")
    data = {"dataset_kwargs": {"data_files": {each: str(task_folder / f"{each}.jsonl") for each in ("train", "test")}}}
    described = data | {"description": "Say which one it is.\n\n"}
    for name in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info"):
        write_task(folder, f"choice_{name}", **{"like": "choice"} | metric_of(name) | described)
    brier = metric_of("brier_score", aggregation="brier_score")
    write_task(
        folder, "choice_brier_score", **{"like": "choice"} | brier | data | {"doc_to_choice": ["a", "bc", "red cat"]}
    )
    contexts = {"doc_to_text": "gold", "doc_to_target": "prompt", "num_fewshot": 0}  # the options are what comes before
    write_task(folder, "choice_contexts", **{"like": "choice"} | metric_of("acc") | data | contexts)
    several = {"doc_to_target": "{{[gold, 0]}}", "num_fewshot": 0}
    write_task(folder, "choice_several", **{"like": "choice"} | metric_of("acc") | data | several)
    write_task(folder, "cloze_acc", **{"like": "cloze"} | metric_of("acc") | described)
    for name, aggregation in (("byte_perplexity", "weighted_perplexity"), ("bits_per_byte", "bits_per_byte")):
        write_task(folder, f"prose_{name}", **{"like": "prose"} | metric_of(name, aggregation=aggregation) | data)
    lenient = metric_of("exact_match", ignore_case=True, ignore_punctuation=True, regexes_to_ignore=["[0-9 ]"])
    write_task(folder, "gen_lenient", **{"like": "gen"} | lenient | described | {"num_fewshot": 0})
    write_task(folder, "gen_prefixed", **{"like": "gen"} | described | {"gen_prefix": "It is"})
    vote = {"filter_list": [{"name": "vote", "filter": [{"function": "majority_vote"}, {"function": "take_first"}]}]}
    write_task(folder, "gen_repeated", **{"like": "gen"} | data | vote | {"repeats": 3})
    write_task(folder, "gen_drawn", **{"like": "gen_sampled"} | data | vote | {"repeats": 3})
    for path in corpus_folder.glob("*.yaml"):
        (folder / path.name).write_text(path.read_text())
    (folder / "own.py").write_text((corpus_folder / "own.py").read_text())
    return folder


METRIC_SPECS = [
    *({"name": f"choice_{name}", "metric": name} for name in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info")),
    {"name": "choice_brier_score", "metric": "brier_score"},
    *({"name": f"choice_{name}", "metric": "acc"} for name in ("contexts", "several")),
    {"name": "cloze_acc", "metric": "acc"},
    *({"name": f"prose_{name}", "metric": name} for name in ("byte_perplexity", "bits_per_byte")),
    *({"name": f"gen_{name}", "metric": "exact_match"} for name in ("lenient", "prefixed")),
    *({"name": f"gen_{name}", "metric": "exact_match", "filter": "vote"} for name in ("repeated", "drawn")),
]
ROLES = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{{ '<a>' if add_generation_prompt }}"


@pytest.mark.parametrize("chat", [False, True])
def test_every_metric_of_lm_eval(chat, metric_folder, corpus_specs, model, tokenizer, reference, monkeypatch):
    if chat:
        monkeypatch.setattr(tokenizer, "chat_template", ROLES)
        plain = evaluator.simple_evaluate
        monkeypatch.setattr(evaluator, "simple_evaluate", partial(plain, apply_chat_template=True))
    specs = [*METRIC_SPECS, *corpus_specs, {"name": "own", "metric": "bleu"}]
    harness = Harness(suite_of(metric_folder, *specs, apply_chat_template=chat, holdout={"fraction": 0}))
    harness.bind(model, tokenizer)
    scores = harness.score("dev")
    expected = reference(
        model, {name: splits["dev"] for name, splits in harness.documents.items()}, folder=metric_folder
    )
    for spec in specs:
        name, metric, filter_name = spec["name"], spec["metric"], spec.get("filter", "none")
        wanted = expected["results"][name][f"{metric},{filter_name}"]
        assert scores[name].score == pytest.approx(wanted, rel=1e-5, abs=0), name
        samples = [sample for sample in expected["samples"][name] if sample["filter"] == filter_name]
        assert scores[name].doc_ids == tuple(sample["doc_id"] for sample in samples)
        if all(isinstance(sample[metric], float) for sample in samples):
            assert scores[name].values == pytest.approx([sample[metric] for sample in samples], rel=1e-5, abs=0), name
        requests = harness._requests[name, "dev"]
        if requests[0].instance.request_type == "generate_until":
            assert [request.instance.resps for request in requests] == [sample["resps"][0] for sample in samples], name
    drawn = [request.instance.resps for request in harness._requests["gen_drawn", "dev"]]
    assert any(len(set(texts)) > 1 for texts in drawn)
