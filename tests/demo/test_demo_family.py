import json
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.config import search_config
from evomerge.demo import FOLDER
from evomerge.demo.documents import DECISIONS, TASKS, split_documents
from evomerge.demo.train import END, make_tokenizer
from fitness.gates import judge
from fitness.harness import Harness

MODELS = ("base", *TASKS)


@pytest.fixture(scope="module")
def suite():
    return search_config(["experiment=demo"]).suite


@pytest.fixture(scope="module")
def scores(suite):
    torch.set_num_threads(1)
    small = suite.model_copy(update={"holdout": suite.holdout.model_copy(update={"fraction": 0.8})})
    harness = Harness(small)
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "models" / "base")
    found = {}
    for name in MODELS:
        model = AutoModelForCausalLM.from_pretrained(FOLDER / "models" / name, dtype=torch.float32).eval()
        harness.bind(model, tokenizer)
        found[name] = harness.score("dev")
    return found


def test_the_demo_is_small():
    shipped = [path for path in FOLDER.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in shipped) < 6e6


def test_checkpoints_share_their_shapes_and_are_finite():
    headers = []
    for name in MODELS:
        with safe_open(FOLDER / "models" / name / "model.safetensors", "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        assert all(tensor.dtype == torch.float16 and tensor.isfinite().all() for tensor in tensors.values())
        headers.append({key: tensor.shape for key, tensor in tensors.items()})
        config = json.loads((FOLDER / "models" / name / "config.json").read_text())
        assert config["model_type"] == "llama"
        assert config["dtype"] == "float16"
    assert headers.count(headers[0]) == len(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_shipped_tokenizers_are_the_trained_one(name):
    shipped = AutoTokenizer.from_pretrained(FOLDER / "models" / name)
    assert shipped.get_vocab() == make_tokenizer().get_vocab()
    assert shipped.eos_token == shipped.pad_token == END


def test_tokenizer_round_trips():
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "models" / "base")
    texts = [f"{document.prompt} {document.answer}" for task in TASKS for document in split_documents(task, "this")[1]]
    tokens = tokenizer(texts)["input_ids"]
    assert max(map(len, tokens)) <= 24
    assert tokenizer.batch_decode(tokens) == texts
    foreign = "Größe 5½ 靴\n"
    assert tokenizer.decode(tokenizer(foreign)["input_ids"]) == foreign


def test_each_decision_is_one_token():
    """Then lm-eval scores the four choices of a document in one forward pass."""
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "models" / "base")
    assert [len(ids) for ids in tokenizer([f" {decision}" for decision in DECISIONS])["input_ids"]] == [1, 1, 1, 1]


def test_each_specialist_has_its_own_skill_alone(suite, scores):
    references = {name: scores[name] for name in MODELS}
    for name in MODELS:
        cleared = {gate.task for gate in judge(scores[name], suite, references) if gate.cleared}
        assert cleared == ({name} if name in TASKS else set())


def test_tasks_load_with_lm_eval_alone_from_any_folder(tmp_path):
    """The task files name no absolute path and need nothing of evomerge."""
    program = (
        "import sys; from lm_eval.tasks import TaskManager;"
        f"manager = TaskManager(include_path={str(FOLDER / 'tasks')!r}, include_defaults=False);"
        f"tasks = manager.load({list(TASKS)!r})['tasks'];"
        "print([len(task.eval_docs) for task in tasks.values()], 'evomerge' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[560, 560, 560] False"


def test_shipped_files_name_no_absolute_path():
    for path in [*(FOLDER / "tasks").glob("*.yaml"), *(FOLDER / "models").rglob("*.json")]:
        assert str(FOLDER) not in path.read_text(encoding="utf-8")
    for path in sorted((FOLDER / "models").rglob("README.md")):
        front = yaml.safe_load(path.read_text(encoding="utf-8").split("---")[1])
        assert front["license"] == "apache-2.0"
