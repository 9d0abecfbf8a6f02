import pytest

from evomerge.study.filters import FILTERS


@pytest.mark.parametrize(
    "name, value, text",
    [
        ("number", 0.12345, "0.1235"),
        ("number", None, "–"),
        ("short", 1.0, "1"),
        ("short", -12.34567, "-12.35"),
        ("interval", (0.1, 0.25), "[0.1000, 0.2500]"),
        ("interval", None, ""),
        ("margin", -0.1, "+10.0 %"),
        ("margin", 0.031, "−3.1 %"),
        ("margin", 0.0, "+0.0 %"),
        ("gate", ">= 0.98 x best_parent", "≥ 0.98 × best parent"),
        ("gate", "<= 1.05 x base with confidence 0.95", "≤ 1.05 × base with confidence 0.95"),
        ("count", 1234567, "1,234,567"),
        ("count", 17027.4, "17,027"),
        ("count", None, "–"),
        ("size", 0, "0 B"),
        ("size", 999, "999 B"),
        ("size", 1000, "1 kB"),
        ("size", 2_390_000, "2.39 MB"),
        ("size", 16_060_000_000, "16.1 GB"),
        ("size", 1.4e12, "1.4 TB"),
        ("duration", 3.21, "3.2 s"),
        ("duration", 48.4, "48 s"),
        ("duration", 7500.0, "2 h 05 min"),
        ("duration", None, "–"),
        ("moment", "2026-11-22T08:26:02+00:00", "2026-11-22 08:26 UTC"),
        ("moment", None, "–"),
        ("sentence", "no such study", "No such study"),
        ("sentence", "", ""),
        ("breakable", "weight.layers_0_2.<b>", "weight.<wbr>layers_0_2.<wbr>&lt;b&gt;"),
    ],
)
def test_how_values_read(name, value, text):
    assert FILTERS[name](value) == text
