"""Each kind of bad input through the command line: one line that says it, the exit code of its kind, nothing left."""

import json
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from evomerge.cli import main
from evomerge.config import search_config
from evomerge.errors import ConfigError
from evomerge.study import Study, describe_environment
from fitness.harness import Harness

UP = "model.layers.1.mlp.up_proj.weight"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Bench:
    """Good models and configs of its own for one test to spoil, and an empty folder for what a command leaves."""

    inputs: Path
    left: Path

    def model(self, name: str) -> Path:
        return self.inputs / "family" / name

    def spoil(self, option: str, change: Callable[[dict], None] | str) -> None:
        """Change a config file, or replace its text."""
        path = self.inputs / "configs" / option
        if isinstance(change, str):
            path.write_text(change)
        else:
            document = yaml.safe_load(path.read_text())
            change(document)
            path.write_text(yaml.safe_dump(document))

    def recipe(self, **keys) -> Path:
        path = self.inputs / "recipe.yaml"
        document = {
            "merge_method": "task_arithmetic",
            "base_model": str(self.model("base")),
            "models": [{"model": str(self.model(name))} for name in ("second", "first")],
            "parameters": {"weight": 0.5},
            "dtype": "float32",
        }
        path.write_text(yaml.safe_dump({key: value for key, value in (document | keys).items() if value is not None}))
        return path

    def merge(self, *flags: str, **keys) -> list[str]:
        return ["merge", str(self.recipe(**keys)), str(self.left / "out"), *flags]

    def check(self) -> list[str]:
        return ["check", str(self.recipe())]

    def search(self, *overrides: str) -> list[str]:
        chosen = ["models=tiny", "genome=tiny", "suite=tiny", "study=s", f"runs_dir={self.left}"]
        return ["search", "--config-dir", str(self.inputs / "configs"), *chosen, *overrides]

    def score(self, *words: str) -> list[str]:
        configs = ["--config-dir", str(self.inputs / "configs"), "suite=tiny"]
        return ["score", str(self.model("first")), *configs, *words]

    def study(self) -> Path:
        """A study without candidates."""
        config = search_config(self.search()[3:], self.inputs / "configs")
        with Study.create(config.folder, config.model_dump(mode="json"), describe_environment({}, {})):
            return config.folder


@pytest.fixture
def bench(tmp_path, family, tiny) -> Bench:
    made = Bench(tmp_path / "inputs", tmp_path / "left")
    shutil.copytree(family, made.inputs / "family")
    shutil.copytree(tiny, made.inputs / "configs")
    made.spoil("models/tiny.yaml", lambda models: models.update(base=str(made.model("base"))))
    parents = [str(made.model("second")), str(made.model("first"))]
    made.spoil("models/tiny.yaml", lambda models: models.update(parents=parents))
    made.left.mkdir()
    return made


class NoWorkers:
    """Stands for workers where a search must end before it needs one."""

    def __init__(self, _config) -> None:
        pass

    def __enter__(self):
        raise AssertionError("Ray would have been started")

    def __exit__(self, *_error) -> None:
        pass


@pytest.fixture
def without_ray(monkeypatch):
    import evomerge.search  # noqa: F401

    monkeypatch.setattr(sys.modules["evomerge.search.launch"], "WorkerPool", NoWorkers)


