import math

import numpy as np
import pytest
import torch

from evomerge.methods import _magnitudes
from evomerge.methods._magnitudes import count_magnitudes, norm_ratio, quantiles

CPU = torch.device("cpu")
COARSEST = 2.0**-11  # of a bin's width to its lower edge
DENORMAL = 2.0**-137  # of the bins below the least normal number


def sources(kind, count):
    generator = torch.Generator().manual_seed(count)
    base = torch.randn(count, generator=generator)
    delta = torch.randn(count, generator=generator) * 0.01
    if kind == "bfloat16":
        return base.bfloat16(), (base + delta).bfloat16()
    if kind == "sparse":
        delta[torch.rand(count, generator=generator) < 0.9] = 0
    if kind == "equal":
        delta[:] = 0.5
        base[:] = 1.0
    if kind == "denormal":
        base[:] = 0
        delta = delta * 1e-38
    return base, base + delta


def descending(base, model):
    return np.sort(np.abs(model.float().numpy() - base.float().numpy()))[::-1]


def ranks(count):
    return sorted({1, *(max(1, int(share * count)) for share in (0.1, 0.29, 0.5, 0.999)), count})


KINDS = pytest.mark.parametrize("kind", ["float32", "bfloat16", "sparse", "equal", "denormal"])


@KINDS
@pytest.mark.parametrize("count", [1, 7, 1000, 1 << 16])
def test_up_to_a_size_order_statistics_are_exact(kind, count):
    base, model = sources(kind, count)
    magnitudes = quantiles((base, model), (count,), CPU)
    expected = descending(base, model)
    for rank in ranks(count):
        assert magnitudes.threshold(rank) == magnitudes.ceiling(rank) == expected[rank - 1]
    assert magnitudes.nonzero == np.count_nonzero(expected)


@KINDS
@pytest.mark.parametrize("count", [1, 7, 70_001, 1_000_003])
def test_beyond_it_the_bounds_close_in_on_the_exact_value(monkeypatch, kind, count):
    monkeypatch.setattr(_magnitudes, "EXACT_UP_TO", 0)
    base, model = sources(kind, count)
    magnitudes = quantiles((base, model), (count,), CPU)
    expected = descending(base, model)
    for rank in ranks(count):
        low, exact, high = magnitudes.threshold(rank), expected[rank - 1], magnitudes.ceiling(rank)
        assert low <= exact <= high
        assert high - low < max(COARSEST * low, DENORMAL)
        assert magnitudes.exact(rank, lambda piece: model[piece].float() - base[piece].float(), CPU) == exact
    if kind != "denormal":
        assert magnitudes.nonzero == np.count_nonzero(expected)


def test_a_bin_lies_wholly_between_its_bounds():
    inside = torch.tensor([1.0, 1.0 + 2.0**-11 - 2.0**-23])  # the first and the last number of one bin
    outside = torch.tensor([1.0 - 2.0**-24, 1.0 + 2.0**-11])
    values = torch.cat([inside, outside]).repeat(20_000)
    magnitudes = count_magnitudes(80_000, lambda piece: values[piece].clone(), CPU)
    for rank in (20_001, 60_000):  # 20,000 are larger, 20,000 smaller
        assert [magnitudes.threshold(rank), magnitudes.ceiling(rank)] == inside.tolist()
    assert magnitudes.threshold(20_000) == outside[1]
    assert magnitudes.ceiling(60_001) == outside[0]


def test_bounds_of_bfloat16_task_vectors_are_almost_always_exact():
    base, model = sources("bfloat16", 200_000)
    magnitudes, expected = quantiles((base, model), (200_000,), CPU), descending(base, model)
    assert np.mean([magnitudes.threshold(rank) == expected[rank - 1] for rank in range(1, 200_000, 997)]) > 0.99


def test_what_is_kept_hardly_grows_with_the_tensor():
    small, large = (quantiles(sources("float32", count), (count,), CPU) for count in (1 << 17, 1 << 21))
    nbytes = [each.bins.nbytes + each.upto.nbytes for each in (small, large)]
    assert max(nbytes) < 250_000
    assert nbytes[1] < 2 * nbytes[0]


def test_an_empty_tensor_has_no_magnitudes():
    magnitudes = quantiles((torch.empty(0), torch.empty(0)), (0,), CPU)
    assert (magnitudes.threshold(1), magnitudes.ceiling(1), magnitudes.nonzero) == (0.0, 0.0, 0)
    assert magnitudes.exact(1, lambda piece: torch.empty(0), CPU) == 0.0


@pytest.mark.parametrize("exact_up_to", [0, 1 << 16])
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_bad_numbers_are_the_largest(monkeypatch, exact_up_to, bad):
    monkeypatch.setattr(_magnitudes, "EXACT_UP_TO", exact_up_to)
    magnitudes = quantiles((torch.zeros(3), torch.tensor([1.0, bad, 2.0])), (3,), CPU)
    assert not math.isfinite(magnitudes.threshold(1))
    assert [magnitudes.threshold(2), magnitudes.threshold(3)] == [2.0, 1.0]


def test_norm_ratio_by_hand():
    base, model = torch.zeros(4), torch.tensor([1.0, -2.0, 3.0, -4.0])
    assert norm_ratio(base, model, 3.0, math.inf, CPU) == pytest.approx(10 / 7)
    assert norm_ratio(base, model, 2.0, 3.0, CPU) == 2.0
    assert norm_ratio(base, model, 5.0, math.inf, CPU) == 1.0
    assert norm_ratio(base, base, 0.0, math.inf, CPU) == 1.0
    assert norm_ratio(torch.empty(0), torch.empty(0), 0.0, math.inf, CPU) == 1.0


def test_statistics_do_not_depend_on_the_number_of_threads():
    generator = torch.Generator().manual_seed(0)
    base, model = (torch.randn(900_001, generator=generator) for _ in range(2))

    def found():
        magnitudes = quantiles((base, model), base.shape, CPU)
        return norm_ratio(base, model, 0.7, 1.4, CPU), magnitudes.bins.tolist(), magnitudes.upto.tolist()

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = found()
        for count in (2, 3):
            torch.set_num_threads(count)
            assert found() == alone
    finally:
        torch.set_num_threads(threads)
