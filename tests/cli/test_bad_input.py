"""Each kind of bad input through the command line: one line that says it, the exit code of its kind, nothing left."""

import json
import resource
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from evomerge.cli import main
from evomerge.config import search_config
from evomerge.errors import ConfigError
from evomerge.study import Study, describe_environment
from fitness.harness import Harness


@pytest.fixture
def own_tasks_only(monkeypatch):
    """Spare the seconds in which lm-eval indexes its own tasks."""
    import fitness.tasks

    manager = partial(fitness.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(
        fitness.tasks, "TaskManager", lambda include_path, include_defaults=False: manager(include_path=include_path)
    )


TIES = {"merge_method": "ties"}
RECIPES = {
    "unknown key": ({"merge_metod": "ties"}, "unknown key 'merge_metod'", "recipe.yaml", "'merge_method'?"),
    "unknown method": ({"merge_method": "tie"}, "unknown merge method 'tie'", "did you mean 'ties'?"),
    "unknown parameter": ({"parameters": {"weigth": 1}}, "'weigth'", "did you mean 'weight'?"),
    "density -1": (TIES | {"parameters": {"weight": 1, "density": -1}}, "density out of range", "in [0, 1], found -1"),
    "density 1.5": (TIES | {"parameters": {"weight": 1, "density": 1.5}}, "density out of range", "in [0, 1], found 1"),
    "slerp of three": (
        {"merge_method": "slerp", "parameters": {"t": 0.5}},
        *("wrong number of models for slerp", "expected 1 besides the base model", "(2)"),
    ),
}


@pytest.mark.parametrize("kind", RECIPES)
def test_a_bad_recipe(bench, refused, kind):
    keys, *told = RECIPES[kind]
    refused(bench.merge(**keys), 2, *told)


OVERRIDES = {
    "budget.candidates=-1": ("config: budget.candidates", "greater than or equal to 1, found -1"),
    "budget.candidates=0": ("config: budget.candidates", "greater than or equal to 1, found 0"),
    "budget.hours=0": ("config: budget.hours", "greater than 0, found 0"),
    "budget.hours=-2": ("config: budget.hours", "greater than 0, found -2"),
    "budget.candidate=5": ("unknown key", "budget.candidate", "did you mean 'candidates'?"),
    "workers.cpu=5": ("unknown key", "workers.cpu", "did you mean 'cpus'?"),
    "suite=tinny": ("no such option", "suite/tinny", "did you mean 'tiny'?"),
    "seed=[1": ("override cannot be read", "(seed)", "found [1", "quote"),
    "study=../x": ("not a name for a study", "(study)", "found '../x'"),
    "study=a/b": ("not a name for a study", "(study)", "found 'a/b'"),
    "study=null": ("(config: study)", "expected a valid string, found None"),
    "runs_dir=/dev/null": ("study cannot be written", "/dev/null/s", "choose another runs_dir"),
    "workers.device=cuda:99": ("device not available", "found 'cuda:99'"),
    "workers.device=gpu": ("unknown device", "expected auto, cpu", "found 'gpu'"),
    "suite.apply_chat_template=true": ("tokenizer has no chat template", "base", "set apply_chat_template to false"),
}


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_bad_override(bench, refused, without_ray, override):
    refused(bench.search(override), 5 if "runs_dir" in override else 2, *OVERRIDES[override])


def test_a_required_value_left_out(bench, refused):
    words = [word for word in bench.search() if not word.startswith("study=")]
    refused(words, 2, "value missing (study)", "expected study=VALUE")


def _task(**changes) -> Callable[[dict], None]:
    return lambda suite: suite["tasks"][0].update(changes)


SUITE, GENOME, TASK, DATA = "suite/tiny.yaml", "genome/tiny.yaml", "tasks/choice.yaml", "tasks/documents.jsonl"
CONFIGS = {
    "unknown task": (SUITE, _task(name="choise"), "unknown task (suite.tasks)", "'choise'", "did you mean 'choice'?"),
    "unknown metric": (SUITE, _task(metric="acc_nrm"), "unknown metric (task choice)", "'acc_nrm'", "'acc'"),
    "unknown filter": (SUITE, _task(filter="strip"), "unknown filter (task choice)", "'strip'", "has 'none'"),
    "unknown gate model": (
        *(SUITE, _task(gate={"at_least": 0.9, "of": "frist"})),
        *("gate refers to an unknown model (task choice)", "'frist'", "did you mean 'first'?"),
    ),
    "gate with two bounds": (
        *(SUITE, _task(gate={"at_least": 0.9, "at_most": 1})),
        *("gate needs one bound (task choice)", "either at_least or at_most, found both"),
    ),
    "gate on the wrong side": (
        *(SUITE, _task(gate={"at_most": 0.5})),
        *("gate bounds the wrong side (task choice: acc)", "expected at_least", "found at_most", "write at_least"),
    ),
    "unknown gate key": (SUITE, _task(gate={"at_lest": 1}), "unknown key", "gate.at_lest", "did you mean 'at_least'?"),
    "task file that is not YAML": (TASK, "task: choice\n  a: [b\n", "not valid YAML", "choice.yaml:2"),
    "template that is not Jinja": (
        *(TASK, lambda task: task.update(doc_to_text="{{prompt")),
        *("task cannot be loaded (task choice)", "TemplateSyntaxError"),
    ),
    "config that is not YAML": (SUITE, "tasks: [\n - {name: x\n", "not valid YAML", "suite/tiny.yaml:2"),
    "empty data": (DATA, "", "split is empty (task choice)", "an empty data file"),
    "damaged data": (DATA, "{not json\n", "task cannot be loaded (task choice)", "JSON parse error"),
    "split without documents": (
        *(DATA, json.dumps({"prompt": "red", "choices": ["a", "b"], "gold": 0}) + "\n"),
        *("split is empty (task choice)", "found 1 documents", "add documents"),
    ),
    "unknown split": (TASK, lambda task: task.update(test_split="tset"), "split is missing (task choice)", "'tset'"),
    "density": (
        *(GENOME, lambda genome: genome.update(method="ties", density={"low": -0.1, "high": 1, "init": 0.5})),
        *("density out of range (genome.density.low)", "in [0, 1], found -0.1"),
    ),
    "unknown genome key": (GENOME, lambda genome: genome.update(layer_group=1), "genome", "'layer_groups'?"),
    "slerp of three parents": (
        *(GENOME, "method: slerp\nlayer_groups: 2\nt: {low: 0, high: 1, init: 0.5}\n"),
        *("wrong number of parents for slerp (models.parents)", "expected 1 to 2, found 3"),
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_bad_config(bench, refused, without_ray, own_tasks_only, kind):
    file, change, *told = CONFIGS[kind]
    shutil.copytree(bench.model("first"), bench.model("third"))
    if "slerp" in kind:
        bench.spoil("models/tiny.yaml", lambda models: models["parents"].append(str(bench.model("third"))))
    bench.spoil(file, change)
    refused(bench.search(), 2, *told)


def test_a_study_name_in_use(bench, refused, without_ray):
    told = f"evomerge resume {bench.study()}, or choose another name"
    refused(bench.search(), 2, "study name already in use (study=s)", told)


def test_a_study_that_another_process_writes(bench, refused):
    with Study.open(bench.study()) as study:
        refused(["resume", str(study.folder.path)], 5, "study is in use", "found process", "wait for it")


@pytest.mark.parametrize("override", ["seed=3", "genome.layer_groups=1", "study=other", "optimizer=tpe", "budget=3"])
def test_a_resume_that_would_be_another_study(bench, refused, override):
    words = ["resume", str(bench.study()), override]
    refused(words, 2, "a resume cannot change what a study is", override.split("=")[0], "start a new study")


@pytest.mark.parametrize("override", ["budget.candidates=[1", "budget.candidates=-1", "workers.cont=2"])
def test_a_resume_with_a_bad_value(bench, refused, override):
    refused(["resume", str(bench.study()), override], 2, override.split("=")[0])


def test_a_resume_with_workers_that_cannot_be_had_keeps_the_config(bench, refused, monkeypatch, without_ray):
    def none(_pool):
        raise ConfigError("the workers need more than the cluster has")

    monkeypatch.setattr(without_ray, "__enter__", none)
    refused(["resume", str(bench.study()), "workers.gpus=64"], 2, "the workers need more than the cluster has")


def test_a_resume_on_other_documents(bench, refused, without_ray):
    config = search_config(bench.search()[3:], bench.inputs / "configs")
    environment = describe_environment({}, Harness(config.suite).digests)
    with Study.create(config.folder, config.model_dump(mode="json"), environment):
        path = bench.inputs / "configs" / DATA
    path.write_text(path.read_text().replace('"gold": 0', '"gold": 1', 1))
    told = ("the documents of a task have changed since the study began (task choice)", "restore", "start a new study")
    refused(["resume", str(config.folder)], 5, *told)


def test_an_export_of_what_is_not_there(bench, refused):
    study = str(bench.study())
    refused(["export", study, "--candidate", "99"], 2, "no such candidate (study s)", "found 99")
    refused(["export", study], 3, "no candidate clears every gate (study s)", f"evomerge resume {study} ")
    refused(["export", str(bench.left / "nothing")], 5, "no such study")


@pytest.mark.parametrize(
    "words", [["--nonsense"], [], ["score", "x", "--split", "tset"], ["show", "x", "--candidate", "y"]]
)
def test_wrong_flags(refused, words):
    refused(words, 2, "--help")


def test_scoring_a_holdout_that_is_not_kept(bench, refused):
    words = bench.score("suite.holdout.fraction=0", "--split", "holdout")
    refused(words, 2, "split is empty (task choice)", "expected holdout documents", "holdout.fraction")


def test_a_benchmark_steers_no_search_and_may_be_scored(bench, refused, without_ray, monkeypatch, capfd):
    monkeypatch.setattr("fitness.tasks.benchmark", lambda *_facts: "owner/benchmark (test)")
    refused(bench.search(), 2, "task is scored on a public benchmark (task choice)", "found owner/benchmark (test)")
    assert main(bench.score("--json")) == 0
    assert json.loads(capfd.readouterr().out)["scores"].keys() == {"choice", "prose"}


def test_an_output_that_exists(bench, refused):
    (bench.left / "out").mkdir()
    (bench.left / "out" / "notes.txt").write_text("mine")
    refused(bench.merge(), 2, "output exists", "left/out", "choose another folder")


def test_a_merge_on_a_device_that_is_not_there(bench, refused):
    refused(bench.merge("--device", "cuda:99"), 2, "device not available", "expected", "found 'cuda:99'")


@contextmanager
def file_size_limit() -> Iterator[Callable[[int], None]]:
    """limit(bytes): no file can grow past that, as on a full disk. Lifted before pytest itself writes anything."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_too_full_for_a_merge(bench, refused):
    words = bench.merge()
    with file_size_limit() as limit:
        limit(20_000)
        refused(words, 2, "cannot write the checkpoint", "left/out", "nothing was left behind")


def test_a_disk_too_full_for_a_study(bench, refused, monkeypatch, without_ray):
    with file_size_limit() as limit:
        monkeypatch.setattr(without_ray, "__enter__", lambda self: limit(1000))
        refused(bench.search(), 5, "study cannot be written", "left/s", "free some space or choose another runs_dir")


@pytest.mark.soak
def test_more_gpus_than_the_cluster_has(bench, refused):
    told = ("the workers need more than the cluster has", "workers.gpus=64", "0 GPU", "lower workers.count")
    refused(bench.search("workers.gpus=64"), 2, *told)


def test_no_cluster_at_the_address(bench, refused):
    refused(bench.search("workers.address=junk"), 2, "no Ray cluster to work on (workers.address=junk)", "ray start")


def test_nobody_listens_at_the_address_of_the_cluster(bench, refused):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = "127.0.0.1:{1}".format(*silent.getsockname())
        told = (f"no Ray cluster to work on (workers.address={address}): found Connection refused", "ray start")
        refused(bench.search(f"workers.address='{address}'"), 2, *told)
        refused(bench.search(f"workers.address='ray://{address}'"), 2, "found Connection refused")
    refused(bench.search("workers.address='127.0.0.1:99999'"), 2, "Port out of range")


@pytest.mark.parametrize(("flag", "told"), [("--config-dir", "no such config folder"), ("--allow", "no such folder")])
def test_a_dashboard_of_a_folder_that_is_not_there(bench, refused, flag, told):
    words = ["dashboard", "--runs-dir", str(bench.left), "--port", "0", flag, str(bench.left / "nowhere")]
    refused(words, 2, f"{told} ({bench.left / 'nowhere'}): expected a folder", f"check {flag}")


def test_json_is_json(bench, capfd):
    study = str(bench.study())
    for words in (
        ["show", study, "--json"],
        ["studies", "--runs-dir", str(bench.left), "--json"],
        ["check", str(bench.recipe()), "--json"],
        bench.score("--json"),
    ):
        capfd.readouterr()
        assert main(words) == 0
        out, err = capfd.readouterr()
        assert json.loads(out)
        assert err == ""