@pytest.fixture
def own_tasks_only(monkeypatch):
    """Spare the seconds in which lm-eval indexes its own tasks."""
    import fitness.tasks

    manager = partial(fitness.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(
        fitness.tasks, "TaskManager", lambda include_path, include_defaults=False: manager(include_path=include_path)
    )


@pytest.fixture
def refused(bench, capfd) -> Callable[..., None]:
    """refused(words, code, *told): the command ends so, tells all of that in one line and leaves nothing."""

    def command(words: list[str], code: int, *told: str) -> None:
        before = _contents(bench.left)
        capfd.readouterr()
        try:
            ended = main(words)
        except SystemExit as ending:
            ended = ending.code
        out, err = capfd.readouterr()
        assert (ended, out) == (code, ""), err
        assert err.startswith("evomerge: ")
        assert len(err.splitlines()) == 1, err
        for each in told:
            assert each in err
        assert _contents(bench.left) == before

    return command


def _contents(folder: Path) -> dict[Path, bytes | None]:
    """All but the lock of a study, which names who held it last."""
    paths = [path for path in folder.rglob("*") if path.name != "study.lock"]
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def _only_bin(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def _truncate(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def _corrupt(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[20:40] = b"\xff" * 20
    (folder / WEIGHTS).write_bytes(content)


def _lose_a_shard(folder: Path) -> None:
    names = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    weight_map = dict.fromkeys(names, "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _with_tensors(folder: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _reshape(folder: Path) -> None:
    _with_tensors(folder, lambda tensors: tensors.update({UP: torch.zeros(60, 32)}))


def _lose_a_tensor(folder: Path) -> None:
    _with_tensors(folder, lambda tensors: tensors.pop(UP))


def _put(value: float) -> Callable[[Path], None]:
    return partial(_with_tensors, change=lambda tensors: tensors[UP].view(-1).__setitem__(777, value))


def _in_json(file: str, change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        document = json.loads((folder / file).read_text())
        change(document)
        (folder / file).write_text(json.dumps(document))

    return spoil


def _swap_two_tokens(tokenizer: dict) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[10:12]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]


def _write(file: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text(text) and None


OTHER = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
MODELS = {
    "missing folder": (_remove, "model folder missing", "first", "check the path"),
    "empty folder": (_empty, "empty model folder", "first", "expected config.json and model.safetensors", "download"),
    "damaged config": (_write("config.json", "{"), "config.json is damaged", "first", "expected a JSON object"),
    "not safetensors": (_only_bin, "not safetensors", "first", "found pytorch_model.bin", "convert it"),
    "truncated shard": (_truncate, "truncated or damaged shard", "first/model.safetensors", "bytes, found", "download"),
    "corrupted header": (_corrupt, "truncated or damaged shard", "first/model.safetensors", "a JSON header"),
    "shard missing": (_lose_a_shard, "shard missing", INDEX, "expected model-00001-of-00001", "download"),
    "tensor missing": (_lose_a_tensor, "tensor missing", "first", f"expected {UP} as in"),
    "shapes differ": (_reshape, "shapes differ", f"first: {UP}", "expected [64, 32]", "found [60, 32]", "one size"),
    "architectures differ": (
        _in_json("config.json", lambda config: config.update(OTHER)),
        *("architectures differ", "first", "expected model_type 'llama'", "found 'mistral'", "one architecture"),
    ),
    "vocabularies differ": (
        _in_json("tokenizer.json", _swap_two_tokens),
        *("vocabularies differ", "first", "expected the 300 tokens of", "found 300 tokens", "one vocabulary"),
    ),
    "damaged tokenizer": (_write("tokenizer.json", "{"), "tokenizer missing or damaged", "first", "found EOF"),
    "NaN": (_put(float("nan")), "NaN or Inf in a model", f"first: {UP}", "download or train"),
    "Inf": (_put(float("-inf")), "NaN or Inf in a model", f"first: {UP}", "download or train"),
}


@pytest.mark.parametrize("command", [Bench.merge, Bench.check, Bench.search], ids=lambda command: command.__name__)
@pytest.mark.parametrize("kind", MODELS)
def test_a_damaged_parent(bench, refused, without_ray, kind, command):
    if kind == "vocabularies differ" and command is Bench.search:
        pytest.skip("a search has a tokenizer policy, which aligns them")
    spoil, *told = MODELS[kind]
    spoil(bench.model("first"))
    refused(command(bench), 4, *told)


SCORED = {
    "tensor missing": (_lose_a_tensor, "weights do not fit config.json", "first", f"expected {UP}", "found none"),
    "shapes differ": (_reshape, "weights do not fit config.json", "first", f"expected {UP}", "found another shape"),
    "damaged tokenizer": (_write("tokenizer.json", "{"), "tokenizer missing or damaged", "first", "complete"),
    "unknown architecture": (
        _in_json("config.json", lambda config: config.update(model_type="nothing")),
        *("model cannot be loaded", "first", "`nothing`"),
    ),
    "code of its own": (
        _in_json("config.json", lambda config: config.update(model_type="x", auto_map={"AutoConfig": "a.B"})),
        *("model cannot be loaded", "first"),
    ),
    "NaN": (_put(float("nan")), "NaN or Inf in a model", f"first: {UP}", "download or train"),
}


@pytest.mark.parametrize("kind", SCORED)
def test_a_damaged_model_is_not_scored(bench, refused, kind):
    spoil, *told = SCORED[kind]
    spoil(bench.model("first"))
    refused(bench.score(), 4, *told)


def test_a_family_that_transformers_does_not_know(bench, refused, without_ray):
    for name in ("base", "first", "second"):
        _in_json("config.json", lambda config: config.update(model_type="nothing"))(bench.model(name))
    refused(bench.search(), 4, "no live model for this config", "'nothing'")


def test_a_family_without_a_tokenizer(bench, refused, without_ray):
    for name in ("base", "first", "second"):
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (bench.model(name) / file).unlink()
    refused(bench.search(), 4, "tokenizer missing or damaged", "family", "check that the folder is complete")


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

    monkeypatch.setattr(NoWorkers, "__enter__", none)
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
        monkeypatch.setattr(NoWorkers, "__enter__", lambda self: limit(1000))
        refused(bench.search(), 5, "study cannot be written", "left/s", "free some space or choose another runs_dir")


@pytest.mark.soak
def test_more_gpus_than_the_cluster_has(bench, refused):
    told = ("the workers need more than the cluster has", "workers.gpus=64", "0 GPU", "lower workers.count")
    refused(bench.search("workers.gpus=64"), 2, *told)


def test_no_cluster_at_the_address(bench, refused):
    refused(bench.search("workers.address=junk"), 2, "no Ray cluster to work on (workers.address=junk)", "ray start")


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
