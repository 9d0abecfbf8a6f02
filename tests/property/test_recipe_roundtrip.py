"""YAML -> Recipe -> YAML is the identity on documents, and a recipe equals what is read back from it."""

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.recipe import DTYPES, ModelRef, Recipe, evaluate

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
parts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="@+"), min_size=1, max_size=12)
names = parts.filter(lambda name: name not in (".", "..") and not set(name) & set("/\\\0"))
numbers = st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.booleans() | numbers | text
gradients = st.lists(scalars, min_size=1, max_size=4)
values = scalars | gradients
conditions = st.fixed_dictionaries({"value": values}, optional={"filter": st.none() | st.just("*") | text})
setting = values | conditions | st.lists(conditions, min_size=1, max_size=3)
parameters = st.none() | st.dictionaries(words, setting, max_size=3)


@st.composite
def references(draw: st.DrawFn) -> str:
    named = [name + draw(st.sampled_from(["", "@main"])) for name in draw(st.lists(parts, min_size=1, max_size=2))]
    return "+".join(named)


paths = parts | st.fixed_dictionaries({"path": words}, optional={"revision": st.none() | text})
models = references() | st.fixed_dictionaries({"model": paths}, optional={"lora": st.none() | paths})


def parsed(model: str | dict) -> ModelRef:
    document = {"merge_method": "linear", "models": [{"model": model}]}
    return Recipe.from_document(document).models[0].model


def inputs(extra: dict, most: int = 3) -> st.SearchStrategy:
    part = st.fixed_dictionaries({"model": models, **extra}, optional={"parameters": parameters})
    return st.lists(part, min_size=1, max_size=most, unique_by=lambda part: parsed(part["model"]))


@st.composite
def slices(draw: st.DrawFn) -> dict:
    depth = draw(st.integers(1, 5))
    sources = draw(inputs({"layer_range": st.integers(0, 90).map(lambda first: [first, first + depth])}))
    return {"sources": sources} | draw(
        st.fixed_dictionaries({}, optional={"base_model": st.none() | models, "parameters": parameters})
    )


kinds = st.one_of(
    st.fixed_dictionaries({"models": inputs({})}),
    st.fixed_dictionaries({"slices": st.lists(slices(), min_size=1, max_size=2)}),
)
modules = st.dictionaries(words, kinds, min_size=1, max_size=2)
embeddings = st.one_of(
    st.none(),
    models,
    st.just({"kind": "zero"}),
    st.fixed_dictionaries({"kind": st.just("model_token"), "model": models, "token_id": st.integers(0, 9)}),
    st.fixed_dictionaries({"kind": st.just("model_token"), "model": models, "token": text}),
)
tokens = st.fixed_dictionaries({}, optional={"source": embeddings, "force": st.booleans()})
sources = st.sampled_from(["base", "union"]) | models
tokenizers = st.fixed_dictionaries(
    {},
    optional={
        "source": sources,
        "tokens": st.none() | st.dictionaries(text, tokens, max_size=2),
        "pad_to_multiple_of": st.none() | st.integers(1, 256),
    },
)


@st.composite
def recipes(draw: st.DrawFn) -> dict:
    document = draw(kinds | st.fixed_dictionaries({"modules": modules}))
    document |= draw(
        st.fixed_dictionaries(
            {"merge_method": words},
            optional={
                "base_model": st.none() | models,
                "parameters": parameters,
                "dtype": st.none() | st.sampled_from(DTYPES),
                "out_dtype": st.none() | st.sampled_from(DTYPES),
                "chat_template": st.none() | st.text(st.characters(exclude_categories=["Cs"])),
                "name": st.none() | names,
            },
        )
    )
    key = draw(st.sampled_from(["tokenizer", "tokenizer_source", None]))
    if key is not None:
        document[key] = draw(tokenizers if key == "tokenizer" else sources)
    return document


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(recipes())
def test_yaml_round_trip_is_the_identity(document: dict) -> None:
    recipe = Recipe.from_yaml(yaml.safe_dump(document, allow_unicode=False))
    text = recipe.to_yaml()
    assert yaml.safe_load(text) == document
    again = Recipe.from_yaml(text)
    assert again == recipe
    assert again.to_yaml() == text
    assert again.digest == recipe.digest


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(recipes(), min_size=2, max_size=3))
def test_stages_round_trip_too(documents: list[dict]) -> None:
    named = [document | {"name": f"stage {place}"} for place, document in enumerate(documents)]
    recipe = Recipe.from_yaml(yaml.safe_dump_all(named, allow_unicode=False))
    assert list(yaml.safe_load_all(recipe.to_yaml())) == named
    again = Recipe.from_yaml(recipe.to_yaml())
    assert again == recipe
    assert again.stages == recipe.stages
    assert again.digest == recipe.digest


@given(references())
def test_a_reference_is_its_string(text: str) -> None:
    assert str(ModelRef.parse(text)) == text


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6), st.floats(0, 1))
def test_a_gradient_stays_within_its_entries(entries: list[float], t: float) -> None:
    value = evaluate(tuple(entries), "x", t)
    assert min(entries) - 1e-9 <= value <= max(entries) + 1e-9


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6))
def test_a_gradient_meets_its_entries(entries: list[float]) -> None:
    last = len(entries) - 1
    assert [round(evaluate(tuple(entries), "x", i / last), 6) for i in range(last + 1)] == [
        round(entry, 6) for entry in entries
    ]
