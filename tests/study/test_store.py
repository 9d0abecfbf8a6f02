import json
import math
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import yaml

from evomerge.errors import ConfigError, StudyError, StudyInUseError
from evomerge.study import MAX_ATTEMPTS, Candidate, Result, Study, StudyView
from evomerge.study.items import baseline_items, candidate_items, holdout_items
from evomerge.study.journal import open_journal
from fitness.estimates import score_interval
from fitness.items import Scores, TaskScores

SPACE = {"weight": (0.0, 1.2), "source": ("a", "b")}
Create = Callable[..., Study]
Add = Callable[..., Candidate]


def as_optuna(folder: Path) -> optuna.Study:
    """The study as Optuna's own tools open it."""
    return optuna.load_study(study_name=None, storage=open_journal(folder / "study.journal"))


def test_a_new_study_has_its_identity_and_nothing_else(study: Study, folder: Path):
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.yaml",
        "environment.json",
        "items",
        "study.journal",
        "study.lock",
    ]
    assert yaml.safe_load((folder / "config.yaml").read_text()) == {"version": 1, "study": "night", "seed": 0}
    assert study.environment.models[0].licence == "apache-2.0"
    assert study.candidates() == study.baselines() == study.finalists() == ()
    assert study.best is study.winner is None
    assert [path.name for path in folder.parent.iterdir()] == ["night"]


def test_a_candidate_is_one_trial_that_optuna_reads(study: Study, folder: Path, scores: Callable[..., Scores]):
    x = np.array([0.1, 1 / 3])
    number = study.start(x, {"weight": 0.12, "source": "b"}, SPACE, "merge_method: ties\n")
    running = study.candidates()[number]
    assert (number, running.state, running.attempts, running.objective, running.feasible) == (
        0,
        "running",
        1,
        None,
        False,
    )
    assert running.x == tuple(x)
    assert running.genome == {"weight": 0.12, "source": "b"}
    finished = study.finish(
        number,
        Result(
            scores={"shipping": 0.9, "prose": 7.5},
            violations={"shipping": -0.1, "prose": 0.25},
            objective=0.75,
            timings={"merge": 0.5, "score": 2.0},
        ),
        scores(0.9),
    )
    assert finished == study.candidates()[0] == StudyView(folder).candidates()[0]
    assert (finished.state, finished.objective, finished.seconds) == ("complete", 0.75, 2.5)
    assert finished.gates == {"shipping": True, "prose": False}
    assert not finished.feasible
    trial = as_optuna(folder).trials[0]
    assert trial.params == {"weight": 0.12, "source": "b"}
    assert trial.distributions["weight"] == optuna.distributions.FloatDistribution(0.0, 1.2)
    assert trial.distributions["source"] == optuna.distributions.CategoricalDistribution(("a", "b"))
    assert trial.value == 0.75
    assert list(trial.constraints.values()) == [-0.1, 0.25]
    shipping = study.scores(candidate_items(0), finished)["shipping"]
    assert (shipping.doc_ids, shipping.values) == ((0, 2, 4, 6), (0.9,) * 4)
    assert study.tasks() == {
        "shipping": {"metric": "exact_match", "higher_is_better": True},
        "prose": {"metric": "word_perplexity", "higher_is_better": False},
    }


def test_scores_come_back_with_all_that_their_intervals_are_made_of(study: Study, folder: Path):
    values, words = (-3.0, -9.5, -4.25), (3.0, 4.0, 2.0)
    score = math.exp(-sum(values) / sum(words))
    prose = {"prose": TaskScores("prose", "word_perplexity", (0, 1, 4), values, score, False, words)}
    choice = {"choice": TaskScores("choice", "acc", (2, 5), (1.0, 0.0), 0.5, True, answers=("yes", None))}
    recorded = Result(scores={"prose": score, "choice": 0.5})
    study.add_baseline("base", "# base", recorded, prose | choice)
    found = StudyView(folder).scores(baseline_items("base"), recorded)
    assert found == prose | choice
    weighed = score_interval(found["prose"])
    assert weighed == score_interval(prose["prose"])
    assert weighed != score_interval(replace(prose["prose"], weights=None))


def test_x_survives_bit_for_bit(study: Study, folder: Path):
    x = [0.0, 5e-324, 0.1, 1 / 3, math.nextafter(1, 0), 1.0, *np.random.default_rng(0).random(100)]
    number = study.start(np.array(x), {}, {}, "")
    assert [value.hex() for value in StudyView(folder).candidates()[number].x] == [float(value).hex() for value in x]


def test_a_value_that_rounding_carried_over_its_bound_is_recorded_at_the_bound(study: Study, folder: Path):
    over = 0.3 + 1.0 * (0.9 - 0.3)
    assert over > 0.9
    study.start([1.0], {"weight": over}, {"weight": (0.3, 0.9)}, "")
    assert study.candidates()[0].genome == {"weight": 0.9}
    assert as_optuna(folder).trials[0].params == {"weight": 0.9}


