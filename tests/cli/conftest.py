"""Good models and configs to spoil, and how a command refuses them."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from evomerge.cli import main
from evomerge.config import search_config
from evomerge.study import Study, describe_environment


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
    def __init__(self, _config) -> None:
        pass

    def __enter__(self):
        raise AssertionError("Ray would have been started")

    def __exit__(self, *_error) -> None:
        pass


@pytest.fixture
def without_ray(monkeypatch) -> type[NoWorkers]:
    """What stands for the workers, in a search that must end before it needs one."""
    import evomerge.search  # noqa: F401

    monkeypatch.setattr(sys.modules["evomerge.search.launch"], "WorkerPool", NoWorkers)
    return NoWorkers


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
