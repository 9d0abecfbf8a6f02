"""Recipes are read strictly, and written back as they were."""

import subprocess
import sys

import pytest
import yaml

from evomerge.errors import RecipeError
from evomerge.recipe import DTYPES, ModelRef, Recipe

TIES = """\
merge_method: ties
base_model: org/base@main
models:
- model: org/a
  parameters:
    weight: [0, 0.5, 1e-3]
    density:
      value: 0.5
      filter: mlp
- model:
    model:
      path: /models/c++/b
    lora: org/lora@v1
  parameters:
    weight:
    - value: [0.1, 0.2]
      filter: self_attn
    - value: 0.3
parameters:
  normalize: true
  int8_mask: false
  random_seed: 7
  lambda: 1.0
dtype: bfloat16
out_dtype: torch.float32
tokenizer:
  source: union
  tokens:
    <pad>:
      source:
        kind: zero
      force: true
    <ship>:
      source:
        kind: model_token
        model: org/a
        token: <go>
    <refund>:
      source: org/a
  pad_to_multiple_of: 64
chat_template: |
  {% for message in messages %}
    {{ message.content }}
  {% endfor %}
name: shop
"""

SLICES = """\
merge_method: passthrough
slices:
- sources:
  - model: org/a
    layer_range: [0, 4]
- sources:
  - model: org/b
    layer_range: [2, 6]
    parameters:
      scale: 0.5
  base_model: org/b
  parameters:
    weight: 1
parameters: null
tokenizer_source: base
"""

MODULES = """\
merge_method: linear
modules:
  text:
    models:
    - model: org/a
    - model: org/b
  vision:
    slices:
    - sources:
      - model: org/c
        layer_range: [0, 2]
    parameters:
      weight: 1.0
"""


@pytest.mark.parametrize("text", [TIES, SLICES, MODULES])
def test_writes_back_what_it_read(text: str) -> None:
    recipe = Recipe.from_yaml(text)
    assert recipe.to_yaml() == text
    again = Recipe.from_yaml(recipe.to_yaml())
    assert again == recipe
    assert again.digest == recipe.digest


def test_reads_the_mapping_form_of_a_model() -> None:
    model = Recipe.from_yaml(TIES).models[1].model
    assert model == ModelRef("/models/c++/b", None, "org/lora", "v1")


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("org/m", ModelRef("org/m")),
        ("org/m@v2", ModelRef("org/m", "v2")),
        ("./m+org/lora", ModelRef("./m", None, "org/lora")),
        ("org/m@v2+org/lora@v3", ModelRef("org/m", "v2", "org/lora", "v3")),
    ],
)
def test_a_model_reference_is_its_string(text: str, ref: ModelRef) -> None:
    assert ModelRef.parse(text) == ref
    assert str(ref) == text
    assert ref.document == text


def test_mergekit_s_own_spelling_of_a_model_is_read_and_kept() -> None:
    model = {"model": {"path": "org/m", "revision": None}, "lora": None, "override_architecture": None}
    recipe = Recipe.from_document({"merge_method": "linear", "models": [{"model": model}]})
    assert recipe.models_used == (ModelRef("org/m"),)
    assert yaml.safe_load(recipe.to_yaml())["models"][0]["model"] == model


@pytest.mark.parametrize("text", ["", "@v1", "m@", "m@a@b", "m+a+b", "+lora", "m+"])
def test_a_malformed_model_reference_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="not a model reference"):
        ModelRef.parse(text)


def test_a_path_that_a_string_would_split_becomes_a_mapping() -> None:
    ref = ModelRef("/models/c++/b", None, "/adapters/a@1")
    recipe = Recipe.from_document({"merge_method": "linear", "models": [{"model": ref}]})
    document = yaml.safe_load(recipe.to_yaml())
    assert document["models"][0]["model"] == {
        "model": {"path": "/models/c++/b", "revision": None},
        "lora": {"path": "/adapters/a@1", "revision": None},
    }
    assert Recipe.from_yaml(recipe.to_yaml()).models_used == (ref,)


def test_models_used_starts_with_the_base_and_names_each_once() -> None:
    text = """
merge_method: ties
base_model: org/base
slices:
- sources: [{model: org/b, layer_range: [0, 1]}, {model: org/a, layer_range: [0, 1]}]
- sources: [{model: org/a, layer_range: [1, 2]}, {model: org/base, layer_range: [1, 2]}]
  base_model: org/c
"""
    assert [str(ref) for ref in Recipe.from_yaml(text).models_used] == ["org/base", "org/b", "org/a", "org/c"]


