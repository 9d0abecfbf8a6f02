"""nearswap against hand-worked cases and the distance that it moves entries by."""

import math

import pytest
import torch


@pytest.fixture
def sources():
    """A base and a model, (300,)."""
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(300, generator=generator)
    return base, base + 0.1 * torch.randn(300, generator=generator)


def expect(found, expected):
    torch.testing.assert_close(found.double(), torch.as_tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("base", "model", "t", "expected"),
    [
        ([0.0, 0.0, 0.0, 0.0], [0.5, -0.5, 2.0, -8.0], 1.0, [0.5, -0.5, 1.0, -1.0]),
        ([3.0, 3.0], [3.25, 7.0], 0.5, [3.25, 3.5]),
        ([0.0], [1e-7], 5e-7, [5e-8]),  # a distance below 1e-6 counts as that
        ([2.0], [5.0], 1.5, [3.5]),
        ([], [], 1.0, []),
    ],
)
def test_by_hand(merge_one, base, model, t, expected):
    expect(merge_one("nearswap", base, [model], t=t), expected)


def test_entries_move_by_t_at_most(merge_one, sources):
    base, model = sources
    delta = (model - base).double()
    expected = base.double() + delta.sign() * delta.abs().clamp(max=0.05)
    expect(merge_one("nearswap", base, [model], t=0.05), expected)


def test_ends_are_the_base_and_the_model(merge_one, sources):
    base, model = sources
    assert torch.equal(merge_one("nearswap", base, [model], t=0.0), base)
    assert torch.equal(merge_one("nearswap", base, [model], t=1e6), model)
    assert torch.equal(merge_one("nearswap", base, [base], t=0.01), base)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_a_bad_number_comes_through(merge_one, sources, bad, place):
    sources = [source.clone() for source in sources]
    sources[place][42] = bad
    finite = merge_one("nearswap", sources[0], sources[1:], t=0.01).isfinite()
    assert finite.sum() == 299
    assert not finite[42]
