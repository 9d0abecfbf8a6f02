"""The order of a recipe's stages: which documents read which."""

from collections.abc import Iterable, Mapping, Sequence

from evomerge.errors import RecipeError
from evomerge.model_ref import ModelRef


def chained(names: Sequence[str | None], needs: Sequence[Iterable[ModelRef]], where: str) -> list[int]:
    """Places of documents in an order in which each comes after those that it reads, the recipe itself last.

    The recipe is the document without a name; if all have one, the last.

    Args:
        names: the name of each document.
        needs: the models of each document, among them names of others.
        where: names their file in errors.

    Raises:
        RecipeError: two documents of one name or none; a stage with an adapter or a revision; a cycle; a stage that
            reads the recipe.
    """
    places: dict[str | None, int] = {}
    for place, name in enumerate(names):
        if name in places:
            raise RecipeError(
                "two documents without a name" if name is None else f"stage {name!r} given twice",
                where=where,
                found=f"documents {places[name] + 1} and {place + 1}",
                remedy="name each stage once; the last document may go without",
            )
        places[name] = place
    last = places.get(None, len(names) - 1)
    reads = {place: _reads(names, places, place, refs, where) for place, refs in enumerate(needs)}
    order = _ordered(names, reads, where)
    for place in order:
        if last in reads[place]:
            raise RecipeError(
                "a stage reads the recipe itself",
                where=where,
                found=f"{names[place]!r} reads {names[last]!r}",
                remedy="put the document that is wanted last",
            )
    return [place for place in order if place != last] + [last]


def _reads(
    names: Sequence[str | None], places: Mapping[str | None, int], place: int, refs: Iterable[ModelRef], where: str
) -> list[int]:
    read = []
    for ref in refs:
        if ref.path in places:
            if ref != ModelRef(ref.path):
                raise RecipeError(
                    "a stage takes no revision and no adapter",
                    where=f"{where}: {names[place] or 'the last document'}",
                    found=str(ref),
                    remedy="apply the adapter to a model of the stage",
                )
            read.append(places[ref.path])
    return read


def _ordered(names: Sequence[str | None], reads: Mapping[int, Sequence[int]], where: str) -> list[int]:
    """Depth first; a place that is met again before it is done closes a cycle."""
    done: list[int] = []
    open_: list[int] = []

    def visit(place: int) -> None:
        if place in open_:
            cycle = [str(names[each]) for each in (*open_[open_.index(place) :], place)]
            raise RecipeError(
                "stages in a cycle",
                where=where,
                found=" reads ".join(cycle),
                remedy="let one of them read models alone",
            )
        if place not in done:
            open_.append(place)
            for other in reads[place]:
                visit(other)
            open_.pop()
            done.append(place)

    for place in reads:
        visit(place)
    return done
