"""`evomerge bench merge`: every method on synthetic models, to disk and into a live model, each beside its floor."""

import json
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

from evomerge.bench.floor import memory_floor, synchronize
from evomerge.bench.machine import Machine, describe_machine
from evomerge.bench.process import Run, import_torch, run_merge
from evomerge.bench.synthetic import MAX_PARENTS, llama_config, llama_headers, parse_count, write_models
from evomerge.checkpoint import dtype_name, dtype_of, open_checkpoint
from evomerge.errors import UsageError
from evomerge.merge import LiveModel, Sources, StatisticsCache, make_plan, resolve_device, stream
from evomerge.merge.kernels import Kernels, Mode
from evomerge.methods import METHODS, Method, Value, get_method
from evomerge.recipe import ModelRef, Recipe, Setting

# What papers use where the record has no default, or one that leaves the method nothing to do.
_DENSITY, _T, _TOPK = 0.5, 0.5, 0.1


@dataclass(frozen=True)
class DiskCost:
    """Merges by the command line, statistics cold, each in a process of its own: one, and then medians of others.

    Attributes:
        startup: seconds until weights were first read by the first one.
        first: seconds that it took from then on, kernels that were not in the cache included.
        seconds: of another one, in memory that the floor has just left.
        floor: seconds to read the same bytes and to write as many, just before, in the same process.
        gbps: 10**9 bytes read and written in a second.
        anonymous: most bytes of anonymous memory beyond those of an interpreter with torch; None if they are not known.
    """

    startup: float
    first: float
    seconds: float
    floor: float
    gbps: float
    anonymous: int | None

    @property
    def ratio(self) -> float:
        """To the floor."""
        return self.seconds / self.floor


@dataclass(frozen=True)
class LiveCost:
    """Merges into a live model: medians.

    Attributes:
        first: seconds of the first one, statistics cold.
        seconds: of one with statistics cached.
        floor: seconds to read the sources and to write the parameters, in memory.
        gbps: 10**9 bytes read and written in a second.
    """

    first: float
    seconds: float
    floor: float
    gbps: float

    @property
    def ratio(self) -> float:
        """To the floor."""
        return self.seconds / self.floor


@dataclass(frozen=True)
class MethodCost:
    """What one method costs.

    Attributes:
        method: its name.
        parameters: of the recipe.
        models: how many were merged, the base included.
        disk, live: the two ways.
    """

    method: str
    parameters: Mapping[str, Setting]
    models: int
    disk: DiskCost
    live: LiveCost


@dataclass(frozen=True)
class Report:
    """All that was measured.

    Attributes:
        machine: where.
        parameters: elements of each model.
        parents: how many there were besides the base.
        dtype: of the models and of the output.
        repeat: how many runs a median is of.
        kernels: when they were compiled.
        startup: median over methods of the seconds from the start of `evomerge merge` until weights were first read.
        import_torch: median seconds of `python -c 'import torch'`.
        methods: one after another.
    """

    machine: Machine
    parameters: int
    parents: int
    dtype: str
    repeat: int
    kernels: Mode
    startup: float
    import_torch: float
    methods: tuple[MethodCost, ...]

    def to_json(self) -> str:
        """All of it as a JSON object."""
        document = asdict(self)
        for entry, cost in zip(document["methods"], self.methods, strict=True):
            entry["disk"]["ratio"], entry["live"]["ratio"] = cost.disk.ratio, cost.live.ratio
        return json.dumps(document, indent=2)


def bench_recipe(method: Method, models: Sequence[ModelRef], dtype: torch.dtype) -> Recipe:
    """The recipe that measures a method: as many of the parents as it takes, parameters as papers have them.

    Args:
        method: of the recipe.
        models: the base, then the parents.
        dtype: of the output.
    """
    base, *parents = models
    parents = parents[: method.max_models]
    document = {
        "merge_method": method.name,
        "models": [{"model": parent.document} for parent in parents],
        "parameters": _usual(method, len(parents)),
        "dtype": dtype_name(dtype),
    }
    if method.base == "required":
        document["base_model"] = base.document
    return Recipe.from_document(document)


