import json

from evomerge.cli import main


def test_a_score_that_nothing_is_certain_of_has_no_interval_in_json(tiny, family, capsys):
    """One document tells nothing of how much others differ."""
    words = ["suite=tiny", "suite.holdout.fraction=0.04", "--config-dir", str(tiny), "--split", "holdout", "--json"]
    assert main(["score", str(family / "base"), *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["items"] == {"choice": 1, "prose": 1}
    assert list(found["intervals"]) == ["choice"]
    assert 0 <= found["intervals"]["choice"][0] < found["intervals"]["choice"][1] <= 1
