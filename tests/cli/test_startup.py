"""`evomerge merge` imports only what it needs."""

import json
import subprocess
import sys

import pytest

# each costs a tenth of a second to ten seconds, and no merge needs it
HEAVY = (
    "accelerate",
    "cma",
    "datasets",
    "huggingface_hub",
    "hydra",
    "lm_eval",
    "optuna",
    "pandas",
    "plotly",
    "pyarrow",
    "ray",
    "rich",
    "tokenizers",
    "torch._dynamo",
    "torch._inductor",
    "transformers",
)

PROGRAM = f"""
import json, sys
from evomerge.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    import torch

    from evomerge.bench.synthetic import write_models

    return write_models(tmp_path_factory.mktemp("models"), 100_000, 2, torch.float32)


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_a_merge_loads_nothing_that_it_does_not_need(method, models, tmp_path):
    base, *parents = models
    recipe = {
        "merge_method": method,
        "models": [{"model": str(parent), "parameters": {"weight": 0.5, "density": 0.5}} for parent in parents],
        "base_model": str(base),
    }
    if method == "linear":
        recipe = {"merge_method": "linear", "models": [{"model": str(parent)} for parent in parents]}
        recipe["parameters"] = {"weight": 1.0}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "merge", str(tmp_path / "recipe.yaml"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []], done.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    "words", [["merge", "--help"], ["bench", "--help"], ["bench", "merge", "--help"], ["methods", "--help"]]
)
def test_help_of_the_merge_engine_is_instant(words):
    program = (
        "import sys\nfrom evomerge.cli import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit as ending:\n    assert ending.code == 0\n"
        "assert not {'torch', 'pydantic', 'rich', 'yaml'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
