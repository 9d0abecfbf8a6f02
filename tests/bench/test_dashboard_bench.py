import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from evomerge.bench.dashboard import DashboardReport, PageCost, SearchCost, Seen, bench_dashboard
from evomerge.bench.machine import Machine
from evomerge.bench.served import serving
from evomerge.bench.study import synthetic_suite, write_study
from evomerge.bench.table import dashboard_table
from evomerge.cli import main
from evomerge.config import search_config
from evomerge.errors import UsageError
from evomerge.study import StudyView
from evomerge.study.document import study_document
from evomerge.study.items import read_items

FOREVER = 60  # seconds
MACHINE = Machine("EPYC", 2, None, None, "Linux", "3.11", "2.13", 2)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    words = ["study=s", f"runs_dir={tmp_path_factory.mktemp('runs')}", "models=demo", "suite=demo", "seed=1"]
    return search_config(words).model_copy(update={"suite": synthetic_suite(5)})


@pytest.fixture(scope="module")
def written(config) -> StudyView:
    return StudyView(write_study(config, 120))


def test_a_synthetic_study_is_one_that_a_search_could_have_written(written):
    document = study_document(written)
    assert document.state == "finished"
    assert [each.number for each in document.candidates if each.state == "failed"] == [50]
    scored = [each for each in document.candidates if each.reason is None]
    assert all(len(each.scores) == len(each.gates) == len(each.intervals) == 5 for each in scored)
    assert len(scored[0].genome) == len(written.candidates()[0].x) == 72
    feasible = [each.number for each in scored if each.feasible]
    assert feasible
    assert min(feasible) > 10  # it has to be searched for
    assert document.best is not None
    assert {each.number for each in document.finalists if each.number is not None} >= {document.best.number}
    parents = [each for each in document.baselines if each.name in ("shipping", "refunds", "catalogue")]
    assert len(parents) == 3
    assert not any(each.feasible for each in parents)
    assert all(len(read_items(written.folder.items, f"{number:06d}")) == 5 for number in feasible)


def test_the_same_config_gives_the_same_scores(written, config, tmp_path):
    again = StudyView(write_study(config.model_copy(update={"runs_dir": tmp_path}), 120, items=False))
    assert [(each.x, each.scores, each.recipe) for each in again.candidates()] == [
        (each.x, each.scores, each.recipe) for each in written.candidates()
    ]
    assert not (again.folder.items / "000001.parquet").exists()


@pytest.mark.soak
def test_the_pages_are_measured(tmp_path, capsys):
    words = ["bench", "dashboard", "--json", "--candidates", "30", "--tasks", "2", "--repeat", "1", "--windows", "0"]
    assert main([*words, "--keep", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["candidates"], report["tasks"], report["dimensions"]) == (30, 2, 72)
    assert report["journal"] > 30 * 10_000
    assert {page["path"].split("?")[0] for page in report["pages"]} >= {"/", "/studies/large", "/compare"}
    for page in report["pages"]:
        assert 0 < page["first_byte"] <= page["whole"] < FOREVER
        assert page["size"] > 500
    assert 0 < report["cold"] < report["ready"] < FOREVER
    assert 0 < report["changed"] < FOREVER
    assert report["search"] is None
    if report["seen"] is not None:
        assert 0 < report["seen"]["first_byte"] < report["seen"]["listening"] < report["seen"]["usable"] < FOREVER
    assert len(StudyView(tmp_path / "large").candidates()) == 31  # the one that it was changed by


def test_what_a_search_loses_is_told():
    report = DashboardReport(
        machine=MACHINE,
        candidates=10_000,
        tasks=5,
        dimensions=72,
        journal=234_000_000,
        startup=1.5,
        cold=0.02,
        ready=9.25,
        memory=10**9,
        pages=(PageCost("/studies/large", 0.123, 0.2, 0.15, 12_345),),
        changed=0.25,
        seen=Seen(0.1, 0.2, 1.5),
        search=SearchCost(10, 6000.0, 5940.0, (0.01, -0.002, 0.022), 0.031, 0.001),
    )
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*dashboard_table(report), sep="\n")
    said = console.export_text()
    for part in (
        "10,000 candidates x 5 tasks",
        "first byte after 250 ms",
        "loss 1.0% [-0.2%, 2.2%]",
        "usable",
        "1.50 s",
    ):
        assert part in said
    assert json.loads(report.to_json())["search"]["loss"] == [0.01, -0.002, 0.022]


@pytest.mark.soak
def test_a_page_that_follows_costs_a_search_little():
    """Noise of the machine is wider than the loss, so its processor time is held to account."""
    search = bench_dashboard(20, 2, repeat=1, windows=4, seconds=15).search
    assert search is not None
    assert search.busy is not None
    assert search.idle is not None
    assert search.idle < 0.01
    assert search.busy < 0.1
    assert search.loss[1] < 0.02  # 2 % or more is not certain


def test_a_dashboard_that_does_not_start_says_why(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"did not start.*option"), serving(tmp_path, "--no-such-option"):
        pass


@pytest.mark.parametrize(("option", "value"), [("--candidates", "9"), ("--tasks", "0"), ("--windows", "-1")])
def test_options_out_of_range_are_one_line(option, value, capsys):
    assert main(["bench", "dashboard", option, value]) == 2
    assert f"out of range ({option})" in capsys.readouterr().err