def test_a_failure_is_recorded_with_its_reason(study: Study, folder: Path, recorded: Add):
    failed = recorded(study, None)
    assert (failed.state, failed.reason, failed.objective, failed.feasible) == ("failed", "worker died", None, False)
    assert as_optuna(folder).trials[0].state == optuna.trial.TrialState.FAIL
    assert study.best is None
    assert not (folder / "best.yaml").exists()
    assert not (folder / "items" / "000000.parquet").exists()


@pytest.mark.parametrize(
    "objective, violations",
    [(math.nan, {}), (math.inf, {}), (-math.inf, {}), (None, {}), (1.0, {"shipping": math.nan})],
)
def test_what_cannot_be_ranked_fails(study: Study, objective: float | None, violations: dict[str, float]):
    number = study.start([0.5], {}, {}, "")
    candidate = study.finish(number, Result(scores={"t": math.inf}, objective=objective, violations=violations))
    assert (candidate.state, candidate.objective) == ("failed", None)
    assert candidate.reason == "the objective is not finite"
    assert study.best is None


def test_a_candidate_ends_once(study: Study, recorded: Add):
    recorded(study, 0.5)
    with pytest.raises(RuntimeError, match="candidate 0 is complete already"):
        study.finish(0, Result(objective=0.9))
    with pytest.raises(RuntimeError, match="candidate 0 is complete already"):
        study.retry(0)
    assert study.candidates()[0].objective == 0.5


def test_candidates_that_a_session_left_running_are_run_again_and_then_given_up(folder: Path, created: Create):
    with created(folder) as study:
        first = study.start([0.25], {"weight": 0.3}, SPACE, "a")
        second = study.start([0.5], {"weight": 0.6}, SPACE, "b")
    for attempt in range(2, MAX_ATTEMPTS + 1):
        with Study.open(folder) as study:
            assert [candidate.state for candidate in study.candidates()] == ["running", "running"]
            assert study.retry(first)
            assert study.candidates()[first].attempts == attempt
    with Study.open(folder) as study:
        assert not study.retry(first)
        given_up, untouched = study.candidates()
        assert (given_up.state, given_up.reason) == ("failed", "interrupted 5 times")
        assert (untouched.state, untouched.attempts, untouched.x, untouched.recipe) == ("running", 1, (0.5,), "b")
        assert study.finish(second, Result(objective=1.0)).number == 1


def test_optuna_and_we_agree_on_the_best(study: Study, folder: Path, recorded: Add):
    recorded(study, 0.9, violation=0.01)
    with pytest.raises(ValueError, match="No feasible trials"):
        as_optuna(folder).best_trial  # noqa: B018
    assert study.best is None
    for objective, violation in [(0.5, 0.0), (0.7, -0.2), (None, 0.0), (0.7, 0.0), (0.95, 1e-9), (0.6, -1.0)]:
        recorded(study, objective, violation)
        assert study.best.number == as_optuna(folder).best_trial.number
    assert study.best.number == 2  # the earlier one of two equals


def test_only_a_better_feasible_candidate_replaces_the_best_recipe(study: Study, folder: Path, recorded: Add):
    recorded(study, 0.9, violation=0.01)
    assert not (folder / "best.yaml").exists()
    first = recorded(study, 0.5)
    assert (folder / "best.yaml").read_text() == first.recipe
    recorded(study, 0.4)
    recorded(study, 0.5)
    recorded(study, 0.99, violation=1.0)
    assert (folder / "best.yaml").read_text() == first.recipe
    better = recorded(study, 0.6)
    assert (folder / "best.yaml").read_text() == better.recipe
    sidecar = json.loads((folder / "best.provenance.json").read_text())
    assert (sidecar["candidate"], sidecar["objective"], sidecar["holdout"]) == (better.number, 0.6, None)
    assert sidecar["environment"]["models"] == [{"ref": "org/base", "digest": "ab" * 32, "licence": "apache-2.0"}]


def test_a_best_recipe_that_a_kill_left_behind_is_brought_up_on_opening(folder: Path, created: Create, recorded: Add):
    with created(folder) as study:
        best = recorded(study, 0.5)
    (folder / "best.yaml").write_text("stale")
    (folder / "best.provenance.json").unlink()
    (folder / ".best.yaml.partial").write_text("ha")
    (folder / "items" / ".000001.parquet.partial").write_text("ha")
    StudyView(folder)
    assert (folder / "best.yaml").read_text() == "stale"  # reading mends nothing
    Study.open(folder).close()
    assert (folder / "best.yaml").read_text() == best.recipe
    assert json.loads((folder / "best.provenance.json").read_text())["candidate"] == 0
    assert not list(folder.rglob("*.partial"))


