import hashlib
import math
from dataclasses import replace

import pytest
import torch

from evomerge.errors import RecipeError
from evomerge.methods import _della
from evomerge.methods._dare import salt
from evomerge.methods._della import DELLA, DELLA_LINEAR, kept, rank, steps_of_bytes

CPU = torch.device("cpu")
ROWS, COLUMNS = 512, 1024


def uniform(seed, number, tensor, count, start=0):
    """The hash of each place as a number in [0, 1) of 24 bits, written out in Python's own unsigned integers."""

    def scramble(word):
        word = (word ^ (word >> 16)) * 0x21F0AAAD % 2**32
        word = (word ^ (word >> 15)) * 0x735A2D97 % 2**32
        return word ^ (word >> 15)

    key = int.from_bytes(hashlib.blake2b(f"{seed}\0{number}\0{tensor}".encode(), digest_size=4).digest(), "little")
    places = range(start, start + count)
    return [(scramble((place % 2**32) ^ scramble(scramble(place >> 32) ^ key)) >> 8) / 2**24 for place in places]


def expected_chances(delta, density, epsilon):
    """Row by row, by sorting (magnitude, place)."""
    found = []
    for row in delta.tolist():
        order = sorted(range(len(row)), key=lambda place: (abs(row[place]), place))
        step = 2 * epsilon / max(1, len(row) - 1)
        of = {place: density - epsilon + rank * step for rank, place in enumerate(order)}
        found.append([of[place] if len(row) > 1 else density for place in range(len(row))])
    return torch.tensor(found, dtype=torch.float64)


@pytest.fixture(scope="module")
def delta():
    return torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def thinned(operands, merge_operands):
    """thinned(delta, cuts=(), **settings): the task vector of one model of weight 1, thinned; flat."""

    def thinned(delta, cuts=(), **settings):
        given = operands("della_linear", torch.zeros_like(delta), [delta], weight=1.0, **settings)
        return merge_operands("della_linear", given, cuts)

    return thinned


@pytest.mark.parametrize("shape", [(3, 50), (1, 7), (9,), (4, 1), (2, 3, 5), (1,), (), (2, 300), (1, 70_000)])
@pytest.mark.parametrize("rescale", [True, False])
def test_the_mask_is_the_hash_of_the_place_against_the_chance_of_the_rank(shape, rescale, thinned):
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 2
    chance = expected_chances(delta.reshape(-1, shape[-1] if shape else 1), 0.6, 0.3).view(-1)
    keep = torch.tensor(uniform(9, 1, "x", delta.numel()), dtype=torch.float64) < chance
    expected = keep * delta.double().view(-1) / (chance if rescale else 1.0)
    found = thinned(delta, density=0.6, epsilon=0.3, random_seed=9, rescale=rescale)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def test_places_beyond_32_bits_have_a_mask_of_their_own(thinned):
    expected = [word < 0.5 for word in uniform(3, 2, "x", 40, 5 * 2**32)]
    found = thinned(torch.ones(40), density=0.5, epsilon=0.0, random_seed=3, numbers=(2,), block=5)
    assert (found != 0).tolist() == expected
    index = torch.arange(2**32 - 40, 2**32).to(torch.int32)
    salt_ = torch.tensor(salt(3, 2, "x", 5), dtype=torch.int32)
    expected = [word < 0.5 for word in uniform(3, 2, "x", 40, 6 * 2**32 - 40)]
    assert kept(index, salt_, torch.full((40,), 0.5)).tolist() == expected


def test_of_equal_magnitudes_the_earlier_has_the_lower_rank():
    model = torch.tensor([2.0, -1.0, 1.0, -2.0, 0.0, 0.0])
    assert rank(torch.zeros(6), model, 6, slice(0, 1), CPU).tolist() == [[4, 2, 3, 5, 0, 1]]


