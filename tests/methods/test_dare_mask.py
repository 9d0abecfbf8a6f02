import math

import pytest
import torch

from evomerge.methods._dare import kept, key

CPU = torch.device("cpu")
COUNT = 1 << 18


def words(key, elements):
    """The hash, written out in Python's own integers."""

    def scramble(word):
        word = (word ^ (word >> 16)) * 0x21F0AAAD % 2**32
        word = (word ^ (word >> 15)) * 0x735A2D97 % 2**32
        return word ^ (word >> 15)

    return [scramble((element % 2**32) ^ scramble(scramble(element >> 32) ^ key)) for element in elements]


@pytest.mark.parametrize("offset", [0, 12345, 2**32 - 64, 2**32, 5 * 2**32 + 7])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.99])
def test_the_mask_is_the_hash_of_the_place(offset, density):
    number = key(7, 2, "model.layers.0.mlp.up_proj.weight")
    expected = [word / 2**32 < density for word in words(number, range(offset, offset + 64))]
    assert kept(number, density, offset, 64, CPU).tolist() == expected


def test_masks_stay_as_they_are_over_versions():
    mask = kept(key(0, 1, "x"), 0.5, 0, 24, CPU)
    assert "".join(str(int(keep)) for keep in mask) == "100010100100010010111001"


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_share_kept_is_binomial(density, seed):
    share = kept(key(seed, 1, "x"), density, 0, COUNT, CPU).double().mean().item()
    assert abs(share - density) < 4 * math.sqrt(density * (1 - density) / COUNT)


@pytest.mark.parametrize("other", [(1, 1, "x"), (0, 2, "x"), (0, 1, "y")])
def test_seed_model_and_tensor_each_give_another_independent_mask(other):
    one, two = (kept(key(*names), 0.5, 0, COUNT, CPU).double() for names in ((0, 1, "x"), other))
    assert abs((one * two).mean().item() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / COUNT)


def test_neighbours_are_independent():
    mask = kept(key(0, 1, "x"), 0.5, 0, COUNT, CPU).double()
    for distance in (1, 2, 3, 64, 1024):
        both = (mask[distance:] * mask[:-distance]).mean().item()
        assert abs(both - 0.25) < 4 * math.sqrt(0.25 * 0.75 / COUNT)


def test_a_larger_density_keeps_what_a_smaller_one_keeps():
    small, large = (kept(key(0, 1, "x"), density, 0, 4096, CPU) for density in (0.3, 0.6))
    assert not (small & ~large).any()
    assert kept(key(0, 1, "x"), 1.0, 0, 4096, CPU).all()


def test_the_expected_task_vector_is_the_whole_one():
    density = 0.25
    rescaled = kept(key(3, 1, "x"), density, 0, COUNT, CPU).double() / density
    assert abs(rescaled.mean().item() - 1.0) < 4 * math.sqrt((1 - density) / density / COUNT)
