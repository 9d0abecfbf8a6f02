import pytest
from pydantic import ValidationError

from evomerge.errors import ConfigError
from evomerge.genome import GenomeConfig, Range


def test_every_further_key_is_a_parameter():
    config = GenomeConfig.model_validate(
        {"method": "ties", "weight": {"low": 0, "init": 0.5}, "normalize": False, "random_seed": 2**60 + 1}
    )
    assert config.parameters == {"weight": Range(low=0, init=0.5), "normalize": False, "random_seed": 2**60 + 1}
    assert config.parameters["normalize"] is False


def test_a_dumped_config_is_the_same_config():
    config = GenomeConfig.model_validate(
        {"method": "ties", "layer_groups": [[0, 2], [2, 6]], "components": ["mlp"], "weight": {"high": 1}, "lambda": 1}
    )
    assert GenomeConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"weight": {"low": float("nan")}}, "one number or boolean, or"),
        ({"weight": "much"}, "one number or boolean, or"),
        ({"layer_groups": 0}, "a count of 1 or more, each, or"),
        ({"layer_groups": 2.5}, "a count of 1 or more, each, or"),
        ({"layer_groups": []}, "a count of 1 or more, each, or"),
        ({"layer_groups": [[0, 2, 4]]}, "a count of 1 or more, each, or"),
        ({"layer_groups": "every"}, "a count of 1 or more, each, or"),
        ({"components": ["mlp", "mlp"]}, "components that differ"),
        ({"shape": "smooth", "layer_groups": [[0, 2]]}, "knots lie at equal distances"),
        ({"shape": "smooth", "selection": "blend"}, "a gradient has no groups"),
        ({"selection": "whole"}, "method passthrough"),
        ({"method": "passthrough"}, "selection whole"),
        ({"method": "passthrough", "selection": "whole", "scale": {}}, "without components and parameters"),
        ({"selection": "some"}, "selection"),
    ],
)
def test_refuses(config, message):
    with pytest.raises(ValidationError, match=message):
        GenomeConfig.model_validate({"method": "ties"} | config)


def test_a_misspelt_bound_names_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown key \(genome: hihg\); did you mean 'high'\?"):
        GenomeConfig.model_validate({"method": "ties", "weight": {"low": 0, "hihg": 1}})
