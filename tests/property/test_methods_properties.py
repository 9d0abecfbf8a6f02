"""What holds for every method, whatever the numbers."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.methods import METHODS, Operands, fetch, merged_chunks

CPU = torch.device("cpu")
FREE_ORDER = ["linear", "task_arithmetic", "ties"]  # a mask of DARE belongs to a model's place in the recipe

seeds = st.integers(0, 2**31)


def operands(name, seed, *, count=40, models=3, densities=None, dtype=torch.float32):
    """Random sources and random valid parameters for a method."""
    generator = torch.Generator().manual_seed(seed)
    method = METHODS[name]
    models = min(models, (method.max_models or models) - (method.base == "required" and method.max_models is not None))

    def draw():
        return torch.rand((), generator=generator).item()

    base = torch.randn(count, generator=generator).to(dtype)
    parents = tuple((base + torch.randn(count, generator=generator) * 0.1).to(dtype) for _ in range(models))
    values = {"weight": lambda: 0.1 + draw(), "density": lambda: 0.2 + 0.8 * draw(), "scale": lambda: 0.5 + draw()}
    shared = {each.name: each.default for each in method.parameters if not each.per_model}
    shared |= {"t": 0.1 + 0.8 * draw()} if "t" in shared else {"random_seed": seed} if "random_seed" in shared else {}
    each = {each.name: tuple(values[each.name]() for _ in parents) for each in method.parameters if each.per_model}
    return made(method, base if method.base == "required" else None, parents, shared, each)


def made(method, base, parents, shared, each):
    numbers = tuple(range(1, len(parents) + 1))
    return Operands(
        "x", base, parents, numbers, shared, each, CPU, lambda index: method.statistics(base, parents[index], CPU)
    )


def whole(name, made_of):
    return torch.cat([chunk for _, chunk in merged_chunks(METHODS[name], made_of)])


@pytest.mark.parametrize("name", FREE_ORDER)
@given(seed=seeds, order=st.permutations(range(3)))
@settings(max_examples=25, deadline=None)
def test_the_order_of_parents_does_not_matter(name, seed, order):
    first = operands(name, seed)
    each = {key: tuple(values[place] for place in order) for key, values in first.each.items()}
    second = made(METHODS[name], first.base, tuple(first.models[place] for place in order), first.shared, each)
    torch.testing.assert_close(whole(name, first), whole(name, second), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list(METHODS))
@given(seed=seeds, bad=st.sampled_from([float("nan"), float("inf"), float("-inf")]), place=st.integers(0, 39))
@settings(max_examples=25, deadline=None)
def test_a_bad_number_in_any_source_shows_in_the_output(name, seed, bad, place):
    good = operands(name, seed)
    sources = ([] if good.base is None else [good.base]) + list(good.models)
    for index in range(len(sources)):
        damaged = [source.clone() for source in sources]
        damaged[index][place] = bad
        base, parents = (None, damaged) if good.base is None else (damaged[0], damaged[1:])
        merged = whole(name, made(METHODS[name], base, tuple(parents), good.shared, good.each))
        assert not merged.isfinite().all()


@pytest.mark.parametrize("name", list(METHODS))
@given(seed=seeds, cuts=st.lists(st.integers(1, 39), max_size=4))
@settings(max_examples=25, deadline=None)
def test_any_chunks_give_the_same_bits_and_leave_the_sources_alone(name, seed, cuts):
    made_of = operands(name, seed)
    before = [model.clone() for model in made_of.models]
    method = METHODS[name]
    coefficients = method.settle(made_of)
    edges = sorted({0, 40, *cuts})
    pieces = [
        method.combine(
            None if made_of.base is None else made_of.base[start:end],
            [model[start:end] for model in made_of.models],
            coefficients,
            start,
        )
        for start, end in pairwise(edges)
    ]
    assert torch.equal(torch.cat(pieces), whole(name, made_of))
    assert all(torch.equal(model, copy) for model, copy in zip(made_of.models, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", list(METHODS))
def test_narrow_sources_are_merged_in_float32(name, dtype):
    narrow = operands(name, 11, dtype=dtype)
    wide = made(
        METHODS[name],
        None if narrow.base is None else narrow.base.float(),
        tuple(model.float() for model in narrow.models),
        narrow.shared,
        narrow.each,
    )
    found = whole(name, narrow)
    assert found.dtype == torch.float32
    assert torch.equal(found, whole(name, wide))


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_ties_keeps_exactly_the_largest_entries(seed):
    made_of = operands("ties", seed, models=1)
    delta = (made_of.models[0] - made_of.base).abs()
    merged = whole("ties", made_of)
    kept = merged != made_of.base
    rank = int(made_of.each["density"][0] * 40)
    assert kept.sum() == rank
    assert delta[kept].min() > delta[~kept].max()


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_linear_stays_between_the_models(seed):
    made_of = operands("linear", seed)
    stacked = torch.stack(made_of.models)
    merged = whole("linear", made_of)
    assert (merged >= stacked.amin(0) - 1e-6).all()
    assert (merged <= stacked.amax(0) + 1e-6).all()


def test_fetch_does_not_copy_what_is_float32_already():
    flat = torch.arange(4.0)
    assert fetch(flat, slice(1, 3), CPU).data_ptr() == flat[1:].data_ptr()
