import pytest
from pydantic import TypeAdapter, ValidationError

from evomerge.errors import ConfigError
from evomerge.optimize import CmaEsConfig, OptimizerConfig, RandomConfig, TpeConfig

check = TypeAdapter(OptimizerConfig).validate_python


def test_kind_chooses():
    assert check({"kind": "cma_es", "population": 12}) == CmaEsConfig(population=12)
    assert check({"kind": "tpe", "startup": 5}) == TpeConfig(startup=5)
    assert check({"kind": "random"}) == RandomConfig()


@pytest.mark.parametrize("config", [CmaEsConfig(sigma=0.3, restarts=2), TpeConfig(), RandomConfig()])
def test_a_dumped_config_is_the_same_config(config):
    assert check(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        ({"kind": "cma_es", "sgima": 0.1}, "did you mean 'sigma'?"),
        ({"kind": "tpe", "sigma": 0.1}, "known: 'kind', 'startup'"),
    ],
)
def test_an_unknown_key_is_told_with_what_the_kind_knows(config, remedy):
    with pytest.raises(ConfigError) as raised:
        check(config)
    assert raised.value.remedy == remedy


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "cma_es", "sigma": 0},
        {"kind": "cma_es", "sigma": 1.5},
        {"kind": "cma_es", "population": 3},
        {"kind": "cma_es", "restarts": -1},
        {"kind": "tpe", "startup": 0},
        {"kind": "annealing"},
        {},
    ],
)
def test_refuses(config):
    with pytest.raises(ValidationError):
        check(config)