def test_digest_sees_content_and_not_form() -> None:
    one = Recipe.from_yaml("{merge_method: linear, models: [{model: a, parameters: {weight: 1.0, x: 2}}], dtype: null}")
    two = Recipe.from_yaml("models:\n- parameters: {x: 2, weight: 1.0}\n  model: a\nmerge_method: linear\n")
    other = Recipe.from_yaml("{merge_method: linear, models: [{model: a, parameters: {weight: 1.5, x: 2}}]}")
    assert one.digest == two.digest != other.digest
    assert len(one.digest) == 64
    spelt = Recipe.from_yaml(
        "{merge_method: linear, models: [{model: {model: {path: a}}, parameters: {weight: 1.0, x: 2}}]}"
    )
    assert spelt.digest == one.digest
    assert spelt.to_yaml() != one.to_yaml()


def test_anchors_and_merge_keys_are_resolved() -> None:
    text = """
merge_method: linear
models:
- model: a
  parameters: &half {weight: 0.5, x: 1}
- model: b
  parameters: {<<: *half, weight: 0.25}
"""
    recipe = Recipe.from_yaml(text)
    assert recipe.models[1].parameters == {"weight": 0.25, "x": 1}
    assert yaml.safe_load(recipe.to_yaml()) == yaml.safe_load(text)
    assert "&" not in recipe.to_yaml()


