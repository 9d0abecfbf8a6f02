"""Tasks: what lm-eval knows of each task of a suite, loaded once and checked before any model is scored."""

import contextlib
import functools
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import yaml
from lm_eval import utils as lm_eval_utils
from lm_eval.api.registry import get_aggregation, get_metric
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from fitness.benchmarks import benchmark
from fitness.code import Code, CodeReader
from fitness.confidence import Range
from fitness.errors import SuiteError, nearest
from fitness.estimates import UNIT
from fitness.items import Split, canonical, race_order, split
from fitness.suite import Gate, SuiteConfig, TaskSpec

# Even a local file makes datasets tell the Hub which loader was used.
datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
# lm-eval compiles the same few Jinja templates for every document and every call; a compiled one is as good.
if not hasattr(lm_eval_utils.env.from_string, "cache_info"):
    lm_eval_utils.env.from_string = functools.cache(lm_eval_utils.env.from_string)


@dataclass(frozen=True)
class LoadedTask:
    """A task of the suite and what was found in it.

    Attributes:
        spec: what the suite says.
        task: lm-eval's task.
        filter: the filter ensemble that the score is read from.
        aggregate: the metric's values, one per document -> score.
        higher_is_better: the metric's direction.
        documents: split -> document ids, ascending.
        order: the dev ones in the order in which candidates race over them.
        benchmark: the public benchmark that it is scored on, if any.
        digest: of all that its scores depend on but the model and the code of its own functions.
        code: of these functions, and the files that they may read; None if it has none.
    """

    spec: TaskSpec
    task: Task
    filter: Any
    aggregate: Callable[[list[Any]], float]
    higher_is_better: bool
    documents: Mapping[Split, tuple[int, ...]]
    order: tuple[int, ...]
    benchmark: str | None
    digest: str
    code: Code | None


def load_tasks(suite: SuiteConfig) -> list[LoadedTask]:
    """Load and check every task of a suite, in its order.

    Raises:
        SuiteError: a task, metric or filter does not exist, a task file or its data cannot be read, a split is empty,
            or a public benchmark is used without leave.
    """
    for folder in suite.include_path:
        if not Path(folder).is_dir():
            raise SuiteError("task folder is missing", where="include_path", expected="a folder", found=folder)
    manager = TaskManager(include_path=list(suite.include_path), include_defaults=False)
    # Indexing lm-eval's own tasks takes seconds, so they are looked at only when they are asked for.
    if any(task.name not in manager.task_index for task in suite.tasks):
        _check_task_files(suite)
        manager = TaskManager(include_path=list(suite.include_path))
    entries = [_entry(spec, manager) for spec in suite.tasks]
    code = CodeReader({entry.yaml_path for entry in manager.task_index.values()})
    return [_load_task(spec, entry, manager, suite, code) for spec, entry in zip(suite.tasks, entries, strict=True)]


def _check_task_files(suite: SuiteConfig) -> None:
    """lm-eval skips a task file that it cannot read; the task then only seems to be unknown."""
    for folder in suite.include_path:
        for path in sorted(Path(folder).rglob("*.yaml")):
            try:
                load_yaml(path, resolve_func=False)
            except yaml.MarkedYAMLError as error:
                line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
                raise SuiteError("task file is not valid YAML", where=f"{path}{line}", found=error.problem) from error
            except (OSError, yaml.YAMLError) as error:
                raise SuiteError("task file cannot be read", where=path, found=error) from error
            except ValueError:
                continue


def _entry(spec: TaskSpec, manager: TaskManager) -> Any:
    """The task's place in lm-eval's index: its `kind`, `yaml_path` and, with functions unresolved, its `cfg`."""
    entry = manager.task_index.get(spec.name)
    if entry is None:
        known = nearest(spec.name, manager.all_subtasks)
        raise SuiteError("unknown task", where="suite.tasks", found=repr(spec.name), remedy=known)
    if entry.kind.name in ("GROUP", "TAG"):
        members = entry.cfg["task"] if entry.kind.name == "GROUP" else sorted(entry.tags)
        names = [member if isinstance(member, str) else str(member.get("task")) for member in members]
        raise SuiteError(
            "name of several tasks",
            where=f"task {spec.name}",
            expected="one task",
            found=f"a {entry.kind.name.lower()}",
            remedy="list its members: " + ", ".join(names[:5]) + (", ..." if len(names) > 5 else ""),
        )
    return entry


