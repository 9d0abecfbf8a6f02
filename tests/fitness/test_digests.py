"""What a task's digest depends on: all that can change a score of the same model, and nothing else."""

import json
from pathlib import Path

import lm_eval.tasks
import pytest

import fitness.code
from fitness.code import CodeReader
from fitness.errors import SuiteError
from fitness.harness import Harness
from fitness.suite import SuiteConfig

DOCUMENTS = [{"prompt": f"cat {number}", "answer": "dog"} for number in range(10)]
GEN = {"name": "gen", "metric": "exact_match"}


@pytest.fixture
def write(tmp_path, write_task):
    """write(...): a task with its documents and examples."""

    def make(documents=DOCUMENTS, examples=DOCUMENTS[:4], comment="", **changes):
        for name, rows in (("test", documents), ("train", examples)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        path = write_task(tmp_path, "gen", **changes)
        path.write_text(comment + path.read_text())

    return make


@pytest.fixture
def digest(tmp_path):
    def of(**changes):
        spec = GEN | {key: value for key, value in changes.items() if key != "holdout"}
        more = {"holdout": changes["holdout"]} if "holdout" in changes else {}
        return Harness(SuiteConfig(include_path=(str(tmp_path),), tasks=[spec], **more)).digests["gen"]

    return of


def test_the_same_task_has_the_same_digest(write, digest):
    write()
    first = digest()
    assert len(first) == 64
    write(comment="# only a comment\n")
    assert digest(weight=3.0, gate={"at_least": 0.5}, holdout={"fraction": 0.5}) == first


def test_documents_examples_and_the_way_of_scoring_are_part_of_it(write, digest):
    def edited(rows):
        return [{**rows[0], "answer": "bird"}, *rows[1:]]

    write()
    digests = [digest(), digest(num_fewshot=1)]
    write(documents=edited(DOCUMENTS))
    digests.append(digest())
    write(documents=DOCUMENTS[1:] + DOCUMENTS[:1])  # ids of items are places in the file
    digests.append(digest())
    write(examples=edited(DOCUMENTS[:4]))
    digests.append(digest())
    write(doc_to_text="{{prompt}} ->")
    digests.append(digest())
    assert len(set(digests)) == len(digests)


def test_examples_that_are_not_shown_are_no_part_of_it(write, digest):
    write()
    first = digest(num_fewshot=0)
    write(examples=DOCUMENTS[:3])
    assert digest(num_fewshot=0) == first


def test_the_place_of_a_task_and_of_its_functions_is_no_part_of_it(tmp_path, write_task):
    digests = []
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS))
        (folder / "own.py").write_text("def text(doc):\n    return doc['prompt']\n")
        data = {"data_files": {"test": "test.jsonl"}}
        path = write_task(folder, "gen", dataset_kwargs=data, fewshot_split=None, num_fewshot=0, doc_to_text=None)
        path.write_text(path.read_text() + "doc_to_text: !function own.text\n")
        digests.append(Harness(SuiteConfig(include_path=(str(folder),), tasks=[GEN])).digests["gen"])
    assert digests[0] == digests[1]


def test_a_file_that_the_task_includes_is_part_of_it(tmp_path, write, digest):
    digests = set()
    for tokens in (3, 4):
        write(num_fewshot=0)
        (tmp_path / "gen.yaml").rename(tmp_path / "common")
        (tmp_path / "gen.yaml").write_text("include: common\ntask: gen\n")
        text = (tmp_path / "common").read_text().replace("max_gen_toks: 3", f"max_gen_toks: {tokens}")
        (tmp_path / "common").write_text(text)
        digests.add(digest())
    assert len(digests) == 2


RESULTS = """import json
from pathlib import Path

ACCEPTED = json.loads((Path(__file__).parent / "accepted.json").read_text())


def results(doc, results):
    return {"exact_match": float(results[0] in ACCEPTED)}
"""


@pytest.fixture
def code(tmp_path, write):
    """code(): of a task in `tasks` whose file includes `common/base.yaml`, with a function there that reads a file."""
    tasks, common = tmp_path / "tasks", tmp_path / "common"
    for folder in (tasks, common, tasks / "words"):
        folder.mkdir()
    write()
    text = (tmp_path / "gen.yaml").read_text().replace("task: gen\n", "")
    (common / "base.yaml").write_text(text + "process_results: !function own.results\n")
    (common / "own.py").write_text(RESULTS)
    (common / "accepted.json").write_text('["dog"]')
    data = {"data_files": {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}}
    (tasks / "gen.yaml").write_text(f"task: gen\ninclude: ../common/base.yaml\ndataset_kwargs: {json.dumps(data)}\n")
    (tasks / "words" / "more.txt").write_text("dog")
    return lambda: Harness(SuiteConfig(include_path=(str(tasks),), tasks=[GEN])).code