def linear(models: str, rest: str = "") -> str:
    return f"merge_method: linear\nmodels: {models}\n{rest}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"not valid YAML: .* \(recipe:1:5\)"),
        ("a: b\n  c: d", r"not valid YAML: .* \(recipe:2:4\)"),
        ("a: \x01", "not valid YAML"),
        ("name: 2024-13-45", r"not valid YAML \(recipe\): found month must be in 1\.\.12"),
        ("name: !!int x", r"not valid YAML \(recipe\): found invalid literal"),
        ("[" * 3000, r"not valid YAML \(recipe\): found maximum recursion depth"),
        ("a: 1\n---\nb: 2", r"unknown key .a. \(recipe, document 1\)"),
        ("merge_method: a\nmerge_method: b", r"key 'merge_method' given twice \(recipe:2:1\)"),
        ("", r"not a recipe \(recipe\): expected a mapping, found NoneType"),
        ("- linear", "expected a mapping, found list"),
        ("models: [{model: a}]", r"missing key \(recipe: merge_method\)"),
        (linear("[{parameters: {}}]"), r"missing key \(recipe: models\[0\]\.model\)"),
        (linear("[{model: a}]", "modles: 3"), "unknown key 'modles' .*; did you mean 'modules'"),
        (linear("[{model: a, paramters: {}}]"), r"unknown key 'paramters' .*models\[0\]\); did you mean 'parameters'"),
        (linear("[{model: {modle: a}}]"), r"unknown key 'modle' .*; did you mean 'model'"),
        (linear("[{model: a, parameters: {w: [{value: 1, filtre: x}]}}]"), "did you mean 'filter'"),
        (linear("3"), r"bad value \(recipe: models\): expected a list, found 3"),
        (linear("[]"), r"empty list \(recipe: models\)"),
        (linear("[{model: 3}]"), r"not a model reference .*: expected a string, found 3"),
        (
            linear("[{model: {model: a, override_architecture: Llama}}]"),
            r"override_architecture has no effect \(recipe: models\[0\].model.override_architecture\): found 'Llama'; ",
        ),
        (linear("[{model: a+b+c}]"), r"not a model reference \(recipe: models\[0\]\.model\)"),
        (linear("[{model: a}, {model: a}]"), "model given twice .*: found a"),
        (linear("[{model: a, parameters: 5}]"), "expected a mapping, found 5"),
        (linear("[{model: a, parameters: {3: 4}}]"), "expected a string, found 3"),
        (linear("[{model: a, parameters: {w: []}}]"), r"empty list \(recipe: models\[0\]\.parameters\.w\)"),
        (linear("[{model: a, parameters: {w: null}}]"), r"not a parameter value .*\.w\).*found None"),
        (linear("[{model: a, parameters: {w: .nan}}]"), r"not a parameter value .*\.w\).*found nan"),
        (linear("[{model: a, parameters: {w: [1, -.inf]}}]"), r"\.w\[1\]\).*found -inf"),
        (linear("[{model: a, parameters: {w: [[1]]}}]"), r"not a parameter value .*\.w\[0\]\)"),
        (linear("[{model: a, parameters: {w: [{value: 1}, 3]}}]"), r"\.w\[1\]\): expected a mapping, found 3"),
        (linear("[{model: a, parameters: {w: {value: 1, filter: 3}}}]"), r"\.w\.filter\): expected a string"),
        (linear("[{model: a}]", "dtype: bflot16"), "unknown dtype 'bflot16' .*; did you mean 'bfloat16'"),
        (linear("[{model: a}]", "dtype: int64"), "unknown dtype 'int64'"),
        (linear("[{model: a}]", "slices: [{sources: [{model: a, layer_range: [0, 1]}]}]"), "exactly one of models,"),
        ("merge_method: linear", "exactly one of models, slices, modules, found none"),
        ("merge_method: linear\nmodules: {}", "exactly one of models, slices, modules"),
        ("merge_method: linear\nmodules: {text: {}}", r"modules\.text\): expected exactly one of slices, models"),
        (linear("[{model: a}]", "tokenizer: {}\ntokenizer_source: base"), "tokenizer given twice"),
        (linear("[{model: a}]", "tokenizer: {source: 3}"), r"tokenizer\.source\)"),
        (linear("[{model: a}]", "tokenizer: {pad_to_multiple_of: 0}"), "greater than 0"),
        (linear("[{model: a}]", "tokenizer: {tokens: {x: {source: {kind: zeros}}}}"), "found 'zeros'"),
        (linear("[{model: a}]", "tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}"), "not one token"),
        ("merge_method: 3\nmodels: [{model: a}]", r"merge_method\): expected a string, found 3"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        Recipe.from_yaml(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layers", ["[0, 4.0]", "[0, 1, 2]", "[0]", "[4, 4]", "[5, 4]", "[-1, 4]", "['0', '4']"])
def test_a_bad_layer_range_is_refused(layers: str) -> None:
    text = f"merge_method: passthrough\nslices: [{{sources: [{{model: a, layer_range: {layers}}}]}}]"
    with pytest.raises(RecipeError, match=r"layer_range|slices"):
        Recipe.from_yaml(text)


@pytest.mark.parametrize("name", ["../x", "/abs", "a/b", "..", ".", "a+b", "x@y", "", "a\\b"])
def test_a_name_is_that_of_a_folder(name: str) -> None:
    with pytest.raises(RecipeError, match=r"bad name \(recipe: name\): expected the name of a folder"):
        Recipe.from_document({"merge_method": "linear", "models": [{"model": "a"}], "name": name})


def test_sources_of_a_slice_have_one_depth() -> None:
    sources = "[{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 3]}]"
    with pytest.raises(RecipeError, match=r"unlike depth .*found \[4, 3\]"):
        Recipe.from_yaml(f"merge_method: linear\nslices: [{{sources: {sources}}}]")


def test_read_names_the_file(tmp_path) -> None:
    file = tmp_path / "recipe.yaml"
    with pytest.raises(RecipeError, match=r"cannot read the recipe .*recipe\.yaml"):
        Recipe.read(file)
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(RecipeError, match="UTF-8"):
        Recipe.read(file)
    file.write_text("modles: []")
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        Recipe.read(file)
    file.write_text(TIES)
    assert Recipe.read(file) == Recipe.from_yaml(TIES)


def test_recipes_are_frozen() -> None:
    recipe = Recipe.from_yaml(MODULES)
    with pytest.raises(ValueError, match="frozen"):
        recipe.merge_method = "ties"


def test_dtypes_are_those_of_torch() -> None:
    import torch

    from evomerge.checkpoint import dtype_name, dtype_of

    assert [dtype_of(name) for name in DTYPES] == [torch.bfloat16, torch.float16, torch.float32, torch.float64]
    assert [dtype_name(dtype_of("torch." + name)) for name in DTYPES] == list(DTYPES)
    with pytest.raises(RecipeError, match="did you mean 'float32'"):
        dtype_of("flaot32")


def test_import_stays_light() -> None:
    code = "import sys, evomerge.recipe; print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("escape", ["\\ud800", "x\\uDFFFy"])
def test_half_a_character_is_refused_where_it_stands(escape: str) -> None:
    text = f'merge_method: linear\nmodels: [{{model: a}}]\ntokenizer: {{tokens: {{"{escape}": {{}}}}}}'
    with pytest.raises(RecipeError, match=r"not valid YAML: .*half of a surrogate pair: .* \(recipe:3:22\)"):
        Recipe.from_yaml(text)


def test_padding_is_bounded() -> None:
    text = "merge_method: linear\nmodels: [{model: a}]\ntokenizer: {pad_to_multiple_of: %d}"
    assert Recipe.from_yaml(text % (1 << 20)).tokenizer.pad_to_multiple_of == 1 << 20
    message = r"tokenizer\.pad_to_multiple_of\): expected less than or equal to 1048576, found 1048577"
    with pytest.raises(RecipeError, match=message):
        Recipe.from_yaml(text % ((1 << 20) + 1))
