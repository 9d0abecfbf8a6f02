"""What a user may set about an optimizer; `kind` chooses which."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evomerge.errors import ConfigError, nearest


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, document: Any) -> Any:
        """An unknown key is told with what this kind knows, not with what another one does."""
        for key in document if isinstance(document, Mapping) else ():
            if key not in cls.model_fields:
                raise ConfigError("unknown key", where=f"optimizer.{key}", remedy=nearest(key, (*cls.model_fields,)))
        return document


class CmaEsConfig(_Config):
    """CMA-ES. Proposes generations; the best choice for float dimensions and workers that keep pace.

    Attributes:
        sigma: initial standard deviation, as a share of each dimension's range, in [0.01, 1].
        population: candidates of one generation, at least 4; None means 4 + 3 ln d.
        restarts: how often a search that stagnates starts anew with twice the population.
    """

    kind: Literal["cma_es"] = "cma_es"
    sigma: float = Field(1 / 6, ge=0.01, le=1)
    population: int | None = Field(None, ge=4)
    restarts: int = Field(9, ge=0)


class TpeConfig(_Config):
    """Optuna's tree-structured Parzen estimator. Asynchronous; knows the gates as constraints.

    Attributes:
        startup: candidates drawn at random before the model is used; the first one is the initial vector.
    """

    kind: Literal["tpe"] = "tpe"
    startup: int = Field(10, ge=1)


class RandomConfig(_Config):
    """Uniform random search, the baseline that an optimizer has to beat. Asynchronous."""

    kind: Literal["random"] = "random"


OptimizerConfig: TypeAlias = Annotated[CmaEsConfig | TpeConfig | RandomConfig, Field(discriminator="kind")]
