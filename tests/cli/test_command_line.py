import json
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.cli import main

HEAVY = ("torch", "ray", "transformers", "lm_eval", "optuna", "hydra", "cma", "rich", "pydantic")


def test_help_loads_nothing_heavy():
    program = (
        "import sys\nfrom evomerge.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as ending:\n    assert ending.code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "exit codes" in done.stdout


@pytest.mark.parametrize(
    "module", ["evomerge", "evomerge.errors", "evomerge.recipe", "evomerge.study.document", "fitness", "fitness.suite"]
)
def test_light_modules_load_no_torch_and_no_ray(module):
    program = f"import sys, {module}\nassert not {{'torch', 'ray', 'lm_eval'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_overrides_may_stand_on_both_sides_of_a_flag(tmp_path, capsys):
    assert main(["search", "study=x", "--config-dir", str(tmp_path), "workers=nothing", "suite=x"]) == 2
    assert "unrecognized" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["merge", "missing.yaml", "out"], "missing.yaml"),
        (["search", "models=nothing", "suite=nothing", "study=s"], "nothing"),
        (["search", "nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(words, told, capsys):
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("evomerge: ")
    assert told in said
    assert len(said.splitlines()) == 1


def test_unknown_flags_are_refused(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["search", "--nonsense"])
    assert ending.value.code == 2


def test_a_study_that_is_not_there(tmp_path, capsys):
    assert main(["show", "nothing", "--runs-dir", str(tmp_path)]) == 5
    assert "no such study" in capsys.readouterr().err


def test_no_studies_is_an_empty_list(tmp_path: Path, capsys):
    assert main(["studies", "--runs-dir", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_intermediate_stages_are_written_where_asked_and_change_nothing(tmp_path, capsys):
    import torch
    from safetensors.torch import load_file

    from evomerge.bench.synthetic import write_models

    base, first, second = write_models(tmp_path / "models", 100_000, 2, torch.float32)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"""
name: soup
merge_method: linear
models: [{{model: {first}, parameters: {{weight: 1}}}}, {{model: {second}, parameters: {{weight: 3}}}}]
---
merge_method: task_arithmetic
base_model: {base}
models: [{{model: soup, parameters: {{weight: 0.5}}}}]
""",
        encoding="utf-8",
    )
    assert main(["merge", str(recipe), str(tmp_path / "streamed")]) == 0
    assert not (tmp_path / "stages").exists()
    words = [str(recipe), str(tmp_path / "out"), "--intermediate", str(tmp_path / "stages"), "--compile", "never"]
    assert main(["merge", *words]) == 0
    assert [path.name for path in (tmp_path / "stages").iterdir()] == ["soup"]
    assert str(tmp_path / "stages" / "soup") in capsys.readouterr().out
    stored, streamed = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "streamed"))
    soup, one, two = (
        load_file(Path(path) / "model.safetensors") for path in (tmp_path / "stages" / "soup", first.path, second.path)
    )
    name = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(soup[name], 0.25 * one[name] + 0.75 * two[name])
    torch.testing.assert_close(stored, streamed)


def test_warnings_of_a_merge_go_to_stderr(tmp_path, capsys):
    import torch

    from evomerge.bench.synthetic import write_models

    base, parent = write_models(tmp_path, 100_000, 1, torch.float32)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"{{merge_method: slerp, base_model: {base}, models: [{{model: {parent}}}], parameters: {{t: 0.5}}}}",
        encoding="utf-8",
    )
    assert main(["merge", str(recipe), str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert said.out == f"merged into {tmp_path / 'out'}\n"
    assert said.err.startswith("evomerge: warning: ")
    assert "no tokenizer" in said.err
