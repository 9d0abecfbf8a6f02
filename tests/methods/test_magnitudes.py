import numpy as np
import pytest
import torch

from evomerge.methods import _magnitudes
from evomerge.methods._magnitudes import measure, norm_ratio
from evomerge.methods._slerp import measure as arc

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
    if kind == "denormal":
        base[:] = 0
        delta = delta * 1e-38
    return base, base + delta


@pytest.mark.parametrize("sort_up_to", [0, 1 << 20], ids=["counted", "sorted"])
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "sparse", "equal", "denormal"])
@pytest.mark.parametrize("count", [1, 7, 1000, 70_001])
def test_the_kth_largest_is_exact(monkeypatch, sort_up_to, kind, count):
    monkeypatch.setattr(_magnitudes, "SORT_UP_TO", sort_up_to)
    base, model = sources(kind, count)
    magnitudes = measure(base, model, CPU)
    assert (magnitudes.upper is None) == (count <= sort_up_to)
    expected = np.sort(np.abs(model.float().numpy() - base.float().numpy()))[::-1]
    for density in (1e-9, 0.1, 0.29, 0.5, 0.999, 1.0):
        rank = max(1, int(density * count))
        assert magnitudes.threshold(density, base, model) == expected[rank - 1]


def test_an_empty_tensor_has_the_threshold_zero():
    assert measure(torch.empty(0), torch.empty(0), CPU).threshold(0.5, torch.empty(0), torch.empty(0)) == 0.0


@pytest.mark.parametrize("sort_up_to", [0, 1 << 20])
def test_a_nan_does_not_stop_the_measure(monkeypatch, sort_up_to):
    monkeypatch.setattr(_magnitudes, "SORT_UP_TO", sort_up_to)
    base, model = torch.zeros(4), torch.tensor([1.0, float("nan"), 2.0, float("inf")])
    assert measure(base, model, CPU).threshold(1.0, base, model) == 1.0


def test_norm_ratio_by_hand():
    base, model = torch.zeros(4), torch.tensor([1.0, -2.0, 3.0, -4.0])
    assert norm_ratio(base, model, 3.0, CPU) == pytest.approx(10 / 7)
    assert norm_ratio(base, base, 0.0, CPU) == 1.0


@pytest.mark.parametrize("name", ["slerp", "ties"])
def test_sums_do_not_depend_on_the_number_of_threads(name):
    generator = torch.Generator().manual_seed(0)
    base, model = (torch.randn(300_000, generator=generator) for _ in range(2))
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(arc(base, model, CPU) if name == "slerp" else norm_ratio(base, model, 0.7, CPU))
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1] == found[2]
