import json

import yaml

from evomerge.config import search_config
from fitness.questions import Question, questions
from fitness.suite import SuiteConfig


def test_documents_read_as_their_task_file_says(tiny):
    suite = search_config(["models=tiny", "genome=tiny", "suite=tiny", "study=x"], tiny).suite
    choice, prose = questions(suite)
    documents = [json.loads(line) for line in (tiny / "tasks" / "documents.jsonl").read_text().splitlines()]
    assert list(choice.documents) == list(range(len(documents)))
    for number, document in enumerate(documents):
        options = document["choices"]
        assert choice.documents[number] == Question(document["prompt"], options[document["gold"]], tuple(options))
        assert prose.documents[number] == Question("", document["prompt"])


def test_generations_have_no_options():
    suite = search_config(["experiment=demo"]).suite
    shipping, refunds, _ = questions(suite)
    assert shipping.documents[0].prompt.startswith("ship ")
    assert shipping.documents[0].options == ()
    assert refunds.documents[0].target in refunds.documents[0].options


def test_options_that_are_beginnings_go_on_alike(tmp_path):
    task = {
        "task": "pronoun",
        "output_type": "multiple_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "documents.jsonl"}},
        "test_split": "test",
        "doc_to_text": "gold",
        "doc_to_choice": "{{beginnings}}",
        "doc_to_target": "rest",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "pronoun.yaml").write_text(yaml.safe_dump(task))
    documents = [
        {"beginnings": ["The cat", "The dog"], "rest": f"sleeps {place}", "gold": place % 2} for place in range(6)
    ]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    suite = SuiteConfig(include_path=(str(tmp_path),), tasks=({"name": "pronoun", "metric": "acc"},))
    [pronoun] = questions(suite)
    assert pronoun.documents[1] == Question("sleeps 1", "The dog", ("The cat", "The dog"))
