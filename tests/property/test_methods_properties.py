"""What holds for every method, whatever the numbers."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.methods import METHODS, fetch

CPU = torch.device("cpu")
FREE_ORDER = ["linear", "task_arithmetic", "ties"]  # a mask of DARE belongs to a model's place in the recipe

seeds = st.integers(0, 2**31)
DRAWN = {
    "weight": (0.1, 1.1),
    "density": (0.3, 0.7),
    "gamma": (0.0, 0.1),
    "epsilon": (0.05, 0.25),
    "scale": (0.5, 1.5),
    "t": (0.1, 0.9),
    "select_topk": (0.3, 0.9),
}


@pytest.fixture(scope="session")
def drawn(operands):
    """drawn(name, seed): random sources of 5 x 8 and random valid parameters for a method."""

    def drawn(name, seed, *, models=3, dtype=torch.float32):
        generator = torch.Generator().manual_seed(seed)
        method = METHODS[name]
        models = max(method.min_models, min(models, method.max_models or models))

        def draw(low, high):
            return low + (high - low) * torch.rand((), generator=generator).item()

        base = torch.randn(5, 8, generator=generator).to(dtype)
        parents = [(base + torch.randn(5, 8, generator=generator) * 0.1).to(dtype) for _ in range(models)]
        settings = {}
        for each in method.parameters:
            if each.name in DRAWN and not (each.name == "epsilon" and not each.per_model):
                values = [draw(*DRAWN[each.name]) for _ in range(models if each.per_model else 1)]
                settings[each.name] = values if each.per_model else values[0]
        return operands(name, None if method.base == "unused" else base, parents, **settings)

    return drawn


@pytest.fixture(scope="session")
def again():
    """again(operands, base, models): the same parameters on other sources."""

    def again(operands, base, models):
        every = {-1: base, **dict(enumerate(models))}
        return replace(
            operands,
            base=base,
            models=tuple(models),
            measure=lambda statistic, *places: statistic(tuple(every[place] for place in places), operands.shape, CPU),
        )

    return again


@pytest.mark.parametrize("name", FREE_ORDER)
@given(seed=seeds, order=st.permutations(range(3)))
@settings(max_examples=25, deadline=None)
def test_the_order_of_parents_does_not_matter(name, seed, order, drawn, again, merge_operands):
    first = drawn(name, seed)
    each = {key: tuple(values[place] for place in order) for key, values in first.each.items()}
    second = again(replace(first, each=each), first.base, [first.models[place] for place in order])
    torch.testing.assert_close(merge_operands(name, first), merge_operands(name, second), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list(METHODS))
@given(seed=seeds, bad=st.sampled_from([float("nan"), float("inf"), float("-inf")]), place=st.integers(0, 39))
@settings(max_examples=25, deadline=None)
def test_a_bad_number_in_any_source_shows_in_the_output(name, seed, bad, place, drawn, again, merge_operands):
    good = drawn(name, seed)
    sources = ([] if good.base is None else [good.base]) + list(good.models)
    for index in range(len(sources)):
        damaged = [source.clone() for source in sources]
        damaged[index][place] = bad
        base, parents = (None, damaged) if good.base is None else (damaged[0], damaged[1:])
        assert not merge_operands(name, again(good, base, parents)).isfinite().all()


@pytest.mark.parametrize("name", list(METHODS))
@given(seed=seeds, cuts=st.lists(st.integers(1, 39), max_size=4, unique=True))
@settings(max_examples=25, deadline=None)
def test_any_chunks_give_the_same_bits_and_leave_the_sources_alone(name, seed, cuts, drawn, merge_operands):
    given = drawn(name, seed)
    before = [model.clone() for model in given.models]
    assert torch.equal(merge_operands(name, given, sorted(cuts)), merge_operands(name, given))
    assert all(torch.equal(model, copy) for model, copy in zip(given.models, before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", list(METHODS))
def test_narrow_sources_are_merged_in_float32(name, dtype, drawn, again, merge_operands):
    narrow = drawn(name, 11, dtype=dtype)
    base = None if narrow.base is None else narrow.base.float()
    wide = again(narrow, base, [model.float() for model in narrow.models])
    assert torch.equal(merge_operands(name, narrow), merge_operands(name, wide))


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_ties_keeps_exactly_the_largest_entries(seed, drawn, merge_operands):
    made_of = drawn("ties", seed, models=1)
    delta = (made_of.models[0] - made_of.base).abs()
    merged = merge_operands("ties", made_of)
    kept = merged != made_of.base
    rank = int(made_of.each["density"][0] * 40)
    assert kept.sum() == rank
    assert delta[kept].min() > delta[~kept].max()


@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_linear_stays_between_the_models(seed, drawn, merge_operands):
    made_of = drawn("linear", seed)
    stacked = torch.stack(made_of.models)
    merged = merge_operands("linear", made_of)
    assert (merged >= stacked.amin(0) - 1e-6).all()
    assert (merged <= stacked.amax(0) + 1e-6).all()


def test_fetch_does_not_copy_what_is_float32_already():
    flat = torch.arange(4.0)
    assert fetch(flat, slice(1, 3), CPU).data_ptr() == flat[1:].data_ptr()
