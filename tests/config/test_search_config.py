import re
from pathlib import Path

import pytest
import yaml

from evomerge.config import conf_dir, resumed_config, score_config, search_config
from evomerge.errors import ConfigError, SuiteError

MODELS = "{base: org/base, parents: [org/a, org/b], dtype: float32}"
SUITE = "{tasks: [{name: t, metric: acc, gate: {at_least: 0.5}}]}"


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    for group, text in (("models", MODELS), ("suite", SUITE)):
        (tmp_path / group).mkdir()
        (tmp_path / group / "mine.yaml").write_text(text)
    return tmp_path


def compose(config_dir: Path, *overrides: str):
    return search_config(["models=mine", "suite=mine", "study=s", *overrides], config_dir)


def test_a_users_folder_lies_beside_ours(config_dir):
    config = compose(config_dir, "genome=task_arithmetic", "seed=7")
    assert [parent.path for parent in config.models.parents] == ["org/a", "org/b"]
    assert config.seed == 7
    assert config.genome.method == "task_arithmetic"


@pytest.mark.parametrize("name", ["no", "2026-01-31", "1e3x", "my-suite", "sub/night"])
def test_an_option_may_have_any_name(config_dir, name):
    path = config_dir / "suite" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"# @package suite\n{SUITE}")
    assert search_config(["models=mine", f"suite={name}", "study=s"], config_dir).suite.tasks[0].name == "t"


def test_every_shipped_option_composes(config_dir):
    for group in ("genome", "optimizer", "workers"):
        for option in sorted((conf_dir() / group).glob("*.yaml")):
            compose(config_dir, f"{group}={option.stem}")


def test_every_shipped_experiment_composes():
    for experiment in sorted((conf_dir() / "experiment").glob("*.yaml")):
        search_config([f"experiment={experiment.stem}"])


def test_an_experiment_overrides_what_it_chooses(config_dir):
    (config_dir / "experiment").mkdir()
    (config_dir / "experiment" / "night.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /models: mine\n  - override /suite: mine\n"
        "study: night\nbudget: {hours: 8}\n"
    )
    config = search_config(["experiment=night", "budget.hours=2"], config_dir)
    assert config.study == "night"
    assert config.budget.hours == 2
    assert config.budget.candidates == 200


def test_the_files_of_the_readme_compose_as_they_are(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL)
    named = {name[1]: block for block in blocks if (name := re.search(r"^# configs/(\S+\.yaml)", block, re.MULTILINE))}
    assert sorted(named) == ["experiment/night.yaml", "models/mine.yaml", "suite/mine.yaml"]
    named["experiment/night.yaml"] += next(block for block in blocks if block.startswith("notify:"))
    for name, block in named.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(block)
    config = search_config(["experiment=night"], tmp_path)
    assert (config.study, config.budget.hours, config.genome.method) == ("night", 8, "dare_ties")
    assert len(config.suite.tasks) == len(config.models.parents) == 3
    assert config.notify.webhook is not None


@pytest.mark.parametrize("path", ["~nobody-of-that-name/model", "x" * 5000, "./" + "x" * 5000])
def test_a_path_that_cannot_be_is_one_that_is_not_there(config_dir, path):
    config = compose(config_dir, f"models.base='{path}'", f"suite.include_path=['{path}']")
    assert config.models.base.path in (path, str(config_dir / path))
    assert config.suite.include_path == (str(config_dir / path),)


def test_folders_become_absolute_and_hub_ids_stay(config_dir):
    (config_dir / "here" / "model").mkdir(parents=True)
    config = compose(config_dir, "models.base=here/model", "suite.include_path=[tasks]")
    assert config.models.base.path == str(config_dir / "here" / "model")
    assert config.models.parents[0].path == "org/a"
    assert config.suite.include_path == (str(config_dir / "tasks"),)


