import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from evomerge.methods import _magnitudes
from evomerge.methods._magnitudes import in_order, norm_ratio, of_ranks, quantiles, task_vector

CPU = torch.device("cpu")


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
    if kind == "alike":  # as after one step of Adam: of nearly one size
        delta = (1e-3 + 1e-8 * delta) * delta.sign()
    if kind == "denormal":
        base[:] = 0
        delta = delta * 1e-38
    return base, base + delta


def descending(base, model):
    return np.sort(np.abs(model.float().numpy() - base.float().numpy()))[::-1]


def ranks(count):
    return sorted({1, *(max(1, int(share * count)) for share in (0.1, 0.29, 0.5, 0.999)), count})


KINDS = ["float32", "bfloat16", "sparse", "equal", "alike", "denormal"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 7, 1000, 1 << 16, 70_001, 1_000_003])
def test_magnitudes_of_all_ranks_are_exact(kind, count):
    base, model = sources(kind, count)
    magnitudes = quantiles((base, model), (count,), CPU)
    expected = descending(base, model)
    for rank in ranks(count):
        assert magnitudes.of_rank(rank, task_vector(base, model, CPU), CPU) == expected[rank - 1]
    if kind != "denormal" or not magnitudes.binned:
        assert magnitudes.nonzero == np.count_nonzero(expected)


@pytest.mark.parametrize("sorted_up_to", [0, 1 << 16])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3, 40])
def test_few_magnitudes_are_as_exact_in_bins(monkeypatch, sorted_up_to, kind, count):
    monkeypatch.setattr(_magnitudes, "SORTED_UP_TO", sorted_up_to)
    base, model = sources(kind, count)
    magnitudes = quantiles((base, model), (count,), CPU)
    values = task_vector(base, model, CPU)
    assert [magnitudes.of_rank(rank + 1, values, CPU) for rank in range(count)] == descending(base, model).tolist()


def test_all_ranks_of_bfloat16_task_vectors_are_known_from_one_pass():
    base, model = sources("bfloat16", 200_000)
    magnitudes, expected = quantiles((base, model), (200_000,), CPU), descending(base, model)
    assert not magnitudes.binned
    for rank in range(1, 200_001, 997):
        assert magnitudes.of_rank(rank, lambda piece: pytest.fail("a second pass"), CPU) == expected[rank - 1]


def test_a_bin_is_looked_into_once():
    base, model = sources("float32", 100_000)
    magnitudes, passes = quantiles((base, model), (100_000,), CPU), []

    def values(piece):
        passes.append(piece)
        return task_vector(base, model, CPU)(piece)

    first = magnitudes.of_rank(50_000, values, CPU)
    count = len(passes)
    assert [magnitudes.of_rank(50_000, values, CPU) for _ in range(2)] == [first, first]
    assert len(passes) == count > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1000, 100_003])
def test_magnitudes_that_are_kept_in_order_tell_the_same(kind, count, operands):
    base, model = sources(kind, count)
    given = operands("ties", base, [model], weight=1.0)
    kept = replace(given, measure_large=lambda statistic, nbytes, *places: given.measure(statistic, *places))
    expected = descending(base, model)
    wanted = ranks(count)
    assert of_ranks(kept, 0, *wanted) == of_ranks(given, 0, *wanted) == [expected[rank - 1] for rank in wanted]
    assert in_order((base, model), (count,), CPU).nbytes == 4 * count


def test_what_is_kept_hardly_grows_with_the_tensor_or_with_what_is_asked():
    nbytes = []
    for count in (1 << 17, 1 << 19):
        base, model = sources("float32", count)
        magnitudes, values = quantiles((base, model), (count,), CPU), task_vector(base, model, CPU)
        for rank in range(1, count, count // 20):
            magnitudes.of_rank(rank, values, CPU)
        every = (magnitudes.bits, magnitudes.upto, *magnitudes.inside.values())
        nbytes.append(sum(each.nbytes for each in every))
    assert max(nbytes) < 400_000
    assert nbytes[1] < 2 * nbytes[0]


def test_an_empty_tensor_has_no_magnitudes():
    base, model = torch.empty(0), torch.empty(0)
    magnitudes = quantiles((base, model), (0,), CPU)
    assert (magnitudes.of_rank(1, task_vector(base, model, CPU), CPU), magnitudes.nonzero) == (0.0, 0)


@pytest.mark.parametrize("sorted_up_to", [0, 1 << 16])
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_bad_numbers_are_the_largest(monkeypatch, sorted_up_to, bad):
    monkeypatch.setattr(_magnitudes, "SORTED_UP_TO", sorted_up_to)
    base, model = torch.zeros(3), torch.tensor([1.0, bad, 2.0])
    magnitudes, values = quantiles((base, model), (3,), CPU), task_vector(base, model, CPU)
    assert not math.isfinite(magnitudes.of_rank(1, values, CPU))
    assert [magnitudes.of_rank(rank, values, CPU) for rank in (2, 3)] == [2.0, 1.0]


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
        return norm_ratio(base, model, 0.7, 1.4, CPU), magnitudes.bits.tolist(), magnitudes.upto.tolist()

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = found()
        for count in (2, 3):
            torch.set_num_threads(count)
            assert found() == alone
    finally:
        torch.set_num_threads(threads)
