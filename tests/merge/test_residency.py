import sys
from dataclasses import replace

import pytest
import torch

from evomerge.errors import UsageError
from evomerge.merge import Source, Sources, StatisticsCache, make_plan, open_sources, residency, resolve_device, stream
from evomerge.methods import _method
from evomerge.recipe import Recipe

CPU = torch.device("cpu")


@pytest.fixture
def checkpoints(untied):
    models = [{"model": str(untied[name])} for name in ("one", "two")]
    recipe = Recipe.from_document({"merge_method": "linear", "models": models, "parameters": {"weight": 1}})
    return open_sources(recipe), recipe


def test_cpu_is_always_there():
    assert resolve_device("cpu") == CPU


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_absent(name):
    assert resolve_device("auto") == CPU
    with pytest.raises(UsageError, match=f"device not available .device.: expected auto, cpu, found '{name}'"):
        resolve_device(name)


def test_a_name_that_is_no_device():
    with pytest.raises(UsageError, match=r"unknown device .device.: expected auto, cpu.*, found 'gpu'"):
        resolve_device("gpu")


def test_sources_that_fit_are_kept(checkpoints):
    opened, _ = checkpoints
    sources = Sources(opened, CPU)
    ref = next(iter(opened))
    assert sources.residency == "host"
    assert sources.flat(Source(ref, "model.norm.weight")) is sources.flat(Source(ref, "model.norm.weight"))
    assert torch.equal(sources.flat(Source(ref, "lm_head.weight")), opened[ref].read("lm_head.weight").flatten())


def test_statistics_that_are_not_kept_are_measured_anew():
    measured = iter(range(9))
    kept, anew = StatisticsCache(), StatisticsCache(keep=False)
    assert [kept.get("key", lambda: next(measured)) for _ in range(2)] == [0, 0]
    assert [anew.get("key", lambda: next(measured)) for _ in range(2)] == [1, 2]
    assert (len(kept), len(anew)) == (1, 0)


def test_large_statistics_are_kept_as_far_as_there_is_room():
    def fail():
        raise MemoryError

    kept = StatisticsCache(room=100)
    with pytest.raises(MemoryError):
        kept.get_large("first", 60, fail)
    measured = iter(range(9))
    found = [kept.get_large(key, 60, lambda: next(measured)) for key in ("first", "second", "first")]
    assert found == [0, None, 0]
    assert kept.get_large("third", 40, lambda: next(measured)) == 1
    assert StatisticsCache(keep=False, room=100).get_large("first", 60, fail) is None


@pytest.mark.parametrize("why", ["no room", "a single merge"])
def test_others_are_read_anew(monkeypatch, checkpoints, why):
    opened, _ = checkpoints
    if why == "no room":
        monkeypatch.setattr(residency, "_HOST_SHARE", 0.0)
    sources = Sources(opened, CPU, keep=why == "no room")
    ref = next(iter(opened))
    assert sources.residency == "disk"
    assert sources.flat(Source(ref, "model.norm.weight")) is not sources.flat(Source(ref, "model.norm.weight"))


def test_a_large_tensor_is_merged_in_chunks(monkeypatch, checkpoints):
    """No temporary is larger than a chunk, and the chunks do not show in the result."""

    opened, recipe = checkpoints
    plan = make_plan(recipe, opened)
    sources = Sources(opened, CPU)
    whole = [merge.whole() for merge in stream(plan, sources, device=CPU, statistics=StatisticsCache())]
    seen = []

    def combine(chunk):
        seen.append(chunk.models[0].numel())
        return plan.method.combine(chunk)

    monkeypatch.setattr(_method, "_CPU_CHUNK", 64)
    method = replace(plan.method, combine=combine)
    watched = replace(plan, tensors=tuple(replace(tensor, method=method) for tensor in plan.tensors))
    parts = [merge.whole() for merge in stream(watched, sources, device=CPU, statistics=StatisticsCache())]
    assert max(seen) == 64
    assert all(map(torch.equal, parts, whole))


def test_a_tensor_may_be_written_in_parts(checkpoints):
    opened, recipe = checkpoints
    plan = make_plan(recipe, opened)
    for merge in stream(plan, Sources(opened, CPU), device=CPU, statistics=StatisticsCache()):
        out = torch.empty(merge.count, dtype=merge.tensor.dtype)
        for start in range(0, merge.count, 100):
            merge.write(out[start : start + 100], start)
        assert torch.equal(out, merge.whole().view(-1))


def test_a_mask_does_not_depend_on_where_blocks_end(untied, monkeypatch):
    """Each block of 2**32 elements has a mask of its own, whatever the parts a tensor is written in."""
    document = {
        "merge_method": "dare_linear",
        "base_model": str(untied["base"]),
        "models": [{"model": str(untied["one"])}],
        "parameters": {"weight": 1.0, "density": 0.5},
    }
    recipe = Recipe.from_document(document)
    opened = open_sources(recipe)
    plan = make_plan(recipe, opened)

    def made(parts):
        merges = stream(plan, Sources(opened, CPU), device=CPU, statistics=StatisticsCache())
        merge = next(merge for merge in merges if merge.tensor.name == "model.embed_tokens.weight")
        out = torch.empty(merge.count)
        for start in range(0, merge.count, parts):
            merge.write(out[start : start + parts], start)
        return out

    whole = made(10**6)
    monkeypatch.setattr(sys.modules["evomerge.merge.stream"], "_BLOCK", 64)  # the package has the function
    blocks = made(10**6)
    assert torch.equal(blocks[:64], whole[:64])
    assert not torch.equal(blocks, whole)
    assert torch.equal(made(48), blocks)
