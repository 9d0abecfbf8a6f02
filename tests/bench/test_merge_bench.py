import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from evomerge.bench import floor
from evomerge.bench.machine import Machine
from evomerge.bench.merge import DiskCost, LiveCost, MethodCost, Report, bench_recipe
from evomerge.bench.process import run_merge
from evomerge.bench.synthetic import llama_config, llama_headers, parse_count, write_models
from evomerge.bench.table import bench_table
from evomerge.checkpoint import open_checkpoint
from evomerge.cli import main
from evomerge.errors import UsageError
from evomerge.merge import make_plan, open_sources
from evomerge.methods import METHODS


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"), 100_000, 3, torch.bfloat16)


@pytest.mark.parametrize(("text", "count"), [("350M", 350_000_000), ("1.4b", 1_400_000_000), ("100000", 100_000)])
def test_counts(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["abc", "", "-1M", "99K", "1T", "nan", "M"])
def test_what_is_no_count(text):
    with pytest.raises(UsageError, match="--params"):
        parse_count(text)


@pytest.mark.parametrize("count", [10**6, 10**7, 350 * 10**6, 1400 * 10**6, 7 * 10**9])
def test_a_model_has_about_the_parameters_asked_for(count):
    config = llama_config(count, torch.bfloat16)
    found = sum(math.prod(header.shape) for header in llama_headers(config, torch.bfloat16))
    assert found == pytest.approx(count, rel=0.05)
    assert config["num_hidden_layers"] > 2


