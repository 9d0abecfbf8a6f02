"""What a user writes about the space that is searched."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from evomerge.errors import ConfigError, nearest


class Range(BaseModel):
    """A parameter that is searched.

    Attributes:
        low, high: its bounds; where one is missing, the method's own.
        init: where the search begins; where it is missing, the middle.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    init: FiniteFloat | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, document: Any) -> Any:
        for key in document if isinstance(document, Mapping) else ():
            if key not in cls.model_fields:
                raise ConfigError("unknown key", where=f"genome: {key}", remedy=nearest(key, (*cls.model_fields,)))
        return document


def _told_as(expected: str) -> WrapValidator:
    """One complaint in place of one for each member of a union."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise ValueError(expected) from None

    return WrapValidator(check)


ParameterConfig: TypeAlias = Annotated[
    Range | bool | int | FiniteFloat, _told_as("one number or boolean, or {low, high, init} with numbers")
]
LayerRange: TypeAlias = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]]
LayerGroups: TypeAlias = Annotated[
    Annotated[int, Field(ge=1, strict=True)] | Literal["each"] | Annotated[tuple[LayerRange, ...], Field(min_length=1)],
    _told_as("a count of 1 or more, each, or a list of [first, end) ranges"),
]


class GenomeConfig(BaseModel):
    """The space that is searched.

    Every key besides those below is a parameter of the method: a `Range` to search, or a number or boolean that holds
    for all candidates. `Genome` checks them against the method.

    Attributes:
        method: a merge method.
        layer_groups: how many groups of consecutive layers have parameters of their own; or `each` layer; or the groups
            themselves as [first, end) ranges that cover the layers without gap. With shape `smooth`, the number of
            knots of the gradient.
        components: parts of tensor names; in each group the tensors that contain one have parameters of their own, the
            first that fits decides, and what contains none shares one more set.
        shape: `step` for parameters that are constant within a group, `smooth` for straight lines between knots.
        selection: `blend` lets each group either be merged or be taken whole from one parent; `whole` always takes it
            whole (method passthrough).
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    __pydantic_extra__: dict[str, ParameterConfig]

    method: str
    layer_groups: LayerGroups = 1
    components: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    shape: Literal["step", "smooth"] = "step"
    selection: Literal["none", "blend", "whole"] = "none"

    @property
    def parameters(self) -> dict[str, Range | float | int | bool]:
        """The method's parameters that are set, in the order they were written."""
        return self.__pydantic_extra__

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.components)) < len(self.components):
            raise ValueError("components that differ from each other")
        if self.shape == "smooth" and isinstance(self.layer_groups, tuple):
            raise ValueError("a count of layer_groups, or each, where shape is smooth: knots lie at equal distances")
        if self.shape == "smooth" and self.selection != "none":
            raise ValueError("shape step where groups are selected: a gradient has no groups")
        if self.selection == "whole" and (self.method != "passthrough" or self.parameters or self.components):
            raise ValueError("method passthrough, without components and parameters, where selection is whole")
        if self.method == "passthrough" and self.selection != "whole":
            raise ValueError("selection whole where the method is passthrough")
        return self
