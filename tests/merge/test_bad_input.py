"""Each bad recipe and each bad model: one line that says it, and nothing on disk."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from evomerge.errors import ModelError, NonFiniteError, RecipeError, UsageError
from evomerge.merge import merge_to_disk, preflight
from evomerge.recipe import Recipe

UP = "model.layers.1.mlp.up_proj.weight"


def linear(*folders, **keys):
    document = {"merge_method": "linear", "dtype": "float32", "models": [{"model": str(each)} for each in folders]}
    return document | {"parameters": {"weight": 1.0}} | keys


def refused(document, out, error, message):
    with pytest.raises(error) as caught:
        merge_to_disk(Recipe.from_document(document), out / "merged", device="cpu")
    assert type(caught.value) is error
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in out.iterdir()] == []


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def change(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def reconfigure(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


class TestModels:
    @pytest.mark.parametrize("name", [UP, "model.norm.weight", "model.embed_tokens.weight"])
    def test_a_tensor_missing_in_one_parent(self, untied, make_llama, out, name):
        parent = change(make_llama("parent"), lambda tensors: tensors.pop(name))
        message = rf"tensor missing \({parent}\): expected {name} as in {untied['one']}; .* only if every model has it"
        refused(linear(untied["one"], parent), out, ModelError, message)

    def test_a_tensor_that_the_others_lack(self, untied, make_llama, out):
        bias = UP.replace("weight", "bias")
        parent = change(make_llama("parent"), lambda tensors: tensors.update({bias: torch.zeros(24)}))
        message = rf"tensor missing \({untied['one']}\): expected model.layers.1.mlp.up_proj.bias as in {parent}"
        refused(linear(untied["one"], parent), out, ModelError, message)

    def test_a_layer_missing(self, untied, make_llama, out):
        def drop(tensors):
            for name in [name for name in tensors if ".layers.1." in name]:
                del tensors[name]

        parent = change(make_llama("parent"), drop)
        message = rf"layers missing \({parent}\): expected 3 layers in model.layers, found no tensor of layer 1"
        refused(linear(untied["one"], parent), out, ModelError, message)

    def test_shapes_that_differ(self, untied, make_llama, out):
        parent = make_llama("parent", intermediate_size=40)
        message = (
            rf"shapes differ \({parent}: model.layers.0.mlp.down_proj.weight\): expected \[16, 24\] as in .*one,"
            r" found \[16, 40\]; merge models of one size"
        )
        refused(linear(untied["one"], parent), out, ModelError, message)

    def test_rows_of_the_embedding_that_differ(self, untied, make_llama, out):
        message = r"embed_tokens.weight\): expected \[24, 16\] as in .*one, found \[32, 16\]"
        refused(linear(untied["one"], make_llama("parent", vocab_size=32)), out, ModelError, message)

    def test_architectures_that_differ(self, untied, tmp_path, out):
        GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=24)).save_pretrained(tmp_path / "gpt2")
        message = r"architectures differ \(.*gpt2\): expected model_type 'llama' of .*one, found 'gpt2'"
        refused(linear(untied["one"], tmp_path / "gpt2"), out, ModelError, message)

    def test_equal_shapes_with_other_heads(self, untied, make_llama, out):
        parent = make_llama("parent", num_attention_heads=8, num_key_value_heads=4)
        message = r"architectures differ \(.*parent\): expected num_attention_heads 4 of .*one, found 8"
        refused(linear(untied["one"], parent), out, ModelError, message)

    def test_depths_that_differ(self, untied, make_llama, out):
        parent = make_llama("parent", num_hidden_layers=2)
        message = r"depths differ \(.*parent: model.layers\): expected 3 layers as in .*one, found 2"
        refused(linear(untied["one"], parent), out, ModelError, message)

    def test_vocabularies_that_differ(self, untied, make_llama, out):
        words = [f"w{index}" for index in range(20)] + ["alpha", "beta", "gamma", "delta"]
        parent = make_llama("parent", words=words)
        message = (
            rf"vocabularies differ \({parent}\): expected the 24 tokens of .*base,"
            r" found 24 tokens, of which 8 have no or another id there, such as 'alpha', 'w20', 'beta'; merge"
        )
        document = linear(untied["one"], parent, base_model=str(untied["base"]))
        refused(document, out, ModelError, message)

    def test_one_token_more(self, untied, make_llama, out):
        parent = make_llama("parent", words=[*(f"w{index}" for index in range(24)), "extra"])
        message = r"expected the 24 tokens of .*one, found 25 tokens; 'extra' differs; merge models of one vocabulary"
        refused(linear(untied["one"], parent), out, ModelError, message)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("method", ["linear", "ties", "dare_ties", "slerp", "task_arithmetic", "passthrough"])
    def test_nan_or_inf_inside_a_parent(self, untied, make_llama, out, method, bad):
        parent = change(make_llama("parent"), lambda tensors: tensors[UP].view(-1).__setitem__(17, bad))
        document = linear(parent, merge_method=method, base_model=str(untied["base"]))
        document["parameters"] = {
            "ties": {"weight": 0.0, "density": 0.1},
            "dare_ties": {"weight": 1.0, "density": 0.01},
            "slerp": {"t": 0.0},
            "passthrough": {"scale": 0.0},
        }.get(method, {"weight": 0.0, "normalize": False})
        if method == "passthrough":
            del document["base_model"]
        message = rf"NaN or Inf in a model \({parent}: {UP}\); download"
        refused(document, out, NonFiniteError, message)

    def test_a_merge_that_overflows_its_dtype(self, untied, out):
        document = linear(untied["one"], dtype="float16", parameters={"weight": 1e6, "normalize": False})
        message = r"merge overflows \(model.embed_tokens.weight\): expected values within float16; lower the weights"
        refused(document, out, NonFiniteError, message)

    def test_a_quantized_model(self, untied, make_llama, out):
        parent = reconfigure(make_llama("parent"), quantization_config={"quant_method": "gptq"})
        message = r"quantized model \(.*parent\): expected floating-point weights; dequantize it first"
        refused(linear(untied["one"], parent), out, ModelError, message)

    def test_a_quantized_tensor(self, untied, make_llama, out):
        def quantize(tensors):
            tensors[UP] = tensors[UP].to(torch.float8_e4m3fn)

        parent = change(make_llama("parent"), quantize)
        message = rf"quantized tensor \(.*parent: {UP}\): found float8_e4m3fn"
        refused(linear(untied["one"], parent), out, ModelError, message)

    def test_integer_tensors_that_differ(self, make_llama, out):
        folders = [
            change(make_llama(name), lambda tensors, fill=fill: tensors.update({"ids": torch.full((3,), fill)}))
            for name, fill in (("a", 1), ("b", 2))
        ]
        refused(linear(*folders), out, ModelError, r"integer tensors differ \(.*b: ids\): expected the values of .*a")

    def test_an_integer_tensor_against_a_float_one(self, make_llama, out):
        one = change(make_llama("a"), lambda tensors: tensors.update({"ids": torch.ones(3, dtype=torch.int64)}))
        two = change(make_llama("b"), lambda tensors: tensors.update({"ids": torch.ones(3)}))
        refused(
            linear(one, two), out, ModelError, r"dtypes differ \(.*b: ids\): expected int64 as in .*a, found float32"
        )

    def test_a_missing_folder(self, untied, tmp_path, out):
        refused(linear(untied["one"], tmp_path / "nowhere"), out, ModelError, "nowhere")


class TestRecipes:
    @pytest.mark.parametrize("density", [-0.5, 1.5])
    def test_density_out_of_range(self, untied, out, density):
        document = linear(untied["one"], merge_method="ties", base_model=str(untied["base"]))
        document["parameters"] = {"weight": 1.0, "density": density}
        message = rf"density out of range \(.*one: .*weight\): expected a number in \[0, 1\], found {density}"
        refused(document, out, RecipeError, message)

    def test_slerp_of_three_models(self, untied, out):
        document = linear(untied["one"], untied["two"], merge_method="slerp", base_model=str(untied["base"]))
        document["parameters"] = {"t": 0.5}
        message = r"wrong number of models for slerp \(models\): expected 1 besides the base model, found .* \(2\)"
        refused(document, out, RecipeError, message)

    @pytest.mark.parametrize("method", ["slerp", "ties", "dare_linear", "task_arithmetic"])
    def test_no_base(self, untied, out, method):
        document = linear(untied["one"], untied["two"], merge_method=method, parameters={})
        refused(document, out, RecipeError, rf"{method} needs a base_model \(models\); set base_model")

    def test_a_slice_without_the_base(self, untied, out):
        document = linear(merge_method="slerp", base_model=str(untied["base"]), parameters={"t": 0.5})
        document["models"] = None
        document["slices"] = [
            {"sources": [{"model": str(untied[name]), "layer_range": [0, 3]} for name in ("one", "two")]}
        ]
        message = r"base_model is not among the sources \(slices\[0\]\): expected .*base; add it to the slice"
        refused(document, out, RecipeError, message)

    def test_a_layer_range_beyond_the_end(self, untied, out):
        document = linear(merge_method="passthrough", parameters=None)
        document["models"] = None
        document["slices"] = [{"sources": [{"model": str(untied["one"]), "layer_range": [1, 4]}]}]
        message = (
            r"layer_range beyond the last layer \(slices\[0\].sources\[0\]\): expected an end of 3 at most .*\[1, 4\]"
        )
        refused(document, out, RecipeError, message)

    def test_an_unknown_method(self, untied, out):
        document = linear(untied["one"], merge_method="linaer")
        refused(document, out, RecipeError, r"unknown merge method 'linaer' .*did you mean 'linear'\?")

    def test_an_unknown_parameter(self, untied, out):
        document = linear(untied["one"], parameters={"weigth": 1.0})
        refused(document, out, RecipeError, r"no parameter 'weigth' \(parameters\); did you mean 'weight'\?")

    def test_an_unknown_parameter_of_a_model(self, untied, out):
        document = linear(untied["one"], models=[{"model": str(untied["one"]), "parameters": {"densty": 1.0}}])
        message = r"linear has no parameter 'densty' \(models\[0\].parameters\)"
        refused(document, out, RecipeError, message)

    def test_a_parameter_of_the_tensor_set_for_a_model(self, untied, out):
        models = [{"model": str(untied["one"]), "parameters": {"normalize": False}}]
        message = r"normalize is not a parameter of a single model \(models\[0\].parameters\); set it under parameters"
        refused(linear(untied["one"], models=models), out, RecipeError, message)

    def test_a_parameter_missing(self, untied, out):
        message = r"weight missing \(.*one: model.embed_tokens.weight\): expected a number that float32 holds; set wei"
        refused(linear(untied["one"], parameters={}), out, RecipeError, message)

    def test_weights_that_sum_to_zero(self, untied, out):
        entries = [
            {"model": str(untied[name]), "parameters": {"weight": weight}} for name, weight in (("one", 1), ("two", -1))
        ]
        message = (
            r"weights sum to zero \(model.embed_tokens.weight\): found 1, -1; change a weight, or set normalize: f"
        )
        refused(linear(models=entries, parameters=None) | {"models": entries}, out, RecipeError, message)

    def test_a_base_added_to_linear_needs_a_weight(self, untied, out):
        models = [{"model": str(untied["one"]), "parameters": {"weight": 1.0}}]
        document = linear(models=models, parameters={}, base_model=str(untied["base"]))
        document["models"] = models
        refused(document, out, RecipeError, r"weight missing \(.*base: ")

    def test_base_tokenizer_without_a_base(self, untied, out):
        document = linear(untied["one"], tokenizer_source="base")
        refused(document, out, RecipeError, "tokenizer source 'base' without a base_model; set base_model")

    @pytest.mark.parametrize("template", ["alpcaa", ""])
    def test_an_unknown_chat_template(self, untied, out, template):
        document = linear(untied["one"], chat_template=template)
        refused(document, out, RecipeError, r"unknown chat template \(chat_template\): expected auto, .*chatml")
        with pytest.raises(RecipeError, match="unknown chat template"):
            preflight(Recipe.from_document(document), scan=False)

    def test_an_output_that_exists_is_kept(self, untied, tmp_path):
        (tmp_path / "kept").write_text("mine")
        with pytest.raises(UsageError, match="output exists"):
            merge_to_disk(Recipe.from_document(linear(untied["one"])), tmp_path, device="cpu")
        assert (tmp_path / "kept").read_text() == "mine"


class TestPreflight:
    def test_facts_of_a_good_recipe(self, untied):
        found = preflight(Recipe.from_document(linear(untied["one"], untied["two"], base_model=str(untied["base"]))))
        assert (found.method, found.layers, found.tensors, found.dtype, found.tied) == (
            "linear",
            3,
            30,
            "float32",
            False,
        )
        assert found.architecture == "LlamaForCausalLM"
        assert found.nbytes == 4 * found.parameters == 4 * found.models[0].parameters
        assert [(model.role, model.model) for model in found.models] == [
            ("base", str(untied["base"])),
            ("source", str(untied["one"])),
            ("source", str(untied["two"])),
        ]
        assert json.loads(found.to_json())["models"][1]["dtypes"] == ["float32"]
        assert f"source: {untied['two']}" in str(found)

    def test_nan_is_found_by_a_scan_alone(self, make_llama):
        parent = change(make_llama("parent"), lambda tensors: tensors[UP].view(-1).__setitem__(3, float("nan")))
        recipe = Recipe.from_document(linear(parent))
        with pytest.raises(NonFiniteError, match=rf"NaN or Inf in a model \({parent}: {UP}\)"):
            preflight(recipe)
        assert preflight(recipe, scan=False).tensors == 30

    def test_licences(self, make_llama):
        folders = [make_llama(name) for name in ("a", "b", "c")]
        for folder, licence in zip(folders, ("mit", "apache-2.0"), strict=False):
            (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
        warnings = preflight(Recipe.from_document(linear(*folders))).warnings
        assert warnings == (
            f"{folders[2]} states no licence",
            "licences differ: apache-2.0, mit; check that they may be combined",
        )

    def test_settings_and_parameters_without_effect_are_named(self, untied, make_llama):
        parent = reconfigure(make_llama("parent"), rms_norm_eps=0.5)
        document = linear(parent, merge_method="task_arithmetic", base_model=str(untied["base"]))
        document["parameters"] = {"weight": 1.0, "density": 0.5}
        warnings = preflight(Recipe.from_document(document)).warnings
        assert warnings[0] == "parameters: density has no effect on task_arithmetic"
        assert warnings[1] == f"rms_norm_eps is 0.5 in {parent}; the merged model has 1e-06"

    def test_parameters_of_the_base_itself_are_warned_of(self, untied):
        def warnings(method, base):
            entries = [{"model": str(untied[name]), "parameters": {"weight": 0.5}} for name in ("base", "one")]
            document = {"merge_method": method, "base_model": str(untied[base]), "models": entries}
            return [each for each in preflight(Recipe.from_document(document), scan=False).warnings if "base" in each]

        assert "models[0].parameters: weight has no effect on the base model" in warnings("task_arithmetic", "base")
        assert "models[1].parameters: weight has no effect on the base model" in warnings("ties", "one")
        assert not any("no effect" in each for each in warnings("linear", "base"))

    def test_parameters_of_a_slice_s_base_are_warned_of(self, untied):
        sources = [
            {"model": str(untied[name]), "layer_range": [0, 3], "parameters": {"weight": 0.5}}
            for name in ("one", "two")
        ]
        document = {"merge_method": "ties", "base_model": str(untied["one"])}
        document["slices"] = [{"sources": sources, "base_model": str(untied["two"]), "residual_weight": 0.5}]
        warnings = preflight(Recipe.from_document(document), scan=False).warnings
        assert warnings[:2] == (
            "slices[0].sources[1].parameters: weight has no effect on the base model",
            "slices[0]: residual_weight has no effect",
        )

    def test_a_model_without_a_tokenizer(self, untied, make_llama):
        parent = make_llama("parent")
        for file in parent.glob("tokenizer*"):
            file.unlink()
        warnings = preflight(Recipe.from_document(linear(untied["one"], parent))).warnings
        assert warnings[0] == f"vocabularies of {untied['one']} and {parent} not compared: no tokenizer"
