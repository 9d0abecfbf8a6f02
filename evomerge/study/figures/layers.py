"""Heat maps: what the best recipe takes from each parent in each layer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from html import escape
from itertools import groupby

import plotly.graph_objects as go

from evomerge.errors import RecipeError
from evomerge.parameters import Parameters, Setting, conditions
from evomerge.recipe import Lookup, ModelRef, Recipe
from evomerge.study.facts import StudyFacts
from evomerge.study.figures.drawing import Figure, FigureFacts, blank, named, titled
from evomerge.study.tasks import sources

STEPS = 25  # places along the depth of whole models, whose number of layers a recipe does not tell
WRITTEN = 12  # columns up to which each cell has its value in it

_ALL = "all models"
_SCALE, _INK = ((0, "#d6e6f5"), (1, "#4c9bdc")), "#10151b"  # dark ink can be read on all of it
_ROW, _GAP, _FRAME = 54, 26, 104  # pixels of a row with its name, of the name, and of what is around the rows


@dataclass(frozen=True)
class LayerMap:
    """One parameter of a recipe over the layers.

    Attributes:
        parameter: its name.
        rows: a parent, or a parent and the tensors that a filter picks; one for all where models share the parameter.
        columns: layers, neighbours with equal values together; or places along the depth, in percent.
        values: for each row its value in each column, None where the row has none.
    """

    parameter: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class _Run:
    """A run of output layers: their labels, with t of each, the parameters of each model, and those of the run."""

    layers: tuple[tuple[str, float], ...]
    models: Mapping[ModelRef, Parameters]
    shared: tuple[Parameters, ...]


def layer_figures(facts: StudyFacts) -> Iterator[Figure]:
    """A heat map for each parameter of the recipe to export that may differ by layer or parent."""
    best, recipe = facts.document.best, _read(facts.recipe)
    if best is None or recipe is None:
        return
    names = {model: name for name, model in sources(facts.document).items()}
    for index, layer_map in enumerate(layer_maps(recipe, names)):
        figure = FigureFacts(
            name=f"layers-{index}",
            family="layers",
            title=f"{layer_map.parameter.capitalize()} by layer",
            caption=f"What the recipe of candidate {best.number} says for each parent and layer.",
            height=_FRAME + _ROW * len(layer_map.rows),
        )
        yield Figure(figure, partial(layer_figure, layer_map))


def layer_figure(layer_map: LayerMap) -> go.Figure:
    """A row of cells for each parent, its name above it."""
    rows = len(layer_map.rows)
    figure = blank(
        _FRAME + _ROW * rows,
        margin={"l": 8, "r": 8, "t": 8, "b": 48},
        xaxis=titled("layer")
        | {"side": "top", "type": "category", "tickangle": 0, "showgrid": False, "showline": False},
        yaxis={"visible": False, "range": [rows - 0.5, -0.5]},
    )
    values = [[None if value is None else round(value, 6) for value in row] for row in layer_map.values]
    figure.add_trace(
        go.Heatmap(
            x=layer_map.columns,
            y=list(range(rows)),
            z=values,
            text=[[escape(name)] * len(layer_map.columns) for name in layer_map.rows],
            texttemplate="%{z:.2f}" if len(layer_map.columns) <= WRITTEN else None,
            hovertemplate="%{text}<br>layer %{x}<br>%{z:.4f}<extra></extra>",
            colorscale=_SCALE,
            textfont={"color": _INK},
            ygap=_GAP,
            xgap=1,
            colorbar={"orientation": "h", "thickness": 10, "len": 1, "y": 0, "yanchor": "top", "outlinewidth": 0},
        )
    )
    for place, name in enumerate(layer_map.rows):
        figure.add_annotation(named(escape(name), y=place - 0.38, xref="paper"))
    return figure


def layer_maps(recipe: Recipe, names: Mapping[ModelRef, str]) -> tuple[LayerMap, ...]:
    """The parameters of a recipe that models have for themselves, or that differ between layers.

    Nothing but the recipe is read: whole models have places along their depth in place of layers. A recipe that takes
    layers whole has the share of each model.

    Args:
        recipe: of models or slices; one of modules has no maps.
        names: of the models; another is called as the recipe writes it.
    """
    runs = _runs(recipe)
    if recipe.merge_method == "passthrough":
        taken = [_Run(run.layers, {model: {"taken": 1.0} for model in run.models}, ()) for run in runs]
        return (_layer_map("taken", taken, names, default=0.0),) if len(runs) > 1 else ()
    own = dict.fromkeys(name for run in runs for each in run.models.values() for name in each)
    shared = dict.fromkeys(name for run in runs for scope in run.shared for name in scope if name not in own)
    maps = [_layer_map(name, runs, names) for name in (*own, *shared) if _is_number(name, runs)]
    return tuple(each for each in maps if each.parameter in own or len(each.columns) > 1)


def _layer_map(
    name: str, runs: Sequence[_Run], names: Mapping[ModelRef, str], default: float | None = None
) -> LayerMap:
    owners = dict.fromkeys(model for run in runs for model, own in run.models.items() if name in own)
    models: list[ModelRef | None] = [*owners] or [None]
    rows: dict[str, list[float | None]] = {}
    for model in models:
        title = _ALL if model is None else names.get(model, str(model))
        by_filter = {pattern: _row(name, runs, model, pattern, default) for pattern in _filters(name, runs)}
        if all(row == by_filter[None] for row in by_filter.values()):
            rows[title] = by_filter[None]
        else:
            rows |= {f"{title}: {pattern or 'other tensors'}": row for pattern, row in by_filter.items()}
    labels = [label for run in runs for label, _ in run.layers]
    places = list(range(len(labels)))
    columns = [list(each) for _, each in groupby(places, lambda place: [row[place] for row in rows.values()])]
    return LayerMap(
        parameter=name,
        rows=tuple(rows),
        columns=tuple(_joined(labels[column[0]], labels[column[-1]]) for column in columns),
        values=tuple(tuple(row[column[0]] for column in columns) for row in rows.values()),
    )


def _row(
    name: str, runs: Sequence[_Run], model: ModelRef | None, pattern: str | None, default: float | None
) -> list[float | None]:
    """The value in each layer for the tensors that a filter picks, None for those that none picks."""
    row: list[float | None] = []
    for run in runs:
        if model is not None and model not in run.models:
            row += [default] * len(run.layers)
            continue
        own = () if model is None else (run.models[model],)
        lookup = Lookup(name, "float", *own, *run.shared)
        row += [lookup.value(pattern or "", t) for _, t in run.layers]
    return row


def _runs(recipe: Recipe) -> list[_Run]:
    everywhere = recipe.parameters or {}
    if recipe.models is not None:
        depth = tuple((f"{100 * step / (STEPS - 1):.0f} %", step / (STEPS - 1)) for step in range(STEPS))
        return [_Run(depth, {each.model: each.parameters or {} for each in recipe.models}, (everywhere,))]
    runs, number = [], 0
    for part in recipe.slices or ():
        first, end = part.sources[0].layer_range
        last = end - first - 1
        # as `evomerge.merge` has it: t = 1 in a run of one layer
        layers = tuple((str(number + layer), layer / last if last else 1.0) for layer in range(end - first))
        models = {source.model: source.parameters or {} for source in part.sources}
        runs.append(_Run(layers, models, (part.parameters or {}, everywhere)))
        number += end - first
    return runs


def _settings(name: str, runs: Sequence[_Run]) -> Iterator[Setting]:
    for run in runs:
        yield from (scope[name] for scope in (*run.models.values(), *run.shared) if name in scope)


def _filters(name: str, runs: Sequence[_Run]) -> list[str | None]:
    """What the filters look for, and last None for the tensors that fit none of them."""
    found = (each.filter for setting in _settings(name, runs) for each in conditions(setting))
    return [*dict.fromkeys(pattern for pattern in found if pattern not in (None, "*")), None]


def _is_number(name: str, runs: Sequence[_Run]) -> bool:
    values: list[object] = []
    for setting in _settings(name, runs):
        found: list[object] = [each.value for each in conditions(setting)]
        for value in found or [setting]:
            values += value if isinstance(value, tuple) else [value]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _joined(first: str, last: str) -> str:
    return first if first == last else f"{first}–{last}"


@lru_cache(maxsize=16)  # pages ask again and again
def _read(recipe: str | None) -> Recipe | None:
    """A recipe of a study; None for one that only the evomerge that wrote it understands."""
    try:
        return None if recipe is None else Recipe.from_yaml(recipe)
    except RecipeError:
        return None
