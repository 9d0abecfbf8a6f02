"""What `evomerge search --dry-run` tells, and that it starts and writes nothing."""

import json
import shutil
import socket

import pytest
import yaml

from evomerge.cli import main
from evomerge.config import search_config
from evomerge.errors import ConfigError
from evomerge.search import dry_run
from evomerge.study import Environment, Result, Study


@pytest.fixture
def read(tiny, tmp_path):
    """read(*overrides): the config of a search of the tiny family under tmp_path."""

    def make(*overrides: str):
        words = ["models=tiny", "genome=tiny", "suite=tiny", "study=s", f"runs_dir={tmp_path / 'runs'}", *overrides]
        return search_config(words, tiny)

    return make


@pytest.fixture
def searched(read):
    """searched(name, *seconds, **config): a study of these models and this suite, whose candidates took so long."""

    def make(name: str, *seconds: float, **config: object) -> None:
        document = read().model_dump(mode="json") | {"study": name} | config
        environment = Environment(python="", platform="", packages={}, models=())
        with Study.create(read().runs_dir / name, document, environment) as study:
            for each in seconds:
                result = Result(objective=0.5, timings={"merge": each / 4, "score": 3 * each / 4})
                study.finish(study.start([0.5], {}, {}, ""), result)
            study.finish(study.start([0.5], {}, {}, ""), Result(objective=0.5, timings={"cached": 0.001}))
            study.finish(study.start([0.5], {}, {}, ""), Result(reason="out of memory", timings={"merge": 99.0}))

    return make


def test_it_tells_what_would_be_searched(read):
    document = dry_run(read("budget.candidates=130", "workers.count=2"))
    assert document.dimensions == len(document.names) == 4
    assert document.names[0] == "weight.layers_0_1.first"
    assert (document.candidates, document.generation, document.generations) == (130, 8, 16)
    assert document.baselines[:4] == ("base", "first", "second", "uniform")
    assert {task: items.dev + items.holdout for task, items in document.tasks.items()} == {"choice": 24, "prose": 24}
    assert document.tasks["choice"].holdout > 0
    assert (document.estimated_hours, document.estimated_from) == (None, ())
    assert "evomerge bench candidate" in document.hint
    assert any("no licence" in warning for warning in document.warnings)
    assert not any("generations" in warning for warning in document.warnings)


def test_few_generations_are_warned_of_where_there_are_any(read):
    assert any("fewer than 10 generations" in warning for warning in dry_run(read("budget.candidates=20")).warnings)
    document = dry_run(read("budget.candidates=20", "optimizer=tpe"))
    assert (document.generation, document.generations) == (None, None)
    assert not any("generations" in warning for warning in document.warnings)


def test_hours_are_those_of_studies_of_the_same_models_and_suite(read, searched):
    searched("one", 10.0, 20.0, 30.0)
    searched("two", 40.0, 50.0)
    searched("elsewhere", 1000.0, models={"base": "org/base", "parents": ["org/a"]})
    searched("empty")
    broken = read().runs_dir / "broken"
    broken.mkdir()
    (broken / "config.yaml").write_text("[")
    document = dry_run(read("budget.candidates=110", "workers.count=2"))
    assert document.estimated_from == ("one", "two")
    recipes = 110 + len(document.baselines)
    assert document.estimated_hours == pytest.approx(30.0 * recipes / 2 / 3600)
    assert document.hint is None
    limited = dry_run(read("budget.candidates=1100", "budget.hours=0.01", "workers.count=2"))
    assert limited.estimated_hours == 0.01


def test_hours_are_those_of_workers_of_the_same_kind(read, searched):
    """Of as many as are asked for, if there are such; else it is said that they were others."""
    workers = read().workers.model_dump()
    searched("gpus", 1.0, workers=workers | {"gpus": 1, "count": 2})
    searched("threads", 2.0, workers=workers | {"cpus": 2, "count": 2})
    searched("four", 40.0, workers=workers | {"count": 4})
    document = dry_run(read("budget.candidates=110", "workers.count=2"))
    recipes = 110 + len(document.baselines)
    assert document.estimated_from == ("four",)
    assert document.estimated_hours == pytest.approx(40.0 * recipes / 2 / 3600)
    assert any("at the pace of workers.count=4, not 2" in warning for warning in document.warnings)
    searched("two", 30.0, workers=workers | {"count": 2})
    document = dry_run(read("budget.candidates=110", "workers.count=2"))
    assert document.estimated_from == ("two",)
    assert not any("workers.count" in warning for warning in document.warnings)


def test_a_cluster_is_only_asked_whether_it_is_there(read):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        document = dry_run(read("workers.count=1000", f"workers.address='{address}'"))
        assert f"the cluster at {address} was not asked whether it has room for the workers" in document.warnings
    with pytest.raises(ConfigError, match="no Ray cluster to work on"):
        dry_run(read(f"workers.address='{address}'"))


def test_the_command_writes_nothing_and_prints_a_document(words, tmp_path, capsys):
    command = [*words(tmp_path / "runs" / "night"), "--dry-run"]
    assert main([*command, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["study"], document["folder"]) == ("night", str(tmp_path / "runs" / "night"))
    assert main(command) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "4: weight.layers_0_1.first" in told
    assert "warning: " in told
    assert list(tmp_path.iterdir()) == []


def test_it_refuses_what_a_launch_refuses(words, tiny, tmp_path, capsys):
    folder = tmp_path / "night"
    folder.mkdir()
    configs = tmp_path / "configs"
    shutil.copytree(tiny, configs)
    models = yaml.safe_load((configs / "models" / "tiny.yaml").read_text())
    models["parents"].append(str(tmp_path / "gone"))
    (configs / "models" / "tiny.yaml").write_text(yaml.safe_dump(models))
    for override, code, told in (
        ("seed=0", 2, "study name already in use"),
        ("study=t", 4, str(tmp_path / "gone")),
        ("workers.count=1000", 2, "study name already in use"),
    ):
        command = [*words(folder), override, "--dry-run"]
        command[command.index("--config-dir") + 1] = str(configs)
        assert main(command) == code
        assert told in capsys.readouterr().err
    assert main([*words(tmp_path / "many", "workers.count=1000"), "--dry-run"]) == 2
    assert "at most" in capsys.readouterr().err


def test_json_wants_a_dry_run(words, tmp_path, capsys):
    assert main([*words(tmp_path / "night"), "--json"]) == 2
    assert "expected --dry-run beside it" in capsys.readouterr().err
