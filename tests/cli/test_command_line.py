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
