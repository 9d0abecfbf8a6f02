"""Configs: Hydra composes them, pydantic checks them. The only module that knows Hydra."""

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from evomerge.errors import ConfigError, nearest
from evomerge.genome import GenomeConfig
from evomerge.optimize import OptimizerConfig
from evomerge.recipe import Dtype, ModelRef
from fitness.suite import SuiteConfig
from fitness.validation import validated

PACKAGE = Path(__file__).resolve().parent
GROUPS = ("models", "genome", "optimizer", "suite", "workers", "experiment")
SHORT_NAMES = {"racing": "suite.racing"}  # overrides whose key a user need not write in full
RESUMABLE = ("budget", "workers", "notify")  # what a resume may change without becoming another study


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSource(_Config):
    """A checkpoint: a local folder or a hub id, perhaps with a LoRA adapter on top."""

    path: str
    revision: str | None = None
    adapter: str | None = None
    adapter_revision: str | None = None

    @property
    def ref(self) -> ModelRef:
        """The same as a recipe writes it."""
        return ModelRef(**self.model_dump())


def _as_source(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


class ModelsConfig(_Config):
    """What is merged: a base and its fine-tunes."""

    base: ModelSource
    parents: tuple[ModelSource, ...] = Field(min_length=1)
    dtype: Dtype = "bfloat16"
    tokenizer: dict[str, Any] = {"source": "base"}

    @field_validator("base", mode="before")
    @classmethod
    def _base(cls, value: Any) -> Any:
        return _as_source(value)

    @field_validator("parents", mode="before")
    @classmethod
    def _parents(cls, value: Any) -> Any:
        return [_as_source(entry) for entry in value] if isinstance(value, list) else value

    @field_validator("parents")
    @classmethod
    def _distinct(cls, parents: tuple[ModelSource, ...]) -> tuple[ModelSource, ...]:
        refs = [parent.ref for parent in parents]
        if len(set(refs)) < len(refs):
            twice = next(ref for ref in refs if refs.count(ref) > 1)
            raise ConfigError("parent given twice", where="models.parents", found=twice, remedy="name each once")
        return parents


class WorkersConfig(_Config):
    """Where candidates are merged and scored."""

    count: int = Field(default=1, ge=1)
    cpus: int = Field(default=1, ge=1)
    compile: Literal["auto", "always", "never"] = "auto"
    gpus: float = Field(default=0, ge=0)
    device: str = "auto"
    timeout: float | None = Field(default=None, gt=0)
    address: str | None = None


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("a finite number")
    return value


class BudgetConfig(_Config):
    """When a search stops proposing."""

    candidates: int = Field(default=200, ge=1)
    hours: Annotated[float, Field(gt=0), AfterValidator(_finite)] | None = None

    def __str__(self) -> str:
        """Such as "200 candidates, 8 hours"."""
        return f"{self.candidates} candidates" + ("" if self.hours is None else f", {self.hours:g} hours")


Event = Literal["finished", "failed", "feasible"]


def _web_address(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("an http or https URL")
    return value


def _command(value: Any) -> Any:
    words = [value] if isinstance(value, str) else value
    if words is None or (isinstance(words, list | tuple) and words and all(isinstance(word, str) for word in words)):
        return value
    raise ValueError("a list of words, or one line for the shell")


class NotifyConfig(_Config):
    """Who is told of what becomes of a search: a command, a webhook, or both; see `evomerge.search.notify`."""

    command: Annotated[tuple[str, ...] | str | None, BeforeValidator(_command)] = None
    webhook: Annotated[str, AfterValidator(_web_address)] | None = None
    events: tuple[Event, ...] = get_args(Event)


class SearchConfig(_Config):
    """One search: the identity of a study."""

    study: str
    runs_dir: Path
    seed: int = Field(default=0, ge=0)
    budget: BudgetConfig = BudgetConfig()
    finalists: int = Field(default=3, ge=1)
    models: ModelsConfig
    genome: GenomeConfig
    optimizer: OptimizerConfig
    suite: SuiteConfig
    workers: WorkersConfig = WorkersConfig()
    notify: NotifyConfig = NotifyConfig()

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.runs_dir / self.study


class ScoreConfig(_Config):
    """What `evomerge score` needs."""

    suite: SuiteConfig
    workers: WorkersConfig = WorkersConfig()


def conf_dir() -> Path:
    """The folder of the shipped options: inside the package when installed, beside it in a checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def check_config_dir(config_dir: Path) -> None:
    """Refuse a folder of options that is not there. Raises ConfigError."""
    if not config_dir.is_dir():
        raise ConfigError("no such config folder", where=config_dir, expected="a folder", remedy="check --config-dir")


def search_config(overrides: Sequence[str], config_dir: Path | None = None) -> SearchConfig:
    """Compose and check the config of a search.

    Raises:
        ConfigError: unknown option, key or value.
        SuiteError: the suite is not valid.
    """
    data = _compose("search", overrides, config_dir)
    root = (config_dir or Path.cwd()).absolute()
    _absolute_models(data.get("models"), root)
    _absolute_includes(data, root)
    if isinstance(data.get("runs_dir"), str):
        data["runs_dir"] = os.path.abspath(os.path.expanduser(data["runs_dir"]))
    return search_config_of(data, "config")


def score_config(overrides: Sequence[str], config_dir: Path | None = None) -> ScoreConfig:
    """Compose and check the config of a scoring. Raises as `search_config`."""
    data = _compose("score", overrides, config_dir)
    _absolute_includes(data, (config_dir or Path.cwd()).absolute())
    config = validated(ScoreConfig, data, "config", ConfigError)
    # a score steers nothing, so it may be that of a benchmark
    return config.model_copy(update={"suite": config.suite.model_copy(update={"allow_benchmarks": True})})


def search_config_of(data: dict[str, Any], where: str) -> SearchConfig:
    """Check a resolved config, as it lies in a study. Raises ConfigError."""
    return validated(SearchConfig, data, where, ConfigError)


def resumed_config(config: SearchConfig, overrides: Sequence[str]) -> SearchConfig:
    """The config of a study that is resumed under another budget, with other workers or telling others of it.

    Raises:
        ConfigError: an override is malformed or would make it another study.
    """
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not equals:
            raise ConfigError("override without a value", where=override, expected="key=value")
        if key.split(".")[0] not in RESUMABLE or "." not in key:
            raise ConfigError(
                "a resume cannot change what a study is",
                where=key,
                expected=" or ".join(f"{group}.<key>" for group in RESUMABLE),
                remedy="start a new study for anything else",
            )
    try:
        changes = OmegaConf.to_container(OmegaConf.from_dotlist(list(overrides)))
    except yaml.YAMLError as error:
        raise ConfigError("override cannot be read", where=" ".join(overrides), found=error) from error
    merged = OmegaConf.to_container(OmegaConf.merge(config.model_dump(mode="json"), changes))
    assert isinstance(merged, dict)
    return search_config_of({str(key): value for key, value in merged.items()}, "override")


@contextmanager
def _hydra(config_dir: Path | None) -> Iterator[list[str]]:
    OmegaConf.register_new_resolver("demo", lambda name: str(PACKAGE / "demo" / name), replace=True)
    search_path = []
    if config_dir is not None:
        check_config_dir(config_dir)
        search_path = [f"hydra.searchpath=[file://{config_dir.absolute()}]"]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            yield search_path
    finally:
        GlobalHydra.instance().clear()


def _compose(name: str, overrides: Sequence[str], config_dir: Path | None) -> dict[str, Any]:
    _check_choices(overrides, config_dir)
    with _hydra(config_dir) as search_path:
        try:
            config = compose(name, overrides=[*map(_tolerant, overrides), *search_path])
            data = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        except MissingMandatoryValue as error:
            key = error.full_key
            raise ConfigError(
                "value missing", where=key, expected=f"{key}=VALUE", remedy="add it to the command line"
            ) from error
        except MissingConfigException as error:
            asked = Path(error.missing_cfg_file or "").stem
            known = list(error.options or [])
            remedy = nearest(asked, known) if known else "check the name and --config-dir"
            raise ConfigError("no such option", where=error.missing_cfg_file, remedy=remedy) from error
        except OverrideParseException as error:
            key, _, value = error.override.lstrip("+").partition("=")
            raise ConfigError(
                "override cannot be read",
                where=key or repr(error.override),
                expected="key=value",
                found=value,
                remedy="quote a value with special characters twice: 'key=\"value\"'",
            ) from error
        except yaml.MarkedYAMLError as error:
            place = f"{error.problem_mark.name}:{error.problem_mark.line + 1}" if error.problem_mark else name
            raise ConfigError("not valid YAML", where=place, found=error.problem) from error
        except (HydraException, OmegaConfBaseException) as error:
            if missing := re.match(r"You must specify '(\w+)'.*?Available options:(.*)", str(error), re.DOTALL):
                group, options = missing[1], ", ".join(missing[2].split())
                raise ConfigError(
                    "choice missing",
                    where=group,
                    expected=f"{group}=NAME, one of {options}",
                    remedy="add it to the command line or to the experiment",
                ) from error
            cause = error.__cause__ or error
            lines = [line.strip() for line in f"{error}\n{'' if cause is error else cause}".splitlines()]
            raise ConfigError(" ".join(line for line in lines if line)) from error
    assert isinstance(data, dict)
    return {str(key): value for key, value in data.items()}


def _check_choices(overrides: Sequence[str], config_dir: Path | None) -> None:
    """Refuse what Hydra does not: a choice that is no name, and an experiment of the user that it puts in no place."""
    for override in overrides:
        group, _, value = override.partition("=")
        if group not in GROUPS:
            continue
        try:
            chosen = OverridesParser.create().parse_overrides([override])[0].value()
        except OverrideParseException:  # told where it is composed
            continue
        names = chosen if isinstance(chosen, list) else [chosen]
        if not all(isinstance(name, str) for name in names):
            raise ConfigError("not a choice", where=group, expected=f"{group}=NAME", found=value)
        if group == "experiment" and config_dir is not None:
            for name in names:
                _check_header(config_dir, f"{group}/{name}.yaml")


def _check_header(config_dir: Path, experiment: str) -> None:
    """Hydra takes a package from the first lines only, and drops one behind a comment without a word."""
    path = config_dir / experiment
    if not path.is_file():
        return
    lines = map(str.strip, path.read_text(encoding="utf-8", errors="replace").splitlines())
    head = takewhile(lambda line: not line or re.match(r"#\s*@", line), lines)
    if not any(re.fullmatch(r"#\s*@package +_global_", line) for line in head):
        raise ConfigError(
            "experiment without an effective package header",
            where=experiment,
            expected="# @package _global_",
            remedy="make that its first line, above all keys and other comments",
        )


def _tolerant(override: str) -> str:
    """An override that may also set what no file mentions; that the key exists is checked against the schema."""
    key = override.partition("=")[0]
    if key in SHORT_NAMES:
        return f"++{SHORT_NAMES[key]}{override.removeprefix(key)}"
    return override if key in GROUPS or key.startswith(("+", "~", "hydra")) else f"++{override}"


def _absolute_models(models: Any, root: Path) -> None:
    if not isinstance(models, dict):
        return
    if "base" in models:
        models["base"] = _absolute_source(models["base"], root)
    if isinstance(models.get("parents"), list):
        models["parents"] = [_absolute_source(parent, root) for parent in models["parents"]]


def _absolute_source(source: Any, root: Path) -> Any:
    if isinstance(source, str):
        return absolute_model(source, root)
    if isinstance(source, dict):
        return source | {
            key: absolute_model(source[key], root) for key in ("path", "adapter") if isinstance(source.get(key), str)
        }
    return source


def absolute_model(path: str, root: Path) -> str:
    """A model's path made absolute where it names a folder; a hub id stays as it is."""
    local = _local(path, root)
    explicit = path.startswith((".", "/", "~"))
    return local if explicit or os.path.exists(local) else path


def _local(path: str, root: Path) -> str:
    # pathlib raises for users and names that there cannot be: to us they are what does not exist
    return os.path.normpath(root / os.path.expanduser(path))


def _absolute_includes(data: dict[str, Any], root: Path) -> None:
    suite = data.get("suite")
    if isinstance(suite, dict) and isinstance(suite.get("include_path"), list):
        suite["include_path"] = [
            _local(entry, root) if isinstance(entry, str) else entry for entry in suite["include_path"]
        ]
