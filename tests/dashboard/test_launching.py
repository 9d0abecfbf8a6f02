import subprocess
from pathlib import Path
from threading import BoundedSemaphore

import pytest
import yaml

from evomerge.cli import main
from evomerge.dashboard import Settings, launching
from evomerge.dashboard.launching import LaunchForm, check, compose, config_yaml, field_of, groups, resumed
from evomerge.errors import ConfigError, OneLineError, StudyError


@pytest.fixture
def own(tmp_path) -> Path:
    """A folder of options of the user's own, with tasks beside them."""
    folder = tmp_path / "my configs"
    (folder / "models" / "eu").mkdir(parents=True)
    (folder / "tasks").mkdir()
    (folder / "tasks" / "secret.yaml").write_text("study: secret\n")
    (folder / "models" / "mine.yaml").write_text("base: models/base\nparents: [models/one]\n")
    (folder / "models" / "eu" / "north.yaml").write_text("base: org/base\nparents: [org/one]\n")
    return folder


@pytest.fixture
def settings(tmp_path, own) -> Settings:
    runs_dir = tmp_path / "it's my runs"
    runs_dir.mkdir()
    return Settings(runs_dir=runs_dir, token="t", config_dir=own)


def refused(settings: Settings, form: LaunchForm) -> OneLineError:
    with pytest.raises(OneLineError) as caught:
        compose(settings, form)
    return caught.value


def test_the_choices_are_the_shipped_ones_and_the_users(settings):
    found = {group.name: group for group in groups(settings)}
    assert set(found) == {"models", "genome", "optimizer", "suite", "workers", "experiment"}
    assert {"demo", "mine", "eu/north"} <= set(found["models"].options)
    assert (found["models"].default, found["genome"].default) == (None, "ties")
    assert "demo" in found["experiment"].options


def test_a_form_composes_what_the_command_line_would(settings, capsys):
    form = LaunchForm(
        study="s-1",
        experiment="demo",
        genome="ties",
        overrides="# a comment\n\n  budget.candidates=7  \nworkers.count=1\n",
    )
    config = compose(settings, form)
    assert (config.study, config.budget.candidates, config.genome.method) == ("s-1", 7, "ties")
    assert config.runs_dir == settings.runs_dir
    words = ["experiment=demo", "genome=ties", "study=s-1", "budget.candidates=7", "workers.count=1"]
    assert (
        main(
            [
                "search",
                *words,
                f"runs_dir='{str(settings.runs_dir).replace(chr(39), chr(92) + chr(39))}'",
                "--print-config",
            ]
        )
        == 0
    )
    assert yaml.safe_load(capsys.readouterr().out) == yaml.safe_load(config_yaml(config))


def test_a_name_of_digits_is_a_name(settings):
    assert compose(settings, LaunchForm(study="2026", experiment="demo")).study == "2026"


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"overrides": "budget.candidates=many"}, "overrides"),
        ({"overrides": "budget.candidats=5"}, "overrides"),
        ({"overrides": "budgt.candidates=5"}, "overrides"),
        ({"overrides": "seed=[1"}, "overrides"),
        ({"study": "a b"}, "study"),
        ({"study": "../x"}, "study"),
        ({"suite": "nothing"}, "suite"),
    ],
    ids=str,
)
def test_an_error_reads_as_on_the_command_line_and_belongs_to_its_field(settings, form, field, capsys):
    filled = LaunchForm(experiment="demo", **form)
    error = refused(settings, filled)
    words = [f"{group}={option}" for group, option in filled.choices.items()]
    words += [f"study='{filled.study}'"] if filled.study else []
    assert main(["search", *words, *filled.lines]) == 2
    assert capsys.readouterr().err == f"evomerge: {error}\n"
    assert field_of(error, filled) == field


def test_a_name_tells_nothing_of_the_environment(settings, monkeypatch):
    monkeypatch.setenv("SECRET", "what nobody may see")
    error = refused(settings, LaunchForm(study="${oc.env:SECRET}", experiment="demo"))
    assert error.what == "not a name for a study"
    assert "nobody" not in str(error)


def test_what_has_to_be_chosen_is_asked_for_at_its_field(settings):
    form = LaunchForm(study="s", models="demo")
    assert field_of(refused(settings, form), form) == "suite"


def test_a_name_that_is_taken_is_said_before_anything_starts(settings):
    (settings.runs_dir / "taken").mkdir()
    form = LaunchForm(study="taken", experiment="demo")
    error = refused(settings, form)
    assert "already in use" in str(error)
    assert field_of(error, form) == "study"


@pytest.mark.parametrize(
    "line",
    [
        "runs_dir=/tmp",
        "+runs_dir=/tmp",
        "++runs_dir=/tmp",
        "hydra.run.dir=/tmp",
        "hydra/launcher=x",
        "hydra.searchpath=[file:///tmp]",
        "notify.command=[touch, x]",
        "notify={command: [touch, x]}",
        "storage=sqlite:////tmp/x",
        "suite._target_=os.system",
        "+suite.tasks.0._target_=os.system",
        "suite.tasks=[{_target_: os.system}]",
        "seed=${oc.env:HOME}",
        "seed='${oc.env:HOME}'",
        "study=${demo:x}",
        "models=../../etc/passwd",
        "models=/etc/passwd",
        "models={base: /etc/passwd}",
        "models@suite=demo",
        "+tasks=secret",
        "tasks=secret",
        "tasks=../tasks/secret",
        "../tasks=secret",
        "~suite",
        "~suite=demo",
        "--print-config",
        "--config-dir=/etc",
        "-m",
        "seed",
        "=1",
        "a b=1",
        "optimizer=[cma_es,tpe]",
        "seed=" + "[" * 300 + "]" * 300,
        "seed=" + "{a: " * 300,
    ],
)
def test_a_page_may_not_say(settings, line):
    form = LaunchForm(study="s", experiment="demo", overrides=line)
    with pytest.raises(ConfigError) as caught:
        launching.overrides(settings, form)
    assert field_of(caught.value, form) == "overrides"


