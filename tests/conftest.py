"""A family of tiny models on disk, and a config folder that searches it in seconds."""

import gc
import itertools
import json
import random
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
import yaml

from evomerge.cli import main
from evomerge.study import StudyView

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

WORDS = ["red", "green", "blue", "cat", "dog", "bird", "runs", "sleeps", "eats", "one", "two", "three", "big", "small"]


@pytest.fixture(scope="session", autouse=True)
def own_data_cache(tmp_path_factory):
    """Data sets are cached in a folder of this run, not in the home of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="session")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    generator = random.Random(0)
    tokenizer.train_from_iterator(
        [" ".join(generator.choices(WORDS, k=20)) for _ in range(50)],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


@pytest.fixture(scope="session")
def make_llama(tokenizer) -> Callable[[], "LlamaForCausalLM"]:
    """make_llama(): random weights, always the same, large enough that prompts differ in their likeliest answer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )

    def make() -> LlamaForCausalLM:
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()

    return make


@pytest.fixture(scope="session")
def family(tmp_path_factory, tokenizer, make_llama) -> Path:
    """A folder with the models base, first and second: Llamas whose weights lie close together."""
    import torch

    folder = tmp_path_factory.mktemp("family")
    model = make_llama()
    base = {name: value.clone() for name, value in model.state_dict().items()}
    for name in ("base", "first", "second"):
        if name != "base":
            model.load_state_dict({key: value + 0.1 * torch.randn_like(value) for key, value in base.items()})
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, family) -> Path:
    """A config folder with models=tiny, genome=tiny and suite=tiny: one task of choices, one of perplexity."""
    folder = tmp_path_factory.mktemp("configs")
    generator = random.Random(1)
    tasks = folder / "tasks"
    tasks.mkdir(parents=True)
    documents = [
        {
            "prompt": " ".join(generator.choices(WORDS, k=4)),
            "choices": generator.sample(WORDS, 3),
            "gold": generator.randrange(3),
        }
        for _ in range(24)
    ]
    (tasks / "documents.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "documents.jsonl"}},
        "test_split": "test",
    }
    choice = {
        "task": "choice",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "gold",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    prose = {
        "task": "prose",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{prompt}}",
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    }
    options = {
        "tasks/choice.yaml": choice | common,
        "tasks/prose.yaml": prose | common,
        "models/tiny.yaml": {
            "base": str(family / "base"),
            "parents": [str(family / "first"), str(family / "second")],
            "dtype": "float32",
        },
        "genome/tiny.yaml": {
            "method": "task_arithmetic",
            "layer_groups": 2,
            "weight": {"low": 0.0, "high": 1.0, "init": 0.5},
        },
        "suite/tiny.yaml": {
            "include_path": ["tasks/"],
            "batch_size": 1,  # candidates take long enough to be hit by a signal
            "tasks": [
                {"name": "choice", "metric": "acc", "gate": {"at_least": 0.0}},
                {"name": "prose", "metric": "bits_per_byte", "gate": {"at_most": 1.5, "of": "base"}},
            ],
        },
    }
    for name, content in options.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


@pytest.fixture(scope="session")
def words(tiny) -> Callable[..., list[str]]:
    """words(folder, *overrides): the arguments of a search of the tiny family whose study lies in `folder`."""

    def make(folder: Path, *overrides: str) -> list[str]:
        choices = ["models=tiny", "genome=tiny", "suite=tiny", f"study={folder.name}", f"runs_dir={folder.parent}"]
        return ["search", "--config-dir", str(tiny), *choices, *overrides]

    return make


@pytest.fixture(scope="session")
def run() -> Callable[[Sequence[str]], int]:
    """run(words): a command in this process; its exit code."""

    def command(words: Sequence[str]) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves its log files open
            code = main(words)
            gc.collect()
        return code

    return command


