"""Intervals of scores that only all documents together have."""

import math
import random
from functools import partial

import numpy as np
import pytest
from lm_eval.api.registry import get_aggregation
from scipy import stats

from fitness.aggregation import Aggregation
from fitness.estimates import score_interval
from fitness.harness import Harness
from fitness.jackknife import GROUPS, estimate, left_out
from fitness.suite import SuiteConfig

SACREBLEU = ["bleu", "chrf", "chrf++", "ter"]


def sentences(rng, count, words=60):
    """(reference, prediction) of documents of every length and quality."""
    pairs = []
    for _ in range(count):
        length, quality = int(rng.integers(4, 30)), rng.beta(4, 2)
        reference = rng.integers(0, words, length)
        prediction = np.where(rng.random(length) < quality, reference, rng.integers(0, words, length))
        prediction = prediction[: max(1, int(length * rng.uniform(0.8, 1)))]
        pairs.append(tuple(" ".join(f"w{word}" for word in each) for each in (reference, prediction)))
    return pairs


def classes(rng, count):
    """(gold, predicted) of documents, one in five of them wrong."""
    gold = (rng.random(count) < 0.4).astype(int)
    return list(zip(gold.tolist(), np.where(rng.random(count) < 0.8, gold, 1 - gold).tolist(), strict=True))


def test_of_a_mean_with_a_group_for_each_document_it_is_students_interval():
    values = np.random.default_rng(0).normal(3, 2, GROUPS)
    found = estimate(values.mean(), left_out(range(GROUPS), lambda places: float(values[list(places)].mean())), 0.9)
    expected = stats.t.interval(0.9, GROUPS - 1, values.mean(), values.std(ddof=1) / math.sqrt(GROUPS))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.value == values.mean()


@pytest.mark.parametrize("count", [2, 19, 20, 21, 405])
def test_groups_are_equal_and_depend_on_ids_alone(count):
    ids = random.Random(count).sample(range(10_000), count)
    every, seen = set(ids), []

    def note(places):
        assert list(places) == sorted(places)
        seen.append({ids[place] for place in places})
        return 1.0

    assert left_out(ids, note) == (1.0,) * min(count, GROUPS)
    groups = [every - rest for rest in seen]
    assert sorted(id_ for group in groups for id_ in group) == sorted(ids), "each document is left out once"
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 1
    ids.reverse()
    seen.clear()
    left_out(ids, note)
    assert [every - rest for rest in seen] == groups


def test_what_has_no_jackknife():
    assert left_out([5], lambda places: 1.0) is None
    with pytest.raises(ValueError, match="not finite"):
        left_out([5, 6], lambda places: math.nan)


@pytest.mark.parametrize("name", SACREBLEU)
def test_sums_of_counts_are_lm_evals_own_aggregation(name):
    aggregate, values = get_aggregation(name), sentences(np.random.default_rng(1), 40)
    found = Aggregation(aggregate, values)
    assert found.score == aggregate(values)
    assert found.items == tuple(aggregate([value]) for value in values)
    assert len(set(found.items)) > 20
    for step in (2, 3, 7):
        places = range(0, 40, step)
        assert found.over(places) == aggregate([values[place] for place in places])
    several = [([reference, prediction[:9]], [prediction]) for reference, prediction in values]
    assert Aggregation(aggregate, several).over(range(1, 40)) == aggregate(several[1:])


def coverage(aggregate, population, documents, simulations, seed):
    """How often the 95 % interval of a sample holds the score of the population that it was drawn from."""
    rng = np.random.default_rng(seed)
    whole = Aggregation(aggregate, population)
    hits = 0
    for _ in range(simulations):
        drawn = rng.choice(len(population), documents, replace=False)

        def over(places, drawn=drawn):
            return whole.over([int(drawn[place]) for place in places])

        _, low, high = estimate(over(range(documents)), left_out(range(documents), over))
        hits += low <= whole.score <= high
    return hits / simulations


@pytest.mark.parametrize("documents", [30, 100])  # some groups are of two documents, others of one; all of five
def test_the_interval_of_corpus_bleu_holds_it(documents):
    population = sentences(np.random.default_rng(2), 1500)
    assert 0.93 <= coverage(get_aggregation("bleu"), population, documents, 400, seed=3) <= 0.975


@pytest.mark.soak  # scikit-learn takes milliseconds for each of 8000 aggregations
@pytest.mark.parametrize("name", ["f1", "matthews_corrcoef"])
def test_the_interval_of_a_score_of_classes_holds_it(name):
    population = classes(np.random.default_rng(4), 4000)
    assert 0.93 <= coverage(get_aggregation(name), population, 60, 400, seed=5) <= 0.975


def test_a_few_intervals_of_f1_hold_it():
    population = classes(np.random.default_rng(4), 1000)
    assert 34 <= 40 * coverage(get_aggregation("f1"), population, 60, 40, seed=5) <= 40


def lm_evals_values(harness, task):
    """What lm-eval would aggregate."""
    documents = {}
    for request in harness._requests[task.spec.name, "dev"]:
        documents.setdefault(request.instance.doc_id, []).append(request.instance)
    return [
        task.task.process_results(each[0].doc, [instance.filtered_resps["none"] for instance in each])[task.spec.metric]
        for each in documents.values()
    ]


def over(aggregate, values, places):
    return float(aggregate([values[place] for place in places]))


def test_a_corpus_metric_has_its_jackknife_whatever_was_scored_before(corpus_folder, corpus_specs, model, tokenizer):
    harness = Harness(SuiteConfig(include_path=(str(corpus_folder),), tasks=corpus_specs, holdout={"fraction": 0}))
    harness.bind(model, tokenizer)
    scores = harness.score("dev")
    tasks = {task.spec.name: task for task in harness._tasks}
    for name, found in scores.items():
        assert len(set(found.jackknife)) > 2, name
        low, high = score_interval(found)
        assert low < found.score < high
        aggregate, raw = tasks[name].aggregate, lm_evals_values(harness, tasks[name])
        # by lm-eval's own aggregation over what is left
        assert found.jackknife == left_out(found.doc_ids, partial(over, aggregate, raw)), name
    assert harness.score("dev") == scores


def test_an_aggregation_that_needs_all_documents_has_no_interval(corpus_folder, model, tokenizer, caplog):
    spec = {"name": "own", "metric": "bleu"}
    harness = Harness(SuiteConfig(include_path=(str(corpus_folder),), tasks=[spec], holdout={"fraction": 0}))
    harness.bind(model, tokenizer)
    scores = harness.score("dev")["own"]
    assert scores.score > 0
    assert scores.jackknife is score_interval(scores) is None
    assert caplog.messages == ["task own: bleu has no confidence interval, as it needs all documents: 'all documents'"]