@pytest.mark.parametrize("field", ["models", "suite", "experiment", "workers"])
@pytest.mark.parametrize(
    "option", ["../x", "/etc/passwd", "eu", "demo.yaml", "demo,demo", "[demo]", "null", "eu/../demo"]
)
def test_an_option_is_one_of_the_list(settings, field, option):
    form = LaunchForm(study="s", **{field: option})
    error = refused(settings, form)
    assert "no such option" in str(error)
    assert field_of(error, form) == field


@pytest.mark.parametrize(
    "line",
    [
        "models.base=/etc",
        "models.base='~/model'",
        "models.base=../../../../../../etc",
        "models.parents=[{path: org/base, adapter: /etc}]",
        "models.tokenizer.source=/etc/passwd",
        "suite.include_path=[/etc]",
        "suite.include_path=[../..]",
        "suite.tasks=[{name: /etc/passwd, metric: acc}]",
        "suite.tasks=[{name: tasks/../../../../etc/passwd, metric: acc}]",
    ],
)
def test_files_outside_of_the_allowed_folders_are_refused(settings, line):
    form = LaunchForm(study="s", experiment="demo", overrides=line)
    error = refused(settings, form)
    assert error.what == "outside of the allowed folders"
    assert field_of(error, form) == "overrides"


def test_a_link_does_not_lead_out_of_an_allowed_folder(settings, own):
    (own / "link").symlink_to("/etc")
    error = refused(settings, LaunchForm(study="s", experiment="demo", overrides="models.base=link"))
    assert error.what == "outside of the allowed folders"


def test_files_in_allowed_folders_and_hub_ids_are_let_through(settings, own, tmp_path):
    (own / "models" / "base").mkdir()
    form = LaunchForm(study="s", experiment="demo", models="mine")
    assert compose(settings, form).models.base.path == str(own / "models" / "base")
    assert compose(settings, form).models.parents[0].path == "models/one"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    form = LaunchForm(study="s", experiment="demo", overrides=f"models.base={elsewhere}")
    assert refused(settings, form).what == "outside of the allowed folders"
    more = Settings(runs_dir=settings.runs_dir, token="t", allowed=(elsewhere,))
    assert compose(more, form).models.base.path == str(elsewhere)


def test_a_check_opens_the_models_and_the_tasks_and_starts_nothing(settings):
    found = check(settings, LaunchForm(study="s", experiment="demo", overrides="budget.candidates=40"))
    assert found.dry_run["study"] == "s"
    assert found.dry_run["dimensions"] == len(found.dry_run["names"])
    assert set(found.dry_run["tasks"]) == {"shipping", "refunds", "catalogue"}
    assert yaml.safe_load(found.config)["budget"]["candidates"] == 40
    assert list(settings.runs_dir.iterdir()) == []


def test_only_so_many_check_at_once(settings, monkeypatch):
    monkeypatch.setattr(launching, "_checking", BoundedSemaphore(1))
    going_on = []

    def run(words: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        if not going_on:
            going_on.append(words)
            with pytest.raises(OneLineError, match="other checks are going on"):
                check(settings, LaunchForm(study="t", experiment="demo"))
        return subprocess.CompletedProcess(words, 0, "{}", "")

    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):
        assert check(settings, LaunchForm(study="s", experiment="demo")).dry_run == {}


@pytest.mark.soak
def test_a_check_that_fails_says_what_the_search_would(settings, own):
    (own / "models" / "base").mkdir()
    form = LaunchForm(study="s", experiment="demo", overrides=f"models.base={own / 'models' / 'base'}")
    with pytest.raises(OneLineError) as caught:
        check(settings, form)
    assert str(own / "models" / "base") in str(caught.value)
    assert not str(caught.value).startswith("evomerge: ")


def test_a_resume_may_change_budget_and_workers_only(settings):
    config = compose(settings, LaunchForm(study="s", experiment="demo")).model_dump(mode="json")
    found = resumed(settings, config, ["budget.candidates=300", "workers.count=2"])
    assert (found.budget.candidates, found.workers.count) == (300, 2)
    for word in ("seed=1", "models.base=x", "notify.command=[x]", "budget.candidates=${seed}", "budget.candidates=x"):
        with pytest.raises(ConfigError):
            resumed(settings, config, [word])


def test_a_runs_folder_that_cannot_be_made_is_said(settings, tmp_path):
    (tmp_path / "file").touch()
    nowhere = Settings(runs_dir=tmp_path / "file" / "runs", token="t")
    with pytest.raises((StudyError, OneLineError)):
        compose(nowhere, LaunchForm(study="s", experiment="demo"))
