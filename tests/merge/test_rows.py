"""Rows of a vocabulary tensor, gathered from the tensors of several models."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from evomerge.merge.rows import MEAN, PADDING, ZERO, Rows
from evomerge.recipe import ModelRef

REFS = [ModelRef(name) for name in ("a", "b", "c")]
HEIGHTS = (4, 6, 5)


def rows(place: list[int], row: list[int], members: list[list[int]] | None = None) -> Rows:
    members = members or [[-1] * len(place)] * len(REFS)
    return Rows(
        tuple((ref, f"{ref}.weight") for ref in REFS),
        torch.tensor(place),
        torch.tensor(row),
        torch.tensor(members),
    )


def tensors(dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (3,)) -> dict[ModelRef, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        ref: torch.randn(height, *shape, generator=generator).to(dtype)
        for ref, height in zip(REFS, HEIGHTS, strict=True)
    }


def reader(known: dict[ModelRef, torch.Tensor]):
    def read(ref: ModelRef, name: str) -> torch.Tensor:
        assert name == f"{ref}.weight"
        return known[ref]

    return read


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[int], list[int], list[list[int]]]:
    count = draw(st.integers(1, 12))
    place = draw(st.lists(st.sampled_from([0, 0, 1, 2, ZERO, MEAN, PADDING]), min_size=count, max_size=count))
    if all(each == PADDING for each in place):
        place[0] = 0
    row = [draw(st.integers(0, HEIGHTS[each] - 1)) if each >= 0 else 0 for each in place]
    members = [[-1] * count for _ in REFS]
    for index, each in enumerate(place):
        if each == MEAN:
            for source in draw(st.sets(st.integers(0, 2), min_size=1)):
                members[source][index] = draw(st.integers(0, HEIGHTS[source] - 1))
    return place, row, members


@given(tables(), st.sampled_from([(3,), (), (2, 2)]))
def test_each_row_is_what_its_token_asks_for(table, shape) -> None:
    known = tensors(shape=shape)
    made = rows(*table).take(reader(known))
    expected: list[torch.Tensor | None] = []
    for place, row, members in zip(*table[:2], zip(*table[2], strict=True), strict=True):
        if place >= 0:
            expected.append(known[REFS[place]][row].double())
        elif place == ZERO:
            expected.append(torch.zeros(shape).double())
        elif place == MEAN:
            have = [known[ref][member].double() for ref, member in zip(REFS, members, strict=True) if member >= 0]
            expected.append(torch.stack(have).mean(0))
        else:
            expected.append(None)
    padding = torch.stack([each for each in expected if each is not None]).mean(0)
    whole = torch.stack([padding if each is None else each for each in expected])
    assert made.dtype == torch.float32
    torch.testing.assert_close(made.double(), whole, rtol=1e-6, atol=1e-7)


def test_rows_are_copied_bit_for_bit_and_only_needed_tensors_are_read() -> None:
    known = tensors(torch.bfloat16)
    asked = []

    def read(ref: ModelRef, name: str) -> torch.Tensor:
        asked.append(ref)
        return known[ref]

    made = rows([0, 0, 2], [0, 3, 1]).take(read)
    assert made.dtype == torch.bfloat16
    assert torch.equal(made, torch.stack([known[REFS[0]][0], known[REFS[0]][3], known[REFS[2]][1]]))
    assert asked == [REFS[0], REFS[2]]


def test_the_widest_dtype_holds_all_rows() -> None:
    known = tensors(torch.bfloat16)
    known[REFS[1]] = known[REFS[1]].float() + 1e-6
    made = rows([0, 1], [0, 5]).take(reader(known))
    assert made.dtype == torch.float32
    assert torch.equal(made[1], known[REFS[1]][5])


def test_the_first_rows_of_one_tensor_are_not_copied() -> None:
    known = tensors()
    made = rows([1, 1, 1], [0, 1, 2]).take(reader(known))
    assert made.data_ptr() == known[REFS[1]].data_ptr()
    assert torch.equal(made, known[REFS[1]][:3])


def test_a_mean_of_bfloat16_is_rounded_once() -> None:
    known = {ref: torch.tensor([[value]], dtype=torch.bfloat16) for ref, value in zip(REFS, (256, 1, 1), strict=True)}
    made = rows([MEAN], [0], [[0], [0], [0]]).take(reader(known))
    assert made.item() == 86  # 258 / 3; 256 + 1 in bfloat16 is 256


def test_equal_by_what_they_make() -> None:
    first = rows([0, 1], [0, 5])
    assert first == rows([0, 1], [0, 5])
    assert hash(first) == hash(rows([0, 1], [0, 5]))
    assert first != rows([0, 1], [0, 4])
    other = Rows(tuple((ref, "lm_head.weight") for ref in REFS), first.place, first.row, first.members)
    assert first != other


@pytest.mark.parametrize("threads", [1, 2])
def test_padding_does_not_depend_on_threads(threads: int) -> None:
    known = {
        ref: torch.randn(5000, 33, generator=torch.Generator().manual_seed(index)) for index, ref in enumerate(REFS)
    }
    count = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        made = rows([0] * 5000 + [PADDING], [*range(5000), 0]).take(reader(known))
    finally:
        torch.set_num_threads(count)
    assert torch.equal(made[-1], known[REFS[0]].double().mean(0).float())