def _load_task(spec: TaskSpec, entry: Any, manager: TaskManager, suite: SuiteConfig, code_of: CodeReader) -> LoadedTask:
    known = _benchmark(spec, entry.cfg.get, suite)
    with as_suite_error("task cannot be loaded", f"task {spec.name}"):
        config = load_yaml(entry.yaml_path)
        files = config.get("dataset_kwargs") or {}
        if "data_files" in files:
            files["data_files"] = _beside(entry.yaml_path.parent, files["data_files"])
        try:
            task = manager.load([config])["tasks"][spec.name]
        except StopIteration as error:  # of the JSON reader
            raise SuiteError("split is empty", where=f"task {spec.name}", found="an empty data file") from error
        except KeyError as error:
            missing = error.args[0]
            if missing not in {config.get(f"{kind}_split") for kind in ("training", "validation", "test", "fewshot")}:
                raise
            raise SuiteError(
                "split is missing", where=f"task {spec.name}", found=repr(missing), remedy="name a split of its data"
            ) from error
        documents = list(task.eval_docs)
    known = known or _benchmark(spec, task.get_config, suite)
    for flag, what in (("UNSAFE_CODE", "runs generated code"), ("MULTIMODAL", "needs images or audio")):
        if getattr(task, flag, False):
            raise SuiteError("task cannot be used", where=f"task {spec.name}", found=f"a task that {what}")
    shots = _set_fewshot(spec, task, suite)
    scored, aggregate, higher_is_better = _filter(spec, task), _aggregation(spec, task), _direction(spec, task)
    _check_gate(spec, higher_is_better, spec.range or _range(spec, task, aggregate))
    with as_suite_error("task cannot be loaded", f"task {spec.name}"):
        examples = list(task.fewshot_docs()) if shots else []
        source = load_yaml(entry.yaml_path)  # as written: what was loaded holds the paths of this machine
        code = code_of(entry.yaml_path)
    facts = [source, spec.metric, spec.filter, shots, documents, examples]
    if spec.range is not None:  # what lies outside of it is refused
        facts.append(spec.range)
    dev, holdout = split(documents, suite.holdout, spec.name)
    return LoadedTask(
        spec=spec,
        task=task,
        filter=scored,
        aggregate=aggregate,
        higher_is_better=higher_is_better,
        documents={"dev": dev, "holdout": holdout, "all": tuple(range(len(documents)))},
        order=race_order(documents, dev, suite.holdout.seed),
        benchmark=known,
        digest=sha256(canonical(facts).encode()).hexdigest(),
        code=code,
    )


def _benchmark(spec: TaskSpec, get: Callable[[str], Any], suite: SuiteConfig) -> str | None:
    scored = get("test_split") or get("validation_split") or "test"
    known = benchmark(get("dataset_path"), get("dataset_name"), scored, get("dataset_kwargs"))
    if known and not suite.allow_benchmarks:
        raise SuiteError(
            "task is scored on a public benchmark",
            where=f"task {spec.name}",
            found=known,
            remedy="search on other documents and keep the benchmark for the end, or set allow_benchmarks=true",
        )
    return known


def _beside(folder: Path, value: Any) -> Any:
    """Data files are found beside the task file that names them, so that a folder of tasks works from anywhere."""
    if isinstance(value, Mapping):
        return {key: _beside(folder, each) for key, each in value.items()}
    if isinstance(value, list):
        return [_beside(folder, each) for each in value]
    return str(folder / value) if isinstance(value, str) and (folder / value).is_file() else value


def _set_fewshot(spec: TaskSpec, task: Task, suite: SuiteConfig) -> int:
    """How many examples the task is given from now on."""
    own = task.get_config("num_fewshot")
    if own == 0 and spec.num_fewshot:
        raise SuiteError(
            "task fixes num_fewshot at 0",
            where=f"task {spec.name}",
            found=spec.num_fewshot,
            remedy="leave num_fewshot out",
        )
    count: int = spec.num_fewshot if spec.num_fewshot is not None else own or 0
    task.set_config("num_fewshot", count)
    if count and suite.holdout.fraction and _fewshot_split(task) == _scored_split(task):
        raise SuiteError(
            "few-shot examples would come from the documents that are scored, holdout included",
            where=f"task {spec.name}",
            remedy="give the task a fewshot_split, or set holdout.fraction to 0",
        )
    return count


def _scored_split(task: Task) -> str | None:
    split: str | None = task.get_config("test_split") or task.get_config("validation_split")
    return split