def test_the_elected_candidate_wins_until_a_better_one_is_found(study: Study, folder: Path, recorded: Add):
    best, elected, infeasible = recorded(study, 0.6), recorded(study, 0.5), recorded(study, 0.9, violation=1.0)
    holdout = Result(scores={"shipping": 0.4}, violations={"shipping": -0.1}, objective=0.4)
    study.add_finalist(str(elected.number), elected.number, holdout)
    study.elect(elected.number)
    assert (study.best, study.winner) == (best, elected)
    assert (folder / "best.yaml").read_text() == elected.recipe
    sidecar = json.loads((folder / "best.provenance.json").read_text())
    shown = {"scores": {"shipping": 0.4}, "intervals": {}, "gates": {"shipping": True}, "objective": 0.4}
    assert sidecar["holdout"] == shown
    recorded(study, 0.55)
    assert study.winner == elected
    with pytest.raises(ValueError, match="not feasible"):
        study.elect(infeasible.number)
    better = recorded(study, 0.7)
    assert study.winner == study.best == better
    assert (folder / "best.yaml").read_text() == better.recipe


def test_what_holdout_has_refused_is_not_handed_over(study: Study, folder: Path, recorded: Add):
    refused, next_best = recorded(study, 0.6), recorded(study, 0.5)
    missed = Result(scores={"shipping": 0.4}, violations={"shipping": 0.1}, objective=0.4)
    study.add_finalist("base", None, missed)
    assert study.winner == refused
    study.add_finalist(str(refused.number), refused.number, missed)
    assert (study.best, study.winner, StudyView(folder).winner) == (refused, None, None)
    assert not (folder / "best.yaml").exists()
    assert not (folder / "best.provenance.json").exists()
    recorded(study, 0.3)
    assert study.winner is None
    study.elect(next_best.number)
    assert (folder / "best.yaml").read_text() == next_best.recipe
    better = recorded(study, 0.7)
    assert study.winner == better
    study.add_finalist(str(better.number), better.number, Result(reason="worker died"))
    assert study.winner is None


def test_baselines_and_finalists_are_kept_in_order_with_their_items(
    study: Study, folder: Path, scores: Callable[..., Scores]
):
    result = Result(scores={"shipping": 0.3}, violations={"shipping": 0.5}, objective=0.3, timings={"merge": 1.0})
    for name in ("base", "ties", "org/model"):
        study.add_baseline(name, f"# {name}", result, scores(0.3))
    study.add_baseline("base", "# again", Result(reason="out of memory"))
    study.add_finalist("base", None, result, scores(0.1))
    study.add_finalist("0", 0, result, scores(0.2))
    view = StudyView(folder)
    assert [(each.name, each.recipe) for each in view.baselines()] == [
        ("base", "# again"),
        ("ties", "# ties"),
        ("org/model", "# org/model"),
    ]
    assert view.baselines()[0].reason == "out of memory"
    assert view.baselines()[1].gates == {"shipping": False}
    assert [(each.name, each.number) for each in view.finalists()] == [("base", None), ("0", 0)]
    assert view.scores(baseline_items("org/model"), result)["shipping"].values[0] == 0.3
    assert view.scores(holdout_items("base"), result)["shipping"].values[0] == 0.1
    assert view.scores(holdout_items("0"), result)["shipping"].values[0] == 0.2