@pytest.mark.parametrize(
    "path, text",
    [
        ("common/own.py", RESULTS + "\n"),
        ("common/accepted.json", '["cat"]'),
        ("tasks/words/more.txt", "cat"),
        ("tasks/another.txt", ""),
    ],
)
def test_the_code_of_a_task_and_the_files_beside_it_have_a_digest(tmp_path, code, path, text):
    before = code()
    assert code() == before
    (tmp_path / path).write_text(text)
    assert code()["gen"].digest != before["gen"].digest


def test_what_no_function_reads_is_no_part_of_the_code(tmp_path, code, write_task):
    before = code()
    write_task(tmp_path / "tasks", "neighbour", like="gen")
    for name in (".hidden", "__pycache__", ".git"):
        (tmp_path / "tasks" / name).mkdir()
        (tmp_path / "tasks" / name / "file").write_text("x")
    (tmp_path / "tasks" / ".swap").write_text("x")
    assert code() == before


def test_a_neighbour_beside_what_is_included_is_no_part_of_the_code(tmp_path, code, write_task):
    (tmp_path / "tasks" / "below").mkdir()
    (tmp_path / "common" / "base.yaml").rename(tmp_path / "tasks" / "base.inc")
    (tmp_path / "common" / "own.py").rename(tmp_path / "tasks" / "own.py")
    (tmp_path / "common" / "accepted.json").rename(tmp_path / "tasks" / "accepted.json")
    text = (tmp_path / "tasks" / "gen.yaml").read_text().replace("../common/base.yaml", "../base.inc")
    (tmp_path / "tasks" / "below" / "gen.yaml").write_text(text)
    (tmp_path / "tasks" / "gen.yaml").unlink()
    before = code()
    write_task(tmp_path / "tasks", "neighbour", like="gen")
    assert code() == before
    (tmp_path / "tasks" / "own.py").write_text(RESULTS + "\n")
    assert code()["gen"].digest != before["gen"].digest


@pytest.mark.parametrize("path", ["common/own.py", "common/accepted.json"])
def test_a_task_file_that_is_a_link_has_its_code_where_it_leads(tmp_path, code, write_task, path):
    text = (tmp_path / "tasks" / "gen.yaml").read_text().replace("../common/base.yaml", "base.yaml")
    (tmp_path / "common" / "gen.yaml").write_text(text)
    (tmp_path / "tasks" / "gen.yaml").unlink()
    (tmp_path / "tasks" / "gen.yaml").symlink_to(tmp_path / "common" / "gen.yaml")
    before = code()
    assert before["gen"].folders == (tmp_path / "common",)
    write_task(tmp_path, "neighbour", like="gen").rename(tmp_path / "common" / "neighbour.yaml")
    (tmp_path / "tasks" / "neighbour.yaml").symlink_to(tmp_path / "common" / "neighbour.yaml")
    assert code() == before
    (tmp_path / path).write_text((tmp_path / path).read_text() + "\n")
    assert code()["gen"].digest != before["gen"].digest


def test_code_is_told_by_its_place_among_the_others(tmp_path, code):
    before = code()
    (tmp_path / "tasks" / "words").rename(tmp_path / "tasks" / "phrases")
    assert code()["gen"].digest != before["gen"].digest


def test_a_task_without_functions_has_no_code(tmp_path, write):
    write()
    (tmp_path / "own.py").write_text(RESULTS)
    assert Harness(SuiteConfig(include_path=(str(tmp_path),), tasks=[GEN])).code == {}


def test_the_code_of_tasks_that_lm_eval_ships_is_named_by_its_version():
    shipped = Path(lm_eval.tasks.__file__).parent / "hellaswag" / "hellaswag.yaml"
    assert "!function" in shipped.read_text()
    assert CodeReader(())(shipped) is None


@pytest.mark.parametrize("limit, most", [("FILES", 2), ("BYTES", 100)])
def test_a_folder_that_is_too_large_is_refused(code, monkeypatch, limit, most):
    monkeypatch.setattr(fitness.code, limit, most)
    with pytest.raises(SuiteError, match=r"too much lies beside a task with functions.*a folder of their own"):
        code()