def bench_merge(
    parameters: str,
    parents: int,
    dtype: str,
    *,
    methods: str = "all",
    device: str = "auto",
    repeat: int = 3,
    kernels: Mode = "always",
    keep: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Report:
    """Measure.

    Args:
        parameters: of each model, about; such as `350M`.
        parents: how many besides the base.
        dtype: of the models and of the output.
        methods: names, joined by commas; or `all`, those that so many parents are enough for.
        device: where merges are computed.
        repeat: how many runs a median is of.
        kernels: when to compile.
        keep: where the models are written and stay; else a temporary folder.
        say: told what is under way.

    Raises:
        RecipeError: there is no such method.
        UsageError: a value that cannot be, no room on the disk, `keep` has models already, or a merge failed.
    """
    count, where, kind = parse_count(parameters), resolve_device(device), dtype_of(dtype)
    check_range("--parents", parents, 1, MAX_PARENTS)
    check_range("--repeat", repeat, 1, 1000)
    chosen = _choose(methods, parents)
    headers = llama_headers(llama_config(count, kind), kind)
    with _folder(keep) as folder:
        _check_space(folder, sum(header.nbytes for header in headers) * (parents + 2))  # an output or a floor, too
        say(f"writing {parents + 1} models")
        models = write_models(folder, count, parents, kind)
        bench = _Bench(folder, models, kind, where, repeat, kernels, say)
        costs = tuple(bench.cost(method) for method in chosen)
    return Report(
        machine=describe_machine(where),
        parameters=sum(header.size for header in headers),
        parents=parents,
        dtype=dtype,
        repeat=repeat,
        kernels=kernels,
        startup=median(cost.disk.startup for cost in costs),
        import_torch=median(bench.import_torch),
        methods=costs,
    )


def _choose(names: str, parents: int) -> tuple[Method, ...]:
    if names == "all":
        return tuple(method for method in METHODS.values() if method.min_models <= parents)
    methods = tuple(get_method(name.strip(), "--methods") for name in names.split(","))
    for method in methods:
        if method.min_models > parents:
            expected = f"at least {method.min_models} for {method.name}"
            raise UsageError("too few parents", where="--parents", expected=expected, found=parents)
    return methods


def check_range(where: str, value: int, low: int, high: int) -> None:
    """Refuse a value of an option that is not in [low, high]. Raises UsageError."""
    if not low <= value <= high:
        raise UsageError("out of range", where=where, expected=f"{low} to {high}", found=value)


class _Bench:
    def __init__(
        self,
        folder: Path,
        models: Sequence[ModelRef],
        dtype: torch.dtype,
        device: torch.device,
        repeat: int,
        kernels: Mode,
        say: Callable[[str], None],
    ) -> None:
        self.import_torch: list[float] = []
        self._folder, self._models, self._dtype, self._device = folder, models, dtype, device
        self._repeat, self._kernels, self._say = repeat, kernels, say
        self._live = LiveModel(open_checkpoint(models[0]).config, dtype=dtype, device=device)
        for parameter in self._live.model.parameters():
            parameter.zero_()  # the system gives memory when it is first written to, which is no part of a merge

    def cost(self, method: Method) -> MethodCost:
        recipe = bench_recipe(method, self._models, self._dtype)
        checkpoint = open_checkpoint(self._models[0])
        nbytes = sum(header.nbytes for header in checkpoint.headers.values()) * (len(recipe.models_used) + 1)
        self._say(f"{method.name}: to disk")
        disk = self._disk(recipe, nbytes)
        self._say(f"{method.name}: into a live model")
        live = self._load(recipe, nbytes)
        return MethodCost(method.name, recipe.parameters or {}, len(recipe.models_used), disk, live)

    def _disk(self, recipe: Recipe, nbytes: int) -> DiskCost:
        with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
            return self._merges(recipe, nbytes, Path(scratch))

    def _merges(self, recipe: Recipe, nbytes: int, scratch: Path) -> DiskCost:
        written, out = scratch / "recipe.yaml", scratch / "merged"
        written.write_text(recipe.to_yaml(), encoding="utf-8")
        command = [str(written), str(out), "--device", str(self._device), "--compile", self._kernels]

        def merge(floor: Path | None = None) -> Run:
            run = run_merge(command, floor)
            shutil.rmtree(out)
            return run

        bare, anonymous = import_torch()
        self.import_torch.append(bare)
        first = merge()
        runs = [merge(scratch / "floor") for _ in range(self._repeat)]
        seconds = median(run.seconds for run in runs)
        peaks = [run.anonymous for run in (first, *runs) if run.anonymous is not None]
        return DiskCost(
            first=first.seconds,
            startup=first.startup,
            seconds=seconds,
            floor=median(run.floor for run in runs if run.floor is not None),
            gbps=nbytes / seconds / 1e9,
            anonymous=max(peaks) - anonymous if peaks and anonymous is not None else None,
        )

    def _load(self, recipe: Recipe, nbytes: int) -> LiveCost:
        checkpoints = {ref: open_checkpoint(ref) for ref in recipe.models_used}
        plan = make_plan(recipe, checkpoints)
        sources = Sources(checkpoints, self._device)
        statistics, kernels = StatisticsCache(room=sources.room), Kernels(self._kernels)

        def load() -> float:
            synchronize(self._device)
            began = time.monotonic()
            self._live.load(plan, stream(plan, sources, device=self._device, statistics=statistics, kernels=kernels))
            synchronize(self._device)
            return time.monotonic() - began

        first = load()
        operands = [
            ([sources.flat(source) for source in tensor.sources], self._live.model.get_parameter(tensor.name).view(-1))
            for tensor in plan.tensors
        ]
        floors, runs = [], []
        for _ in range(self._repeat):
            floors.append(memory_floor(operands, self._device))
            runs.append(load())
        return LiveCost(first, median(runs), median(floors), nbytes / median(runs) / 1e9)


def _usual(method: Method, models: int) -> dict[str, Value]:
    usual: dict[str, Value] = {"weight": 1 / models, "density": _DENSITY, "t": _T, "select_topk": _TOPK}
    values: dict[str, Value] = {}
    for parameter in method.parameters:
        if parameter.inert:
            continue
        low, high = parameter.search or (parameter.low, parameter.high)
        if low <= usual.get(parameter.name, math.nan) <= high:
            values[parameter.name] = usual[parameter.name]
        elif parameter.default is None:
            values[parameter.name] = (low + high) / 2
    return values


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UsageError(
            "disk full",
            where=folder,
            expected=f"{needed:,} bytes",
            found=f"{free:,} bytes free",
            remedy="make room, measure smaller models or choose another place by --keep DIR",
        )


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="evomerge-bench-") as folder:
            yield Path(folder)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError("cannot make the folder", where=keep, found=error.strerror) from None
    yield keep
