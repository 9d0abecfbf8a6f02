"""Vector -> recipe -> YAML -> recipe -> vector, over all kinds of genomes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.genome import Genome, GenomeConfig, ModelShape
from evomerge.parameters import Lookup
from evomerge.recipe import ModelRef, Recipe

BASE = ModelRef("org/base")
PARENTS = [ModelRef(f"org/{name}") for name in ("a", "b", "c")]
OUTSIDE = ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight")
PARTS = ("self_attn.q_proj.weight", "mlp.up_proj.weight", "input_layernorm.weight")
COMPONENTS = ("self_attn", "mlp", "embed_tokens", "norm")


@st.composite
def ranges(draw, low, high):
    width = draw(st.floats(0.05, high - low))
    start = draw(st.floats(low, high - width))
    return {"low": start, "high": min(start + width, high)}


@st.composite
def genomes(draw, selections=("none", "blend", "whole")):
    layers = draw(st.integers(1, 7))
    selection = draw(st.sampled_from(selections))
    method = "passthrough" if selection == "whole" else draw(st.sampled_from(["ties", "dare_ties", "linear", "slerp"]))
    shape = draw(st.sampled_from(["step", "smooth"])) if selection == "none" else "step"
    parents = PARENTS[: draw(st.integers(2 if selection == "whole" else 1, 2 if method == "slerp" else 3))]
    cuts = sorted(draw(st.sets(st.integers(1, layers - 1), max_size=3))) if layers > 1 else []
    groups = [st.integers(1, layers), st.just("each")]
    if shape == "step":
        groups.append(st.just(list(zip([0, *cuts], [*cuts, layers], strict=True))))
    config = {"method": method, "selection": selection, "shape": shape, "layer_groups": draw(st.one_of(groups))}
    if selection != "whole":
        config["components"] = draw(st.lists(st.sampled_from(COMPONENTS), unique=True))
        if method == "slerp":
            config["t"] = draw(ranges(0, 1))
        else:
            config["weight"] = draw(ranges(-2, 2))
        if method in ("ties", "dare_ties"):
            config["density"] = draw(ranges(0.01, 1))
            config["lambda"] = draw(st.one_of(ranges(0, 3), st.just(0.7)))
    names = (*OUTSIDE, *(f"model.layers.{i}.{part}" for i in range(layers) for part in PARTS))
    genome = Genome(
        GenomeConfig.model_validate(config),
        base=BASE,
        parents=parents,
        shape=ModelShape(layers, names),
        dtype="float32",
        tokenizer={"source": "base"},
        seed=draw(st.integers(0, 2**40)),
    )
    return genome, layers


@st.composite
def points(draw, **kinds):
    genome, layers = draw(genomes(**kinds))
    corners = st.sampled_from([0.0, 1.0])
    entries = st.lists(st.one_of(st.floats(0, 1), corners), min_size=genome.dimension, max_size=genome.dimension)
    return genome, np.array(draw(entries)), layers


@settings(deadline=None, max_examples=100)
@given(points())
def test_a_recipe_comes_back_as_its_vector(point):
    genome, x, _ = point
    recipe = genome.recipe(x)
    found = genome.vector(Recipe.from_yaml(recipe.to_yaml()))
    taken_whole = {
        name.partition(".")[2]
        for name, value in genome.values(found).items()
        if name.startswith("source.") and value != "blend"
    }
    for name, count, before, after, initial in zip(genome.names, genome.choices, x, found, genome.initial, strict=True):
        if count:
            continue
        if name.split(".")[1] in taken_whole:
            assert after == initial
        else:
            assert abs(after - before) < 1e-12
    np.testing.assert_allclose(genome.vector(genome.recipe(found)), found, rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(points(selections=("blend", "whole")))
def test_an_option_is_read_back(point):
    genome, x, _ = point
    before, after = (genome.values(vector) for vector in (x, genome.vector(genome.recipe(x))))
    for (name, value), count in zip(before.items(), genome.choices, strict=True):
        # Weights that happen to be 1 and 0 are the same recipe as taking the group whole.
        assert not count or value in (after[name], "blend")


@settings(deadline=None, max_examples=60)
@given(points())
def test_values_lie_in_their_space(point):
    genome, x, _ = point
    assert list(genome.space) == list(genome.names)
    assert len(set(genome.names)) == genome.dimension == len(genome.choices) == len(genome.initial)
    for name, value in genome.values(x).items():
        if isinstance(value, str):
            assert value in genome.space[name]
        else:
            low, high = genome.space[name]
            assert type(value) is float
            assert low <= value <= high


@settings(deadline=None, max_examples=60)
@given(points(selections=("none",)), st.data())
def test_every_dimension_moves_some_tensor(point, data):
    """The recipe is read as a merge reads it; no dimension is without effect, and every tensor finds its numbers."""
    genome, x, layers = point
    place = data.draw(st.integers(0, genome.dimension - 1))
    other = x.copy()
    other[place] = 1.0 if x[place] < 0.5 else 0.0
    name = genome.names[place].split(".")[0]
    assert readings(genome.recipe(x), name, layers) != readings(genome.recipe(other), name, layers)


def readings(recipe, name, depth):
    """What each tensor's `name` is, for each input; all that should have one, do."""
    parts = recipe.slices or [recipe]
    inputs = [part.sources if recipe.slices else part.models for part in parts]
    found = []
    for index, (part, sources) in enumerate(zip(parts, inputs, strict=True)):
        first, end = sources[0].layer_range if recipe.slices else (0, depth)
        tensors = [
            (f"model.layers.{layer}.{suffix}", (layer - first) / (end - first - 1) if end - first > 1 else 1.0)
            for layer in range(first, end)
            for suffix in PARTS
        ]
        tensors += [("model.embed_tokens.weight", 0.0)] if index == 0 else []
        tensors += [("lm_head.weight", 0.0), ("model.norm.weight", 0.0)] if index == len(parts) - 1 else []
        for tensor, t in tensors:
            for source in sources:
                if source.model != recipe.base_model or name in ("t", "lambda"):
                    scopes = (source.parameters, part.parameters, recipe.parameters)
                    found.append(Lookup(name, "float", *scopes).value(tensor, t))
    assert None not in found
    return found
