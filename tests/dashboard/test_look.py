"""The colours of all pages, by the contrast that WCAG 2.2 asks for."""

import itertools
import re

import pytest

from evomerge.dashboard.rendering import SHARED

TEXT, SHAPE = 4.5, 3.0  # AA: of text, and of what else one has to see
_COLOUR = re.compile(r"--([\w-]+): (#[0-9a-f]{6})")


def schemes() -> dict[str, dict[str, str]]:
    css = (SHARED / "app.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]
    return {"light": dict(_COLOUR.findall(light)), "dark": dict(_COLOUR.findall(light)) | dict(_COLOUR.findall(dark))}


def luminance(colour: str) -> float:
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def test_the_contrast_of_black_and_white_is_21():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_have_the_same_colours(scheme):
    assert schemes()[scheme].keys() == schemes()["light"].keys() >= {"ink", "soft", "page", "panel"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "ink, ground",
    [
        *itertools.product(["ink", "soft", "accent", "good", "bad"], ["page", "panel", "sunk"]),
        *itertools.product(["ink"], ["accent-sunk", "good-sunk", "bad-sunk", "warn-sunk"]),
        *itertools.product(["soft", "good", "bad"], ["accent-sunk"]),  # in a row that stands out
        *itertools.product(["accent"], ["accent-sunk", "good-sunk", "bad-sunk", "warn-sunk"]),
        ("on-accent", "accent"),
    ],
)
def test_text_is_readable(scheme, ink, ground):
    colours = schemes()[scheme]
    assert contrast(colours[ink], colours[ground]) >= TEXT


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("shape, ground", [("edge", "panel"), ("edge", "sunk"), ("accent", "sunk"), ("accent", "page")])
def test_edges_bars_and_focus_can_be_seen(scheme, shape, ground):
    colours = schemes()[scheme]
    assert contrast(colours[shape], colours[ground]) >= SHAPE