@pytest.fixture
def shown(capsys) -> Callable[[Path], dict]:
    """shown(folder): what `evomerge show --json` prints."""

    def show(folder: Path) -> dict:
        capsys.readouterr()
        assert main(["show", str(folder), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return show


@pytest.fixture(scope="session")
def calm(tmp_path_factory, words, run) -> Path:
    """A study of 19 candidates that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "calm"
    assert run(words(folder, "budget.candidates=19")) == 0
    return folder


@pytest.fixture(scope="session")
def held() -> Callable[[Path], dict]:
    """held(folder): all that a study holds and that must not depend on when and where it ran."""

    def read(folder: Path) -> dict:
        study = StudyView(folder)
        return {
            "candidates": [
                (each.number, each.state, each.x, each.recipe, each.scores, each.violations, each.objective)
                for each in study.candidates()
            ],
            "items": {path.name: pq.read_table(path).to_pydict() for path in sorted((folder / "items").iterdir())},
            "finalists": {each.name: (each.scores, each.objective) for each in study.finalists()},
            "best": (folder / "best.yaml").read_bytes(),
        }

    return read


@pytest.fixture(scope="session")
def operands():
    """operands(name, base, models, **settings): what a method is given for one tensor.

    A setting is a value for the tensor or a list of one for each model; what is left out has the method's default.
    """
    import torch

    from evomerge.methods import METHODS, Operands

    def operands(name, base, models, *, shape=None, tensor="x", numbers=None, block=0, **settings):
        method = METHODS[name]
        base = None if base is None else torch.as_tensor(base)
        models = tuple(map(torch.as_tensor, models))
        values = {each.name: settings.pop(each.name, each.default) for each in method.parameters}
        assert not settings
        first = models[0] if base is None else base
        shape = tuple(shape or first.shape)
        every = {-1: base, **dict(enumerate(models))}
        device = torch.device("cpu")
        return Operands(
            name=tensor,
            shape=shape,
            base=None if base is None else base.reshape(-1),
            models=tuple(model.reshape(-1) for model in models),
            numbers=numbers or tuple(range(1, len(models) + 1)),
            shared={each.name: values[each.name] for each in method.parameters if not each.per_model},
            each={
                each.name: tuple(value if isinstance(value := values[each.name], list) else [value] * len(models))
                for each in method.parameters
                if each.per_model
            },
            device=device,
            measure=lambda statistic, *places: statistic(
                tuple(every[place].reshape(-1) for place in places), shape, device
            ),
            measure_large=lambda *_: None,
            block=block,
        )

    return operands


@pytest.fixture(scope="session")
def merge_operands():
    """merge_operands(name, operands, cuts=()): the merged flat tensor, float32, made in pieces that end at the cuts."""
    import torch

    from evomerge.merge.kernels import Kernels, Operation
    from evomerge.methods import METHODS

    def merge_operands(name, operands, cuts=()):
        first = operands.models[0] if operands.base is None else operands.base
        out = torch.empty(first.numel())
        settled = METHODS[name].settle(operands)
        edges = [0, *cuts, out.numel()]
        for start, end in itertools.pairwise(edges):
            piece = slice(start, end)
            operation = Operation(
                METHODS[name],
                None if operands.base is None else operands.base[piece],
                tuple(model[piece] for model in operands.models),
                settled.tensors,
                settled.flags,
                settled.fields(piece) if settled.fields else (),
            )
            Kernels("never").run(operation, out[piece], start)
        return out

    return merge_operands


@pytest.fixture(scope="session")
def merge_one(operands, merge_operands):
    """merge_one(name, base, models, **settings): one float32 tensor merged by a method, flat."""
    import torch

    def merge_one(name, base, models, **settings):
        base = None if base is None else torch.as_tensor(base, dtype=torch.float32)
        models = [torch.as_tensor(model, dtype=torch.float32) for model in models]
        return merge_operands(name, operands(name, base, models, **settings))

    return merge_one