def test_runs_dir_is_where_the_shell_is(config_dir, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert compose(config_dir).folder == tmp_path / "runs" / "s"


def test_a_resolved_config_survives_yaml(config_dir):
    from evomerge.config import search_config_of

    config = compose(config_dir)
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert search_config_of(yaml.safe_load(text), "config.yaml") == config


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sed=3", "did you mean 'seed'?"),
        ("workers.cpu=3", "did you mean 'cpus'?"),
        ("optimizer.sigm=3", "did you mean 'sigma'?"),
        ("budget.candidates=0", "greater than or equal to 1, found 0"),
        ("budget.candidates=-3", "greater than or equal to 1, found -3"),
        ("budget.hours=0", "greater than 0, found 0"),
        ("budget.hours=inf", "finite"),
        ("workers.count=0", "greater than or equal to 1"),
        ("genome=tise", "did you mean 'ties'?"),
        ("models.parents=[org/a,org/a]", "parent given twice"),
        ("models.parents=[]", "at least 1 item"),
        ("models.dtype=float12", "float12"),
        ("seed=many", "valid integer"),
        ("racing=foo", "(config: suite.racing): expected a mapping with keys such as rungs, keep, alpha, found 'foo'"),
        ("suite.tasks=3", "(config: suite.tasks): expected a list, found 3"),
        ("genome=ties}", "override cannot be read (genome): expected key=value, found ties}"),
        ("genome=null", "not a choice (genome): expected genome=NAME, found null"),
        ("study", "study"),
    ],
)
def test_a_wrong_override_is_told_in_one_line(config_dir, override, told):
    with pytest.raises(ConfigError) as caught:
        compose(config_dir, override)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "head", ["# my night\n# @package _global_\n", "", "# @package night\n", "study: t\n# @package _global_\n"]
)
def test_an_experiment_whose_package_hydra_would_drop_is_refused(config_dir, head):
    (config_dir / "experiment").mkdir()
    text = "defaults:\n  - override /models: mine\n  - override /suite: mine\nseed: 4\n"
    path = config_dir / "experiment" / "night.yaml"
    path.write_text(head + text)
    with pytest.raises(ConfigError, match=r"\(experiment/night.yaml\): expected # @package _global_; make"):
        search_config(["study=s", "experiment=night"], config_dir)
    path.write_text(f"\n#@package _global_\n# my night\n{text}")
    assert search_config(["study=s", "experiment=night"], config_dir).seed == 4


def test_a_missing_choice_is_named(config_dir):
    with pytest.raises(ConfigError, match=r"^choice missing \(suite\): expected suite=NAME, one of .*mine.*; add it"):
        search_config(["models=mine", "study=s"], config_dir)
    with pytest.raises(ConfigError, match="study"):
        search_config(["models=mine", "suite=mine"], config_dir)


def test_a_missing_config_folder_is_told(tmp_path):
    with pytest.raises(ConfigError, match="no such config folder"):
        search_config([], tmp_path / "nothing")


def test_a_gate_with_two_bounds_is_refused(config_dir):
    (config_dir / "suite" / "mine.yaml").write_text(
        "{tasks: [{name: t, metric: acc, gate: {at_least: 0.5, at_most: 0.9}}]}"
    )
    with pytest.raises(SuiteError, match="either at_least or at_most, found both"):
        compose(config_dir)


def test_a_resume_may_change_budget_and_workers_only(config_dir):
    config = compose(config_dir)
    resumed = resumed_config(config, ["budget.candidates=300", "workers.count=4"])
    assert (resumed.budget.candidates, resumed.workers.count) == (300, 4)
    assert resumed.models == config.models
    for override in ("seed=1", "models.dtype=float16", "budget"):
        with pytest.raises(ConfigError):
            resumed_config(config, [override])
    with pytest.raises(ConfigError, match="greater than or equal"):
        resumed_config(config, ["budget.candidates=0"])


def test_who_is_told_is_a_command_a_webhook_or_nobody_and_may_change(config_dir):
    config = compose(config_dir)
    assert (config.notify.command, config.notify.webhook) == (None, None)
    assert config.notify.events == ("finished", "failed", "feasible")
    config = compose(config_dir, "notify.command=[mail, me]", "notify.webhook='https://here/hook?a=b'")
    assert (config.notify.command, config.notify.webhook) == (("mail", "me"), "https://here/hook?a=b")
    resumed = resumed_config(config, ["notify.command=mail $EVOMERGE_EVENT", "notify.events=[failed]"])
    assert (resumed.notify.command, resumed.notify.events) == ("mail $EVOMERGE_EVENT", ("failed",))
    assert resumed_config(resumed, ["notify.command=null"]).notify.command is None
    for override in ("notify.command=[]", "notify.command=[1]", "notify.webhook=here", "notify.events=[never]"):
        with pytest.raises(ConfigError, match=rf"notify\.{override[7:11]}"):
            compose(config_dir, override)


def test_scoring_needs_a_suite_only(config_dir):
    assert score_config(["suite=mine"], config_dir).suite.tasks[0].name == "t"


def test_a_race_is_set_and_turned_off_by_its_short_name():
    raced = search_config(["experiment=demo", "racing={rungs: [0.25, 1.0]}"])
    assert raced.suite.racing is not None
    assert raced.suite.racing.rungs == (0.25, 1.0)
    assert search_config(["experiment=demo", "racing={rungs: [0.25, 1.0]}", "racing=none"]).suite.racing is None
