import json

from evomerge.cli import main


def search(config_dir, runs, *overrides: str) -> int:
    choices = ["models=tiny", "genome=tiny", "suite=tiny", "study=s", f"runs_dir={runs}"]
    return main(["search", "--config-dir", str(config_dir), *choices, *overrides])


def shown(runs, capsys) -> dict:
    capsys.readouterr()
    assert main(["show", "s", "--runs-dir", str(runs), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_from_a_config_to_a_checked_recipe(config_dir, tmp_path, capsys):
    runs = tmp_path / "runs"
    assert search(config_dir, runs, "budget.candidates=12", "workers.count=1") == 0
    document = shown(runs, capsys)
    assert document["state"] == "finished"
    assert [candidate["number"] for candidate in document["candidates"]] == list(range(12))
    print(json.dumps(document, indent=1)[:3000])
