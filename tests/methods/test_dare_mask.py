import hashlib
import math

import pytest
import torch

from evomerge.methods._dare import kept, limit, salt

COUNT = 1 << 18


def mask(seed, number, tensor, density, start=0, count=COUNT):
    """Which of `count` elements from `start` are kept; they must not cross a multiple of 2**32."""
    block, low = divmod(start, 2**32)
    places = torch.arange(low, low + count).to(torch.int32)  # the low 32 bits, as a signed number
    word = torch.tensor(salt(seed, number, tensor, block), dtype=torch.int32)
    return kept(places, word, torch.tensor(limit(density)))


def words(key, elements):
    """The hash, written out in Python's own unsigned integers; as signed ones."""

    def scramble(word):
        word = (word ^ (word >> 16)) * 0x21F0AAAD % 2**32
        word = (word ^ (word >> 15)) * 0x735A2D97 % 2**32
        return word ^ (word >> 15)

    found = [scramble((element % 2**32) ^ scramble(scramble(element >> 32) ^ key)) for element in elements]
    return [word - 2**32 if word >= 2**31 else word for word in found]


@pytest.mark.parametrize("start", [0, 12345, 2**31 - 32, 2**32 - 64, 2**32, 5 * 2**32 + 7])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.99])
def test_the_mask_is_the_hash_of_the_place(start, density):
    name = "model.layers.0.mlp.up_proj.weight"
    key = int.from_bytes(hashlib.blake2b(f"7\0002\0{name}".encode(), digest_size=4).digest(), "little")
    expected = [(word + 2**31) / 2**32 < density for word in words(key, range(start, start + 64))]
    assert mask(7, 2, name, density, start, 64).tolist() == expected


def test_masks_stay_as_they_are_over_versions():
    assert "".join(str(int(keep)) for keep in mask(0, 1, "x", 0.5, count=24)) == "011101011011101101000110"


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_share_kept_is_binomial(density, seed):
    share = mask(seed, 1, "x", density).double().mean().item()
    assert abs(share - density) < 4 * math.sqrt(density * (1 - density) / COUNT)


@pytest.mark.parametrize("other", [(1, 1, "x"), (0, 2, "x"), (0, 1, "y")])
def test_seed_model_and_tensor_each_give_another_independent_mask(other):
    one, two = (mask(*names, 0.5).double() for names in ((0, 1, "x"), other))
    assert abs((one * two).mean().item() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / COUNT)


def test_neighbours_are_independent():
    kept_ = mask(0, 1, "x", 0.5).double()
    for distance in (1, 2, 3, 64, 1024):
        both = (kept_[distance:] * kept_[:-distance]).mean().item()
        assert abs(both - 0.25) < 4 * math.sqrt(0.25 * 0.75 / COUNT)


def test_a_larger_density_keeps_what_a_smaller_one_keeps():
    small, large = (mask(0, 1, "x", density, count=4096) for density in (0.3, 0.6))
    assert not (small & ~large).any()
    assert mask(0, 1, "x", 1.0, count=4096).all()


def test_the_expected_task_vector_is_the_whole_one():
    density = 0.25
    rescaled = mask(3, 1, "x", density).double() / density
    assert abs(rescaled.mean().item() - 1.0) < 4 * math.sqrt((1 - density) / density / COUNT)
