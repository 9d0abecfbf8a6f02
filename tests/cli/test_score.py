import json

from evomerge.cli import main


def test_an_interval_without_end_is_null_in_json(tiny, family, capsys):
    """One document tells nothing of how much others differ."""
    words = ["suite=tiny", "suite.holdout.fraction=0.04", "--config-dir", str(tiny), "--split", "holdout", "--json"]
    assert main(["score", str(family / "base"), *words]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: name)
    assert found["items"] == {"choice": 1, "prose": 1}
    assert found["intervals"]["prose"] == [0.0, None]
    assert 0 <= found["intervals"]["choice"][0] < found["intervals"]["choice"][1] <= 1
