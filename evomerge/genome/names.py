"""Short names of models, for dimensions, baselines and gates."""

from collections.abc import Sequence

from evomerge.recipe import ModelRef

BLEND = "blend"  # the option of a layer group that is merged, not taken whole from a parent
RESERVED = ("base", "best_parent", BLEND)  # the first two are what a gate may name besides the parents


def short_names(refs: Sequence[ModelRef]) -> tuple[str, ...]:
    """A name for each parent: the last part of the path of its adapter, or else of the model.

    A name that is taken, by an earlier parent or by a reserved word, gets a number: `final_2`.
    """
    names: list[str] = []
    for ref in refs:
        name = (ref.adapter or ref.path).replace("\\", "/").rstrip("/").rpartition("/")[2]
        taken = (*RESERVED, *names)
        number = next(n for n in range(1, len(taken) + 2) if _numbered(name, n) not in taken)
        names.append(_numbered(name, number))
    return tuple(names)


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"
