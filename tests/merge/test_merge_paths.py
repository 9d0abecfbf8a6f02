"""A recipe gives the same bits on disk and in a live model, and the bits that its arithmetic says."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evomerge.errors import RecipeError
from evomerge.merge import LiveModel, Sources, StatisticsCache, make_plan, merge_to_disk, open_sources, stream
from evomerge.recipe import Recipe

CPU = torch.device("cpu")
TOKENS = torch.arange(8)[None]

METHODS = {
    "linear": {"parameters": {"weight": 0.5}},
    "slerp": {"parameters": {"t": [0.1, 0.8]}},
    "task_arithmetic": {"parameters": {"weight": 0.6, "lambda": 0.9}},
    "ties": {"parameters": {"weight": 0.6, "density": 0.4}},
    "dare_linear": {"parameters": {"weight": 0.6, "density": 0.4, "random_seed": 3}},
    "dare_ties": {"parameters": {"weight": 0.6, "density": [0.2, 0.9], "random_seed": 3}},
    "della": {"parameters": {"weight": 0.6, "density": [0.4, 0.5], "random_seed": 3}},
    "passthrough": {"parameters": {"scale": 0.9}},
}
SINGLE = ("slerp", "passthrough")


def recipe(method, folders, dtype="float32", **keys):
    names = ["one"] if method in SINGLE else ["one", "two"]
    document = {"merge_method": method, "dtype": dtype, "models": [{"model": str(folders[name])} for name in names]}
    if method not in ("linear", "passthrough"):
        document["base_model"] = str(folders["base"])
    return Recipe.from_document(document | METHODS[method] | keys)


def live(recipe, model=None, dtype=None):
    checkpoints = open_sources(recipe)
    plan = make_plan(recipe, checkpoints)
    model = model or LiveModel(plan.config, dtype=dtype or plan.out_dtype, device=CPU)
    model.load(plan, stream(plan, Sources(checkpoints, CPU), device=CPU, statistics=StatisticsCache()))
    return model


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_model(live_model, folder):
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    found, expected = live_model.model.state_dict(), loaded.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    with torch.no_grad():
        assert torch.equal(live_model.model(TOKENS).logits, loaded(TOKENS).logits)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["untied", "tied"])
@pytest.mark.parametrize("method", list(METHODS))
def test_disk_and_live_agree_bit_for_bit(request, tmp_path, method, kind, dtype):
    merged = recipe(method, request.getfixturevalue(kind), dtype)
    merge_to_disk(merged, tmp_path / "out", device="cpu")
    assert_same_model(live(merged), tmp_path / "out")
    assert ("lm_head.weight" in weights(tmp_path / "out")) == (kind == "untied")


def test_a_used_live_model_forgets_the_merge_before(untied, tmp_path):
    model = live(recipe("ties", untied))
    live(recipe("dare_ties", untied), model)
    again = live(recipe("ties", untied), model)
    merge_to_disk(recipe("ties", untied), tmp_path / "out", device="cpu")
    assert_same_model(again, tmp_path / "out")


def test_linear_of_two_by_hand(untied, tmp_path):
    entries = [
        {"model": str(untied["one"]), "parameters": {"weight": 1.0}},
        {"model": str(untied["two"]), "parameters": {"weight": 3.0}},
    ]
    merge_to_disk(recipe("linear", untied, models=entries, parameters=None), tmp_path / "out", device="cpu")
    one, two, merged = weights(untied["one"]), weights(untied["two"]), weights(tmp_path / "out")
    assert merged.keys() == one.keys()
    for name in merged:
        torch.testing.assert_close(merged[name].double(), one[name].double() * 0.25 + two[name].double() * 0.75)


def test_task_arithmetic_of_weight_one_brings_the_parent_back(untied, tmp_path):
    document = {"models": [{"model": str(untied["one"])}], "parameters": {"weight": 1.0}}
    merge_to_disk(recipe("task_arithmetic", untied, **document), tmp_path / "out", device="cpu")
    for name, tensor in weights(untied["one"]).items():
        torch.testing.assert_close(weights(tmp_path / "out")[name], tensor, rtol=0, atol=3e-7)


def test_a_statistic_is_measured_once_for_all_recipes(untied):
    checkpoints = open_sources(recipe("ties", untied))
    statistics = StatisticsCache()
    sources = Sources(checkpoints, CPU)
    outcomes = []
    for density in (0.2, 0.7, 0.2):
        plan = make_plan(recipe("ties", untied, parameters={"weight": 1.0, "density": density}), checkpoints)
        merges = stream(plan, sources, device=CPU, statistics=statistics)
        outcomes.append({merge.tensor.name: merge.whole() for merge in merges})
        assert len(statistics) == 2 * len(plan.tensors)
    assert all(torch.equal(tensor, outcomes[2][name]) for name, tensor in outcomes[0].items())
    assert not torch.equal(outcomes[0]["lm_head.weight"], outcomes[1]["lm_head.weight"])


def test_ranks_are_kept_as_far_as_there_is_room(untied):
    checkpoints = open_sources(recipe("della", untied))
    sources = Sources(checkpoints, CPU)

    def merged(statistics, density):
        plan = make_plan(recipe("della", untied, parameters={"weight": 1.0, "density": density}), checkpoints)
        merges = stream(plan, sources, device=CPU, statistics=statistics)
        return {merge.tensor.name: merge.whole() for merge in merges}, plan.tensors

    anew, tensors = merged(StatisticsCache(), 0.5)
    every = 2 * sum(math.prod(tensor.shape) for tensor in tensors)  # of two parents, in bytes, as no row is long
    for room, count in ((sources.room, 2 * len(tensors)), (every, 2 * len(tensors)), (every - 1, 2 * len(tensors) - 1)):
        statistics = StatisticsCache(room=room)
        for density in (0.4, 0.5):
            found, _ = merged(statistics, density)
            assert len(statistics) == count
        assert all(torch.equal(tensor, found[name]) for name, tensor in anew.items())
    once = StatisticsCache(keep=False, room=every)
    merged(once, 0.5)
    assert len(once) == 0


def test_out_dtype_is_the_dtype_of_tensors_and_config(untied, tmp_path):
    merge_to_disk(recipe("linear", untied, out_dtype="float16"), tmp_path / "out", device="cpu")
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {torch.float16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float16"


def test_without_a_dtype_each_tensor_keeps_its_own(make_llama, tmp_path):
    folders = {name: make_llama(name, seed, dtype=torch.bfloat16) for seed, name in enumerate(("one", "two"))}
    merge_to_disk(recipe("linear", folders, None), tmp_path / "out", device="cpu")
    assert {tensor.dtype for tensor in weights(tmp_path / "out").values()} == {torch.bfloat16}


def test_progress_ends_with_all_bytes(untied, tmp_path):
    seen = []
    merged = recipe("linear", untied)
    merge_to_disk(merged, tmp_path / "out", device="cpu", progress=lambda *bytes_: seen.append(bytes_))
    total = sum(tensor.nbytes for tensor in weights(tmp_path / "out").values())
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


def test_a_generation_config_is_the_same_on_disk_and_live(make_llama, tmp_path):
    folder = make_llama("one")
    settings = {"repetition_penalty": 1.3, "eos_token_id": [3, 4]}
    (folder / "generation_config.json").write_text(json.dumps(settings))
    merged = Recipe.from_document({"merge_method": "passthrough", "models": [{"model": str(folder)}]})
    merge_to_disk(merged, tmp_path / "out", device="cpu")
    on_disk = AutoModelForCausalLM.from_pretrained(tmp_path / "out").generation_config
    assert (on_disk.repetition_penalty, on_disk.eos_token_id) == (1.3, [3, 4])
    found = live(merged).model.generation_config
    assert (found.repetition_penalty, found.eos_token_id) == (1.3, [3, 4])


def test_a_live_model_forgets_the_generation_config_before(make_llama):
    folders = [make_llama("one"), make_llama("two")]
    (folders[0] / "generation_config.json").write_text(json.dumps({"repetition_penalty": 1.3}))
    (folders[1] / "generation_config.json").unlink(missing_ok=True)
    first, second = ({"merge_method": "passthrough", "models": [{"model": str(folder)}]} for folder in folders)
    model = live(Recipe.from_document(first))
    assert model.model.generation_config.repetition_penalty == 1.3
    fresh = live(Recipe.from_document(second)).model.generation_config
    assert live(Recipe.from_document(second), model).model.generation_config.to_dict() == fresh.to_dict()


def test_a_config_that_names_no_dtype_of_weights_leaves_it_to_the_tensors(make_llama):
    folder = make_llama("odd", dtype=torch.bfloat16)
    for stated in ("float8_e4m3fn", 5, None):
        config = json.loads((folder / "config.json").read_text()) | {"dtype": stated}
        (folder / "config.json").write_text(json.dumps(config))
        merged = recipe("passthrough", {"one": folder}, None)
        assert make_plan(merged, open_sources(merged)).out_dtype == torch.bfloat16


def test_wide_sources_lose_their_width_with_a_warning(make_llama):
    merged = recipe("passthrough", {"one": make_llama("wide", dtype=torch.float64)}, None)
    plan = make_plan(merged, open_sources(merged))
    assert "tensors of float64 are merged in float32" in plan.warnings
    assert plan.tensors[0].dtype == torch.float64


class TestTies:
    def test_models_that_differ_in_it_get_a_head(self, tied, untied, tmp_path):
        folders = {"one": tied["one"], "two": untied["two"]}
        merged = recipe("linear", folders)
        plan = make_plan(merged, open_sources(merged))
        assert plan.config["tie_word_embeddings"] is False
        assert "some models tie their embeddings and some do not" in plan.warnings[-1]
        merge_to_disk(merged, tmp_path / "out", device="cpu")
        expected = (weights(tied["one"])["model.embed_tokens.weight"] + weights(untied["two"])["lm_head.weight"]) / 2
        torch.testing.assert_close(weights(tmp_path / "out")["lm_head.weight"], expected)
        assert_same_model(live(merged), tmp_path / "out")

    def test_a_copy_of_the_embedding_in_the_file_is_left_out(self, tied, make_llama, tmp_path):
        folder = make_llama("copy", 1, tie_word_embeddings=True)
        tensors = weights(folder)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        merge_to_disk(recipe("linear", {"one": tied["base"], "two": folder}), tmp_path / "out", device="cpu")
        assert "lm_head.weight" not in weights(tmp_path / "out")

    @pytest.mark.parametrize("order", [("untied", "tied"), ("tied", "untied")])
    def test_slices_of_models_that_differ_in_it_take_the_head_from_the_last(self, request, tmp_path, order):
        first, last = (request.getfixturevalue(kind)["one"] for kind in order)
        slices = [{"sources": [{"model": str(folder), "layer_range": [0, 2]}]} for folder in (first, last)]
        merged = Recipe.from_document({"merge_method": "passthrough", "dtype": "float32", "slices": slices})
        merge_to_disk(merged, tmp_path / "out", device="cpu")
        head = "lm_head.weight" if order[1] == "untied" else "model.embed_tokens.weight"
        assert torch.equal(weights(tmp_path / "out")["lm_head.weight"], weights(last)[head])
        assert_same_model(live(merged), tmp_path / "out")

    @pytest.mark.parametrize(("base", "parent", "expected"), [("untied", "tied", True), ("tied", "untied", False)])
    def test_a_base_that_is_not_merged_does_not_decide_it(self, request, tmp_path, base, parent, expected):
        base, parent = (request.getfixturevalue(kind)["one"] for kind in (base, parent))
        slices = [{"sources": [{"model": str(parent), "layer_range": [0, 3]}]}]
        document = {"merge_method": "passthrough", "base_model": str(base), "slices": slices}
        merged = Recipe.from_document(document)
        merge_to_disk(merged, tmp_path / "out", device="cpu")
        assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is expected
        assert_same_model(live(merged), tmp_path / "out")

    def test_a_config_that_does_not_say_it(self, untied, make_llama):
        """Where a family of models is tied unless told otherwise, the config of an untied merge must tell."""
        folder = make_llama("silent", 1, tie_word_embeddings=True)
        config = json.loads((folder / "config.json").read_text())
        del config["tie_word_embeddings"]
        (folder / "config.json").write_text(json.dumps(config))
        merged = recipe("linear", {"one": folder, "two": untied["two"]})
        assert make_plan(merged, open_sources(merged)).config["tie_word_embeddings"] is False

    def test_filters_know_a_tied_head_by_the_name_of_the_head(self, tied, untied):
        weight = [{"filter": "lm_head", "value": 5.0}, {"value": 1.0}]
        merged = recipe("linear", {"one": tied["one"], "two": untied["two"]}, parameters={"weight": weight})
        plan = make_plan(merged, open_sources(merged))
        found = {tensor.name: tensor.each["weight"] for tensor in plan.tensors}
        assert found["lm_head.weight"] == (5.0, 5.0)
        assert found["model.embed_tokens.weight"] == (1.0, 1.0)


class TestDepth:
    def slices(self, folders, *ranges):
        entries = [{"sources": [{"model": str(folders[name]), "layer_range": [a, b]}]} for name, a, b in ranges]
        return Recipe.from_document({"merge_method": "passthrough", "dtype": "float32", "slices": entries})

    @pytest.mark.parametrize("kind", ["untied", "tied"])
    def test_layers_can_be_repeated_and_reordered(self, request, kind, tmp_path):
        folders = request.getfixturevalue(kind)
        merged = self.slices(folders, ("one", 1, 3), ("two", 0, 1), ("one", 2, 3), ("two", 0, 2))
        merge_to_disk(merged, tmp_path / "out", device="cpu")
        one, two, found = weights(folders["one"]), weights(folders["two"]), weights(tmp_path / "out")
        order = [(one, 1), (one, 2), (two, 0), (one, 2), (two, 0), (two, 1)]
        for index, (source, layer) in enumerate(order):
            for part in ("self_attn.q_proj", "mlp.down_proj", "input_layernorm"):
                expected = source[f"model.layers.{layer}.{part}.weight"]
                assert torch.equal(found[f"model.layers.{index}.{part}.weight"], expected)
        assert torch.equal(found["model.embed_tokens.weight"], one["model.embed_tokens.weight"])
        assert torch.equal(found["model.norm.weight"], two["model.norm.weight"])
        assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 6
        assert_same_model(live(merged), tmp_path / "out")

    def test_a_live_model_follows_a_change_of_depth_and_back(self, untied, tmp_path):
        short, long = self.slices(untied, ("one", 0, 1)), self.slices(untied, ("one", 0, 3), ("two", 1, 3))
        merge_to_disk(long, tmp_path / "long", device="cpu")
        merge_to_disk(short, tmp_path / "short", device="cpu")
        model = live(short)
        for merged, folder in ((long, "long"), (short, "short")):
            assert_same_model(live(merged, model), tmp_path / folder)

    def test_lists_with_an_entry_for_each_layer_follow(self, untied, make_llama):
        folder = make_llama("listed")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"layer_types": ["a", "b", "c"]}))
        merged = self.slices({"one": folder}, ("one", 2, 3), ("one", 0, 2), ("one", 1, 2))
        assert make_plan(merged, open_sources(merged)).config["layer_types"] == ["c", "a", "b", "b"]

    def test_settings_that_name_layers_by_number_do_not_follow(self, make_llama):
        folder = make_llama("numbered")
        config = json.loads((folder / "config.json").read_text())
        config |= {"mlp_only_layers": [2], "first_k_dense_replace": 0, "max_window_layers": 3}
        (folder / "config.json").write_text(json.dumps(config))

        def warned(*ranges):
            merged = self.slices({"one": folder}, *(("one", *each) for each in ranges))
            warnings = make_plan(merged, open_sources(merged)).warnings
            return [warning for warning in warnings if "by their numbers" in warning]

        assert warned((0, 1), (1, 3)) == []
        assert warned((0, 3), (2, 3)) == warned((1, 2), (0, 1), (2, 3))
        assert [warning.split()[0] for warning in warned((0, 2))] == ["mlp_only_layers"]
        (folder / "config.json").write_text(json.dumps(config | {"use_sliding_window": True}))
        assert [warning.split()[0] for warning in warned((0, 2))] == ["max_window_layers", "mlp_only_layers"]

    def test_merged_slices_at_shifted_layers(self, untied, tmp_path):
        document = {
            "merge_method": "slerp",
            "dtype": "float32",
            "base_model": str(untied["base"]),
            "slices": [
                {
                    "sources": [
                        {"model": str(untied["base"]), "layer_range": [0, 2]},
                        {"model": str(untied["one"]), "layer_range": [1, 3]},
                    ]
                }
            ],
            "parameters": {"t": [0.0, 1.0]},
        }
        merge_to_disk(Recipe.from_document(document), tmp_path / "out", device="cpu")
        base, one, found = weights(untied["base"]), weights(untied["one"]), weights(tmp_path / "out")
        name = "model.layers.{}.mlp.up_proj.weight"
        assert torch.equal(found[name.format(0)], base[name.format(0)])  # t = 0 at the first layer
        assert torch.equal(found[name.format(1)], one[name.format(2)])  # t = 1 at the last one


class TestBase:
    """Where a base model stands: required, optional or one of the models."""

    def plan(self, folders, method, names, *, base=None, **parameters):
        document = {"merge_method": method, "models": [{"model": str(folders[name])} for name in names]}
        document |= {} if base is None else {"base_model": str(folders[base])}
        merged = Recipe.from_document(document | {"parameters": parameters})
        return make_plan(merged, open_sources(merged)).tensors[0]

    def test_an_optional_base_is_added_where_it_is_named(self, untied):
        tensor = self.plan(untied, "nuslerp", ("one", "two"), base="base", weight=0.5)
        assert tensor.base.ref.path == str(untied["base"])
        assert [source.ref.path for source in tensor.models] == [str(untied["one"]), str(untied["two"])]
        assert tensor.numbers == (1, 2)

    def test_an_optional_base_may_be_left_out(self, untied):
        tensor = self.plan(untied, "nuslerp", ("one", "two"), weight=0.5)
        assert tensor.base is None
        assert [source.ref.path for source in tensor.models] == [str(untied["one"]), str(untied["two"])]

    def test_a_base_among_the_models_counts_as_the_base(self, untied):
        tensor = self.plan(untied, "slerp", ("base", "one"), base="base", t=0.5)
        assert tensor.base.ref.path == str(untied["base"])
        assert [source.ref.path for source in tensor.models] == [str(untied["one"])]

    @pytest.mark.parametrize(
        ("method", "names", "base", "message"),
        [
            ("nuslerp", ("one",), "base", r"expected 2 besides the base model, found .*one \(1\)"),
            ("nuslerp", ("one", "two", "base"), None, r"expected 2, found .*one, .*two, .*base \(3\)"),
            ("slerp", ("base",), "base", r"expected 1 besides the base model, found none \(0\)"),
            ("model_stock", ("one",), "base", r"expected at least 2 besides the base model, found .*one \(1\)"),
            ("passthrough", ("one", "two"), None, r"expected 1, found .*one, .*two \(2\)"),
        ],
    )
    def test_too_few_or_too_many(self, untied, method, names, base, message):
        with pytest.raises(RecipeError, match=message):
            self.plan(untied, method, names, base=base, t=0.5) if method == "slerp" else self.plan(
                untied, method, names, base=base
            )


def test_an_adapter_is_merged_as_the_model_that_it_makes(untied, tmp_path):
    name = "model.layers.1.mlp.up_proj"
    a, b = torch.randn(2, 16), torch.randn(24, 2)
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    factors = {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    save_file(factors, lora / "adapter_model.safetensors")
    document = {"merge_method": "task_arithmetic", "base_model": str(untied["base"]), "parameters": {"weight": 0.5}}
    document["models"] = [{"model": f"{untied['base']}+{lora}"}]
    merge_to_disk(Recipe.from_document(document), tmp_path / "out", device="cpu")
    base, found = weights(untied["base"]), weights(tmp_path / "out")
    changed = f"{name}.weight"
    torch.testing.assert_close(found[changed], base[changed] + 0.5 * 2 * (b @ a), rtol=0, atol=1e-5)
    assert all(torch.equal(found[each], base[each]) for each in base if each != changed)


def test_an_adapter_does_not_widen_the_output(make_llama, tmp_path):
    folder, name = make_llama("base", dtype=torch.bfloat16), "model.layers.1.mlp.up_proj"
    lora = tmp_path / "lora"
    lora.mkdir()
    (lora / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    a, b = torch.randn(2, 16), torch.randn(24, 2)
    factors = {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    save_file(factors, lora / "adapter_model.safetensors")
    entry = {"model": f"{folder}+{lora}"}
    merge_to_disk(
        Recipe.from_document({"merge_method": "passthrough", "models": [entry]}), tmp_path / "out", device="cpu"
    )
    base, found = weights(folder), weights(tmp_path / "out")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    expected = base[f"{name}.weight"].float() + 2 * (b @ a)
    torch.testing.assert_close(found[f"{name}.weight"], expected.bfloat16(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("base", ["base", "two"])
def test_the_base_of_a_slice_gives_rows_to_methods_without_a_base(dialects, rows_of, own_rows, base):
    sources = [{"model": str(folder), "layer_range": [0, 1]} for folder in dialects.values()]
    document = {"merge_method": "linear", "parameters": {"weight": 1.0}, "base_model": str(dialects["base"])}
    document |= {"slices": [{"sources": sources, "base_model": str(dialects[base])}], "tokenizer_source": "union"}
    ids, given = rows_of(Recipe.from_document(document))
    own = {name: own_rows(folder) for name, folder in dialects.items()}
    bird = own["two"]["bird"] if base == "two" else (own["one"]["bird"] + own["two"]["bird"]) / 2
    end = own["base"]["<end>"] if base == "base" else (own["base"]["<end>"] + own["one"]["<end>"]) / 2
    torch.testing.assert_close(given["base"][ids["bird"]], bird)  # which the base lacks
    torch.testing.assert_close(given["two"][ids["<end>"]], end)  # which two lacks
