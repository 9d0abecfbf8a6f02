"""Inner products of tensors, of their rows and of their columns."""

import math

import pytest
import torch

from evomerge.methods._gram import Gram

CPU = torch.device("cpu")


def sources(*shape, count=3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for _ in range(count)]


def measure(tensors, *, relative=False, along="all"):
    return Gram(relative, along)(tuple(each.reshape(-1) for each in tensors), tuple(tensors[0].shape), CPU)


def test_whole_tensors_by_hand():
    found = measure([torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [-1.0, 2.0]])])
    assert found.tolist() == [[[30.0], [6.0]], [[6.0], [6.0]]]


def test_task_vectors_by_hand():
    base = torch.tensor([1.0, 1.0])
    found = measure([base, torch.tensor([2.0, 0.0]), torch.tensor([1.0, 5.0])], relative=True)
    assert found.tolist() == [[[2.0], [-4.0]], [[-4.0], [16.0]]]


@pytest.mark.parametrize("shape", [(7, 300), (300, 7), (3, 70_000), (70_000, 3), (4, 5, 6), (100_003,), (), (1,)])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_einsum_in_float64(shape, relative, dtype):
    tensors = sources(*shape, dtype=dtype)
    vectors = torch.stack(tensors).float()
    vectors = ((vectors[1:] - vectors[0]) if relative else vectors).double().reshape(3 - relative, -1)
    last, first = (shape[-1], shape[0]) if shape else (1, 1)
    by_row, by_column = vectors.unflatten(1, (-1, last)), vectors.unflatten(1, (first, -1))
    for along, expected in {
        "all": torch.einsum("in,jn->ij", vectors, vectors)[..., None],
        "rows": torch.einsum("irn,jrn->ijr", by_row, by_row),
        "columns": torch.einsum("inc,jnc->ijc", by_column, by_column),
    }.items():
        found = measure(tensors, relative=relative, along=along)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize(("shape", "groups"), [((0,), (1, 1, 1)), ((3, 0), (1, 3, 0)), ((0, 3), (1, 0, 3))])
def test_nothing_adds_up_to_zero(shape, groups):
    found = [measure([torch.empty(shape)] * 2, along=along) for along in ("all", "rows", "columns")]
    assert [each.shape[2] for each in found] == list(groups)
    assert all((each == 0).all() for each in found)


def test_small_task_vectors_of_large_weights_keep_their_digits():
    base = torch.full((1000,), 100.0)
    model = base + 2.0**-14  # its inner product with itself differs from the base's by 1 in 10**8
    assert measure([base, model], relative=True).item() == 1000 * 2.0**-28


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_that_float32_cannot_hold(scale):
    tensors = sources(500, count=2)
    scaled = [each * scale for each in tensors]
    expected = torch.stack(scaled).double() @ torch.stack(scaled).double().T
    torch.testing.assert_close(measure(scaled)[..., 0], expected, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("along", ["all", "rows", "columns"])
@pytest.mark.parametrize("shape", [(5, 300_000), (300_000, 5), (1, 300_000), (900_001,)])
def test_the_same_bits_with_any_number_of_threads(along, shape):
    tensors, before = sources(*shape), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(measure(tensors, along=along))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_columns_in_float32_are_the_same_bits_with_any_number_of_threads():
    tensors, before = sources(3300, 37), torch.get_num_threads()
    gram = Gram(relative=False, along="columns", quick=True)
    try:
        found = []
        for threads in (1, 5, 8):
            torch.set_num_threads(threads)
            found.append(gram(tuple(each.reshape(-1) for each in tensors), (3300, 37), CPU))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_nan_shows_in_its_row_alone():
    tensor = torch.ones(3, 4)
    tensor[1, 2] = math.nan
    assert measure([tensor], along="rows").isnan().flatten().tolist() == [False, True, False]