def _fewshot_split(task: Task) -> str | None:
    """Where lm-eval takes the examples from; None for examples of their own."""
    own = task.get_config("fewshot_config")
    if own is not None and own.split is None and own.samples is not None:
        return None
    return (own and own.split) or next(
        (name for name in map(task.get_config, ("training_split", "validation_split", "test_split")) if name), None
    )


def _filter(spec: TaskSpec, task: Task) -> Any:
    filters = {each.name: each for each in task._filters}
    if spec.filter is None and len(filters) > 1:
        raise SuiteError(
            "task has several filters",
            where=f"task {spec.name}",
            found=", ".join(filters),
            remedy="choose one with `filter`",
        )
    name = spec.filter or next(iter(filters))
    if name not in filters:
        raise SuiteError("unknown filter", where=f"task {spec.name}", found=repr(name), remedy=_one_of(filters))
    return filters[name]


def _aggregation(spec: TaskSpec, task: Task) -> Callable[[list[Any]], float]:
    aggregations = task.aggregation()
    if spec.metric not in aggregations:
        raise SuiteError(
            "unknown metric", where=f"task {spec.name}", found=repr(spec.metric), remedy=_one_of(aggregations)
        )
    aggregate: Callable[[list[Any]], float] | None = aggregations[spec.metric]
    functions = getattr(task, "_metric_fn_list", {})
    own = task.get_config("process_results") is not None
    if aggregate is None or (spec.metric in functions and functions[spec.metric] is None and not own):
        raise SuiteError("metric is not known to lm-eval", where=f"task {spec.name}", found=repr(spec.metric))
    return aggregate


def _direction(spec: TaskSpec, task: Task) -> bool:
    higher = task.higher_is_better().get(spec.metric)
    if higher is None:
        raise SuiteError(
            "metric has no direction",
            where=f"task {spec.name}: {spec.metric}",
            remedy="set higher_is_better in the task's metric_list",
        )
    return bool(higher)


def _range(spec: TaskSpec, task: Task, aggregate: Callable[[list[Any]], float]) -> Range | None:
    """The range of a metric that lm-eval itself computes; None of one that is the task's own, whatever its name."""
    own = type(task) is not ConfigurableTask or task.get_config("process_results") is not None
    if own or spec.metric not in UNIT or aggregate is not get_aggregation("mean"):
        return None
    return (0.0, 1.0) if task._metric_fn_list[spec.metric] is get_metric(spec.metric) else None


def _check_gate(spec: TaskSpec, higher_is_better: bool, within: Range | None) -> None:
    """A bound on the good side would refuse the best candidates and pass the worst; one out of reach refuses all."""
    if spec.gate is None:
        return
    if (spec.gate.at_least is not None) == higher_is_better:
        _check_reach(spec, spec.gate, within)
        return
    side, other = ("at_least", "at_most") if higher_is_better else ("at_most", "at_least")
    raise SuiteError(
        "gate bounds the wrong side",
        where=f"task {spec.name}: {spec.metric}",
        expected=f"{side}, {'higher' if higher_is_better else 'lower'} is better",
        found=other,
        remedy=f"write {side}, or mend higher_is_better in the task's metric_list",
    )


def _check_reach(spec: TaskSpec, gate: Gate, within: Range | None) -> None:
    if within is None or gate.of is not None:
        return
    low, high = within
    if gate.factor > high if gate.at_least is not None else gate.factor < low:
        raise SuiteError(
            "no score can clear the gate",
            where=f"task {spec.name}: {spec.metric}",
            expected=f"a bound from {low:g} to {high:g}",
            found=str(gate),
        )


def _one_of(names: Mapping[str, Any]) -> str:
    return "the task has " + ", ".join(map(repr, names))


@contextlib.contextmanager
def as_suite_error(what: str, where: str) -> Iterator[None]:
    """A task file runs templates and functions of its author, so anything may be raised; all of it is the suite's."""
    try:
        yield
    except SuiteError:
        raise
    except Exception as error:
        cause = error.__cause__ or error  # datasets wraps what went wrong
        raise SuiteError(what, where=where, found=f"{type(cause).__name__}: {cause}") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """lm-eval warns about what is meant here, such as a model already in memory; datasets logs what it raises."""
    levels = {"lm_eval": logging.ERROR, "datasets": logging.CRITICAL}
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def no_bars() -> Iterator[None]:
    """lm-eval and datasets draw progress bars that no argument switches off."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
