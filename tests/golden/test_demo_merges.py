"""Merges of the demo's models, on disk and live, against the methods' equations worked in float64."""

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from evomerge.demo import FOLDER
from evomerge.merge import LiveModel, Sources, StatisticsCache, make_plan, merge_to_disk, open_sources, stream
from evomerge.recipe import Recipe

BASE, PARENTS = "base", ("shipping", "refunds", "catalogue")
WEIGHTS = (0.75, 0.5, 1.0)  # exact in binary: no vote of TIES hangs on a rounding


@pytest.fixture(scope="module")
def models() -> dict[str, dict[str, np.ndarray]]:
    return {
        name: {
            key: value.double().numpy()
            for key, value in load_file(FOLDER / "models" / name / "model.safetensors").items()
        }
        for name in (BASE, *PARENTS)
    }


def recipe(method: str, names: tuple[str, ...], shared: dict | None = None, **each: tuple[float, ...]) -> Recipe:
    document: dict = {"merge_method": method, "dtype": "float32", "parameters": shared or {}}
    document["models"] = [
        {"model": str(FOLDER / "models" / name), "parameters": {key: values[i] for key, values in each.items()}}
        for i, name in enumerate(names)
    ]
    if method not in ("linear", "passthrough"):
        document["base_model"] = str(FOLDER / "models" / BASE)
    return Recipe.from_yaml(yaml.safe_dump(document))


def merged_both_ways(made: Recipe, tmp_path) -> dict[str, np.ndarray]:
    """The tensors on disk, once they are known to be the live model's, bit for bit."""
    merge_to_disk(made, tmp_path / "merged", device="cpu")
    on_disk = load_file(tmp_path / "merged" / "model.safetensors")
    checkpoints, device = open_sources(made), torch.device("cpu")
    plan = make_plan(made, checkpoints)
    live = LiveModel(plan.config, dtype=plan.out_dtype, device=device)
    live.load(plan, stream(plan, Sources(checkpoints, device), device=device, statistics=StatisticsCache()))
    state = live.model.state_dict()
    assert set(on_disk) <= set(state)
    for name, tensor in on_disk.items():
        assert torch.equal(tensor, state[name]), name
    return {name: tensor.double().numpy() for name, tensor in on_disk.items()}


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-7, err_msg=name)


def test_linear(models, tmp_path):
    found = merged_both_ways(recipe("linear", PARENTS, weight=WEIGHTS), tmp_path)
    total = sum(WEIGHTS)
    assert_close(
        found,
        {k: sum(w / total * models[p][k] for w, p in zip(WEIGHTS, PARENTS, strict=True)) for k in models[BASE]},
    )


def test_task_arithmetic(models, tmp_path):
    found = merged_both_ways(recipe("task_arithmetic", PARENTS, {"lambda": 0.8}, weight=WEIGHTS), tmp_path)
    expected = {}
    for k, b in models[BASE].items():
        expected[k] = b + 0.8 * sum(w * (models[p][k] - b) for w, p in zip(WEIGHTS, PARENTS, strict=True))
    assert_close(found, expected)


def test_ties(models, tmp_path):
    found = merged_both_ways(recipe("ties", PARENTS, weight=WEIGHTS, density=(0.3, 0.5, 0.7)), tmp_path)
    expected = {}
    for k, b in models[BASE].items():
        trimmed = []
        for w, density, p in zip(WEIGHTS, (0.3, 0.5, 0.7), PARENTS, strict=True):
            delta = models[p][k] - b
            kept = int(density * delta.size)
            smallest = np.sort(np.abs(delta), axis=None)[::-1][kept - 1] if kept else np.inf
            trimmed.append((w, np.where(np.abs(delta) >= smallest, delta, 0.0)))
        mass = sum(w * delta for w, delta in trimmed)
        agree = [(w, delta, np.sign(delta) == np.where(mass >= 0, 1, -1)) for w, delta in trimmed]
        divisor = sum(w * mask for w, _, mask in agree)
        summed = sum(w * delta * mask for w, delta, mask in agree)
        expected[k] = b + np.divide(summed, divisor, out=np.zeros_like(summed), where=divisor != 0)
    assert_close(found, expected)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_of_one_parent(models, tmp_path, method):
    """Every entry is the base's, or has the whole rescaled change; the share of the latter is the density."""
    found = merged_both_ways(recipe(method, ("refunds",), {"random_seed": 5}, weight=(0.6,), density=(0.7,)), tmp_path)
    kept = changed = 0
    for k, b in models[BASE].items():
        delta = models["refunds"][k] - b
        whole = b + 0.6 * delta / 0.7
        is_base = np.isclose(found[k], b, rtol=1e-6, atol=1e-7)
        is_whole = np.isclose(found[k], whole, rtol=1e-6, atol=1e-7)
        assert np.all(is_base | is_whole), k
        telling = is_base != is_whole
        kept, changed = kept + int(np.sum(is_whole & telling)), changed + int(np.sum(telling))
    assert changed > 100_000
    deviation = np.sqrt(0.7 * 0.3 / changed)
    assert abs(kept / changed - 0.7) < 5 * deviation


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp(models, tmp_path, t):
    found = merged_both_ways(recipe("slerp", (BASE, "catalogue"), {"t": t}), tmp_path)
    expected = {}
    for k, first in models[BASE].items():
        second = models["catalogue"][k]
        cosine = np.sum(first * second) / (np.linalg.norm(first) * np.linalg.norm(second))
        if abs(cosine) > 0.9995:
            expected[k] = (1 - t) * first + t * second
        else:
            angle = np.arccos(cosine)
            expected[k] = (np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle)
    assert_close(found, expected)


def test_passthrough(models, tmp_path):
    found = merged_both_ways(recipe("passthrough", ("shipping",)), tmp_path)
    for name, values in models["shipping"].items():
        np.testing.assert_array_equal(found[name], values)
