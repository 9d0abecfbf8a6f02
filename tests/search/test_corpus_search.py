"""A search by a score that only all documents together have: its intervals reach the record, the gates and a resume."""

import pytest
import yaml

from evomerge.study import StudyView
from evomerge.study.items import baseline_items, candidate_items
from fitness.estimates import score_difference, score_interval


@pytest.fixture
def corpus_task(tmp_path, tiny):
    """The folder of a task whose metric is corpus chrF."""
    (tmp_path / "tasks").mkdir()
    task = {
        "task": "said",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tiny / "tasks" / "documents.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{choices[gold]}}",
        "generation_kwargs": {"until": ["zzz"], "max_gen_toks": 6},
        "metric_list": [{"metric": "chrf", "aggregation": "chrf", "higher_is_better": True}],
    }
    (tmp_path / "tasks" / "said.yaml").write_text(yaml.safe_dump(task))
    return tmp_path / "tasks"


@pytest.mark.soak  # two sessions of a real search
def test_a_search_by_a_corpus_metric(corpus_task, words, run, tmp_path):
    folder = tmp_path / "runs" / "corpus"
    gate = "{at_least: 0.1, of: base, confidence: 0.6}"
    suite = [
        f"suite.include_path=[{corpus_task}]",
        f"suite.tasks=[{{name: said, metric: chrf, gate: {gate}}}]",
        "suite.batch_size=auto",
        "suite.holdout.fraction=0",
    ]
    assert run(words(folder, "budget.candidates=1", *suite)) == 0
    assert run(["resume", str(folder), "budget.candidates=2"]) == 0
    study = StudyView(folder)
    records = [*study.baselines(), *study.candidates()]
    assert {each.reason for each in records} == {None}
    for each in records:
        low, high = each.intervals["said"]
        assert low < each.scores["said"] < high
        assert each.objective_interval == pytest.approx((low, high))
    for candidate in study.candidates():
        scores = study.scores(candidate_items(candidate.number), candidate)
        assert score_interval(scores["said"]) == candidate.intervals["said"], "as it was before it was recorded"
        assert candidate.limits["said"] != candidate.scores["said"]
    # the candidate of the second session is held against the base as the first recorded it
    base, last = study.baselines()[0], study.candidates()[-1]
    reference = study.scores(baseline_items("base"), base)["said"]
    scores = study.scores(candidate_items(last.number), last)
    difference = score_difference(scores["said"], reference, 0.6, 0.1)
    assert last.limits["said"] == pytest.approx(0.1 * reference.score + difference.low)
    (lead, *_) = study.differences()
    rival = next(each for each in study.baselines() if each.name == lead.rival)
    others = study.scores(baseline_items(lead.rival), rival)
    mine = study.scores(candidate_items(lead.candidate), study.candidate(lead.candidate))
    assert lead.tasks["said"] == pytest.approx(score_difference(mine["said"], others["said"]))
    assert lead.objective == pytest.approx(lead.tasks["said"])