def test_hours_add_up_over_sessions_that_were_killed(folder: Path, created: Create, monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    study = created(folder)
    now[0] += 1800
    assert study.hours == 0.5
    study.note("benchmarks", ["gsm8k"])
    now[0] += 600  # lost: nothing is recorded after it
    study.close()
    now[0] += 10_000  # no session
    study = Study.open(folder)
    assert study.hours == 0.5
    now[0] += 900
    number = study.start([0.5], {}, {}, "")
    study.finish(number, Result(objective=1.0))
    study.close()
    assert StudyView(folder).hours == 0.75
    with Study.open(folder) as study:
        assert study.hours == 0.75
    assert StudyView(folder).notes() == {"benchmarks": ["gsm8k"]}


def test_to_get_ready_takes_no_hours_of_search(folder: Path, created: Create, monkeypatch: pytest.MonkeyPatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    created(folder).close()
    for hours in (0.5, 1.0):
        with Study.open(folder) as study:
            now[0] += 600  # models are loaded
            study.begin()
            now[0] += 1800
            assert study.hours == hours
            study.note("benchmarks", [])
    assert StudyView(folder).hours == 1.0


def test_a_study_tells_how_its_last_session_ended(folder: Path, created: Create, recorded: Add):
    with created(folder) as study:
        assert study.state == "running"
        study.begin()
        recorded(study, 0.5)
        study.end()
    view = StudyView(folder)
    assert view.state == "finished"
    begun, updated = view.begun, view.updated
    assert begun <= updated
    with Study.open(folder) as study:
        assert study.state == "running"
    assert view.state == "finished"  # opened, but nothing was asked
    with Study.open(folder) as study:
        study.begin()
    assert view.state == "interrupted"
    for how in ("paused", "stopped"):
        with Study.open(folder) as study:
            study.begin()
            study.end(how)
        assert (view.state, view.begun) == (how, begun)


def test_a_finished_study_of_an_older_evomerge_is_finished_until_it_goes_on(folder: Path, created: Create, recorded):
    with created(folder) as study:
        recorded(study, 0.5)
        study._set("finished", True)  # all that was recorded then
    view = StudyView(folder)
    assert view.state == "finished"
    begun = view.begun
    assert begun[:10] == view.updated[:10]  # of the candidate
    with Study.open(folder) as study:
        assert not study.interrupted
        study.begin()
        assert "begun" not in study._attributes()
    assert (view.state, view.begun) == ("interrupted", begun)
    with Study.open(folder) as study:
        assert study.interrupted


def test_what_a_killed_merge_left_in_the_folder_is_in_nobodys_way(folder: Path, created: Create):
    created(folder).close()
    (folder / ".model.0a1b2c3d.partial").mkdir()
    (folder / ".best.yaml.0a1b2c3d.partial").touch()
    Study.open(folder).close()
    assert [path.name for path in folder.glob(".*")] == [".model.0a1b2c3d.partial"]


def test_one_writer(study: Study, folder: Path):
    with pytest.raises(StudyInUseError):
        Study.open(folder)
    study.note("still", "writable")


def test_what_is_in_the_way_of_a_new_study(folder: Path, created: Create):
    with pytest.raises(ConfigError, match="not a name for a study"):
        Study.create(folder, {"study": "../night"}, None)
    assert not folder.parent.exists()
    created(folder).close()
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    with pytest.raises(ConfigError, match=rf"already in use.*evomerge resume {folder}, or"):
        created(folder)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir()) == before


def test_what_is_no_study_is_not_opened_and_left_alone(tmp_path: Path, folder: Path, created: Create):
    with pytest.raises(StudyError, match="not a study"):
        Study.open(tmp_path)
    assert list(tmp_path.iterdir()) == []
    created(folder).close()
    (folder / "study.journal").write_bytes(b"")
    with pytest.raises(StudyError, match="study has no record"):
        Study.open(folder)
    (folder / "study.journal").unlink()
    with pytest.raises(StudyError, match="study has no journal"):
        Study.open(folder)
    with pytest.raises(StudyError, match="study has no journal"):  # the failed opening holds no lock
        Study.open(folder)


def test_a_renamed_folder_is_the_same_study(folder: Path, created: Create, recorded: Add):
    with created(folder) as study:
        recorded(study, 0.5)
    moved = folder.rename(folder.with_name("moved"))
    with Study.open(moved) as study:
        recorded(study, 0.6)
        study.change_config({"study": "moved", "seed": 0, "budget": {"candidates": 9}})
    view = StudyView(moved)
    assert (view.name, len(view.candidates())) == ("moved", 2)
    assert view.config == {"study": "night", "seed": 0, "budget": {"candidates": 9}}


def test_a_database_that_fails_is_one_line(tmp_path: Path, created: Create):
    with created(tmp_path / "night", storage=f"sqlite:///{tmp_path / 'team.db'}") as study:
        connection = sqlite3.connect(tmp_path / "team.db")
        connection.execute("DROP TABLE study_user_attributes")
        connection.close()
        for fails, line in ((study.end, "cannot be written"), (study.notes, "cannot be read")):
            with pytest.raises(StudyError, match=f"study database {line}.*no such table") as refused:
                fails()
            assert "SELECT" not in str(refused.value)


def test_a_database_instead_of_the_journal(tmp_path: Path, created: Create, recorded: Add):
    url = f"sqlite:///{tmp_path / 'team.db'}"
    other = created(tmp_path / "runs" / "other", storage=url)
    with created(tmp_path / "runs" / "night", storage=url) as study:
        assert not study.folder.journal.exists()
        recorded(study, 0.9, violation=1.0)
        best = recorded(study, 0.5)
        study.add_baseline("base", "# base", Result(objective=0.1))
    other.close()
    view = StudyView(tmp_path / "runs" / "night")
    assert view.best == best
    assert [each.name for each in view.baselines()] == ["base"]
    assert optuna.load_study(study_name="night", storage=url).best_trial.number == best.number
    with pytest.raises(ConfigError, match="already in use"):
        created(tmp_path / "elsewhere" / "night", storage=url)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    with Study.open(tmp_path / "runs" / "night") as study:
        assert recorded(study, 0.7).number == 2