@pytest.mark.parametrize("density", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_share_kept_is_binomial_overall_and_in_each_quarter_of_ranks(density, seed, delta, thinned):
    epsilon = 0.15
    keep = (thinned(delta, density=density, epsilon=epsilon, random_seed=seed) != 0).view(ROWS, COLUMNS)
    by_rank = keep.gather(1, delta.abs().argsort(dim=1)).double()
    for part, middle in [(by_rank, 0.0), *zip(by_rank.chunk(4, dim=1), (-0.75, -0.25, 0.25, 0.75), strict=True)]:
        expected = density + middle * epsilon
        bound = 4 * math.sqrt(expected * (1 - expected) / part.numel()) + epsilon / COLUMNS
        assert abs(part.mean().item() - expected) < bound


def test_the_expected_task_vector_is_the_whole_one(delta, thinned):
    density, epsilon = 0.4, 0.3
    growth = (thinned(delta, density=density, epsilon=epsilon).view(ROWS, COLUMNS) / delta).double()
    by_rank = growth.gather(1, delta.abs().argsort(dim=1))
    for part, chance in zip(by_rank.chunk(8, dim=1), torch.linspace(0.1, 0.7, COLUMNS).chunk(8), strict=True):
        deviation = math.sqrt(((1 - chance) / chance).mean().item() / part.numel())
        assert abs(part.mean().item() - 1.0) < 4 * deviation


def test_without_epsilon_every_entry_has_the_same_chance(delta, thinned):
    found = thinned(delta, density=0.25, epsilon=0.0).view(ROWS, COLUMNS)
    torch.testing.assert_close(found, torch.where(found == 0, 0.0, delta * 4))


def test_density_one_keeps_everything(delta, thinned):
    assert torch.equal(thinned(delta, density=1.0), delta.view(-1))


@pytest.mark.parametrize("shape", [(70, 33), (2310,), (3, 770)])
def test_any_pieces_blocks_and_threads_give_the_same_bits(monkeypatch, shape, thinned):
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    settings = {"density": 0.5, "epsilon": 0.2}
    expected = thinned(delta, **settings)
    threads = torch.get_num_threads()
    try:
        for block, cuts, count in [(1, (1,), 1), (100, (32, 33, 34), 2), (1 << 17, (64, 1024, 2309), 3)]:
            monkeypatch.setattr(_della, "_BLOCK", block)
            torch.set_num_threads(count)
            assert torch.equal(thinned(delta, cuts, **settings), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", [(70, 33), (3, 300), (1, 70_000)])
@pytest.mark.parametrize("name", ["della", "della_linear"])
def test_ranks_that_are_known_give_the_same_bits(name, shape, operands, merge_operands):
    base, *models = torch.randn(3, *shape, generator=torch.Generator().manual_seed(3)).bfloat16()
    given = operands(name, base, models, weight=0.7, density=[0.5, 0.3], epsilon=0.2)
    sizes = []

    def known(statistic, nbytes, *places):
        found = given.measure(statistic, *places)
        sizes.append((nbytes, found.nbytes))
        return found

    expected = merge_operands(name, given)
    assert torch.equal(merge_operands(name, replace(given, measure_large=known), (1, 40, 2000)), expected)
    assert len(sizes) == 2
    assert all(told == found for told, found in sizes)


@pytest.mark.parametrize("columns", [2, 300, 4096, 65_536, 10**6])
@pytest.mark.parametrize("epsilon", [0.15, 0.0123456789, 1e-6])
def test_chances_are_the_same_whether_products_are_rounded_or_not(columns, epsilon):
    step, width = 2 * epsilon / (columns - 1), -(-(columns - 1).bit_length() // 8)
    steps = steps_of_bytes(step, width)
    products = torch.arange(256.0)[:, None] * torch.tensor(steps)
    assert torch.equal(
        products.double(), torch.arange(256.0, dtype=torch.float64)[:, None] * torch.tensor(steps).double()
    )
    for power in range(width):
        assert steps[power] + steps[width + power] == pytest.approx(step * 256**power, rel=2.0**-30)


def test_a_row_in_many_pieces_is_ranked_once(monkeypatch, thinned):
    calls = []
    monkeypatch.setattr(_della, "rank", lambda *args: calls.append(args) or rank(*args))
    thinned(torch.randn(1000), (100, 200, 300), density=0.5)
    assert len(calls) == 1


def test_models_and_seeds_have_masks_of_their_own(delta, thinned):
    masks = [
        thinned(delta, density=0.5, epsilon=0.0, random_seed=seed, numbers=(number,)) != 0
        for seed, number in ((0, 1), (1, 1), (0, 2))
    ]
    for other in masks[1:]:
        both = (masks[0] & other).double().mean().item()
        assert abs(both - 0.25) < 4 * math.sqrt(0.25 * 0.75 / delta.numel())


@pytest.mark.parametrize("method", [DELLA, DELLA_LINEAR], ids=lambda method: method.name)
@pytest.mark.parametrize(
    ("density", "epsilon", "bound"), [(0.9, 0.1, 0.1), (0.85, 0.15, 0.15), (0.9, 0.15, 0.1), (0.25, 0.25, 0.25)]
)
def test_chances_outside_zero_to_one_are_refused(method, density, epsilon, bound):
    expected = (
        rf"epsilon too large for the density \(slices\[0\]\): expected density - epsilon and density \+ epsilon in "
        rf"\(0, 1\), found density {density}, epsilon {epsilon}; set epsilon below {bound}$"
    )
    with pytest.raises(RecipeError, match=expected):
        method.check({}, {"density": (0.5, density), "epsilon": (0.15, epsilon)}, "slices[0]")


def test_chances_within_zero_to_one_are_allowed():
    DELLA.check({}, {"density": (1.0, 0.84, 0.2), "epsilon": (0.4, 0.15, 0.19)}, "x")


@pytest.mark.parametrize("method", [DELLA, DELLA_LINEAR], ids=lambda method: method.name)
def test_all_that_a_search_takes_unless_told_otherwise_is_allowed(method):
    bounds = {each.name: each.search for each in method.parameters}
    for density in bounds["density"]:
        for epsilon in (*bounds["epsilon"], 0.15):
            method.check({}, {"density": (density,), "epsilon": (epsilon,)}, "x")