def test_transformers_loads_a_synthetic_model_whole(models):
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(models[1].path, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert not found["mismatched_keys"]
    assert model.dtype == torch.bfloat16


def test_parents_are_small_steps_from_the_base_each_its_own_way(models):
    base, *parents = (load_file(Path(ref.path) / "model.safetensors") for ref in models)
    name = "model.layers.0.mlp.up_proj.weight"
    deltas = torch.stack([(parent[name].float() - base[name].float()).flatten() for parent in parents])
    assert base[name].float().std().item() == pytest.approx(0.02, rel=0.05)
    torch.testing.assert_close(deltas.std(dim=1), torch.full((3,), 0.002), rtol=0.05, atol=0)
    noise = torch.corrcoef(torch.cat([deltas, base[name].float().flatten()[None]])) - torch.eye(4)
    assert noise.abs().max() < 0.05
    assert base["model.norm.weight"].eq(1).all()


def test_the_same_models_every_time(models, tmp_path):
    again = write_models(tmp_path, 100_000, 1, torch.bfloat16)
    for known, new in zip(models, again, strict=False):
        assert (Path(known.path) / "model.safetensors").read_bytes() == (
            Path(new.path) / "model.safetensors"
        ).read_bytes()


@pytest.mark.parametrize("method", METHODS.values(), ids=list(METHODS))
def test_every_method_has_a_recipe_that_can_be_planned(method, models):
    recipe = bench_recipe(method, models, torch.bfloat16)
    plan = make_plan(recipe, open_sources(recipe))
    used = len(recipe.models_used) - (recipe.base_model is not None)
    assert method.min_models <= used
    assert used == 3 if method.max_models is None else used <= method.max_models
    assert len(plan.tensors) == len(open_checkpoint(models[0]).headers)


def test_the_disk_floor_reads_every_source_byte_once_and_writes_those_of_one_model(models, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(floor, "_read", lambda tensor: read.append(tensor.nbytes))
    nbytes = sum(header.nbytes for header in open_checkpoint(models[0]).headers.values())
    written = []
    monkeypatch.setattr(floor.os, "fsync", lambda descriptor: written.append(floor.os.fstat(descriptor).st_size))
    assert floor.disk_floor(models[:3], tmp_path / "floor") > 0
    assert sum(read) == 2 * nbytes  # the third model is read as it is written
    assert written == [nbytes]
    assert not (tmp_path / "floor").exists()


def test_the_memory_floor_reads_every_source_byte_once_and_writes_the_parameters(monkeypatch):
    read = []
    monkeypatch.setattr(floor, "_read", lambda tensor: read.append(tensor.nbytes))
    sources = [torch.full((64,), value) for value in (1.0, 2.0, 3.0)]
    target = torch.zeros(64)
    floor.memory_floor([(sources, target)], torch.device("cpu"))
    assert sum(read) == 2 * 256
    assert target.eq(1.0).all()


def test_a_merge_in_a_process_of_its_own_is_timed_in_its_parts(models, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(bench_recipe(METHODS["linear"], models, torch.bfloat16).to_yaml(), encoding="utf-8")
    run = run_merge([str(recipe), str(tmp_path / "out"), "--compile", "never"])
    assert run.startup > 0.1  # torch was imported before weights were read
    assert run.seconds > 0
    assert run.floor is None
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert run.anonymous is None or run.anonymous > 10**7


def test_the_floor_of_a_merge_is_measured_in_its_process(models, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(bench_recipe(METHODS["linear"], models, torch.bfloat16).to_yaml(), encoding="utf-8")
    run = run_merge([str(recipe), str(tmp_path / "out"), "--compile", "never"], tmp_path / "floor")
    assert run.floor is not None
    assert 0 < run.floor < run.startup
    assert run.seconds > 0
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "floor").exists()


def test_a_merge_that_fails_says_how(tmp_path):
    with pytest.raises(UsageError, match=r"missing\.yaml"):
        run_merge([str(tmp_path / "missing.yaml"), str(tmp_path / "out")])


@pytest.mark.soak
def test_bench_merge_from_the_command_line(capsys, tmp_path):
    words = ["bench", "merge", "--params", "1M", "--parents", "2", "--methods", "linear,ties"]
    assert main([*words, "--repeat", "1", "--compile", "never", "--json", "--keep", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["parameters"] == pytest.approx(10**6, rel=0.05)
    assert report["machine"]["cores"] >= 1
    assert report["startup"] > 0
    assert report["import_torch"] > 0
    linear, ties = report["methods"]
    assert (linear["method"], linear["models"]) == ("linear", 2)
    assert (ties["method"], ties["models"]) == ("ties", 3)
    assert ties["parameters"] == {"weight": 0.5, "density": 0.5}
    for cost in (linear, ties):
        moved = (cost["models"] + 1) * 2 * report["parameters"]
        for way in ("disk", "live"):
            found = cost[way]
            assert found["ratio"] == pytest.approx(found["seconds"] / found["floor"])
            assert found["gbps"] * found["seconds"] == pytest.approx(moved / 1e9)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "parent-1", "parent-2"]


def test_the_table_has_ratios_to_the_floor(capsys):
    machine = Machine("a processor", 2, 8 * 2**30, None, "Linux 6", "3.11", "2.13", 2)
    disk = DiskCost(startup=1.5, first=4.5, seconds=3.0, floor=2.0, gbps=1.25, anonymous=123 * 10**6)
    live = LiveCost(first=0.9, seconds=0.25, floor=0.2, gbps=14.0)
    cost = MethodCost("breadcrumbs_ties", {"density": 0.5}, 4, disk, live)
    report = Report(machine, 350 * 10**6, 3, "bfloat16", 3, "always", 1.5, 1.2, (cost,))
    console = Console(width=80)
    console.print(*bench_table(report))
    said = capsys.readouterr().out
    row = next(line.split() for line in said.splitlines() if line.strip().startswith("breadcrumbs_ties"))
    assert row == ["breadcrumbs_ties", "4", "4.50", "3.00", "1.50", "1.25", "123", "0.90", "0.250", "1.25", "14.0"]
    assert "1.25 x `python -c 'import torch'`" in " ".join(said.split())
    assert "a processor, 2 cores, 8 GiB" in said


def test_models_that_were_kept_are_not_written_over(models, capsys):
    folder = Path(models[0].path).parent
    before = sorted(path.name for path in folder.iterdir())
    assert main(["bench", "merge", "--params", "100K", "--keep", str(folder)]) == 2
    assert "output exists" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_an_interrupted_bench_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    def interrupted(folder, *arguments):
        (folder / "base").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("evomerge.bench.merge.write_models", interrupted)
    assert main(["bench", "merge", "--params", "100K"]) == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--params", "abc"], "--params"),
        (["--params", "1000B"], "disk full"),
        (["--methods", "linear,tyes"], "'ties'"),
        (["--parents", "0"], "--parents"),
        (["--parents", "1", "--methods", "model_stock"], "too few parents"),
        (["--repeat", "0"], "--repeat"),
        (["--device", "abacus"], "abacus"),
    ],
)
def test_wrong_usage_of_the_bench_is_one_line(words, told, capsys):
    assert main(["bench", "merge", *words]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert told in said


@pytest.mark.parametrize("words", [["--dtype", "int8"], ["--repeat", "x"], ["--compile", "maybe"]])
def test_what_argparse_refuses_is_one_line_too(words, capsys):
    with pytest.raises(SystemExit) as ending:
        main(["bench", "merge", *words])
    assert ending.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
