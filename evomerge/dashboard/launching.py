"""What a launch from the page may ask for: the options of `conf/` and of the user's own folder, and overrides.

The config is composed as `evomerge search` composes it, so that errors read the same. What a browser sends is held to
more than what a terminal may: no `_target_`, no interpolation, nothing about Hydra or about where and to whom results
go, and no file outside of the allowed folders.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from evomerge.config import GROUPS, SHORT_NAMES, SearchConfig, conf_dir, resumed_config, search_config, search_config_of
from evomerge.dashboard.processes import child_environment, said
from evomerge.dashboard.settings import Settings, lies_in
from evomerge.errors import ConfigError, OneLineError, nearest
from evomerge.study import check_new
from evomerge.study.folder import check_name

DEEPEST = 20  # brackets of a value within each other: parsers of them recurse
LONGEST = 10_000  # characters of overrides: they are parsed slowly, and one after another
TIMEOUT = 300.0  # seconds that a check may take: the headers of large models may have to be fetched
_KEY = re.compile(r"\+{0,2}([A-Za-z]\w*(?:\.\w+)*)")
_OURS = ("hydra", "runs_dir", "notify", "storage")  # where things go, and what is run: not for a browser to say
_composing = Lock()  # Hydra has one state for the whole process
_checking = BoundedSemaphore(2)  # each check is a process that loads models' headers and tasks


class LaunchForm(BaseModel):
    """What is asked for.

    Attributes:
        study: its name; empty takes what the experiment says.
        experiment: an option of that group, and so on; empty takes what the experiment, or else the default, says.
        overrides: one `key=value` a line; empty lines and those that begin with # do not count.
    """

    model_config = ConfigDict(frozen=True)

    study: str = ""
    experiment: str = ""
    models: str = ""
    genome: str = ""
    optimizer: str = ""
    suite: str = ""
    workers: str = ""
    overrides: str = Field(default="", max_length=LONGEST)

    @property
    def choices(self) -> dict[str, str]:
        """Group -> the option that was chosen."""
        return {group: option for group in GROUPS if (option := getattr(self, group).strip())}

    @property
    def lines(self) -> tuple[str, ...]:
        """The overrides."""
        lines = (line.strip() for line in self.overrides.splitlines())
        return tuple(line for line in lines if line and not line.startswith("#"))


class Group(BaseModel):
    """A choice that a launch has.

    Attributes:
        name: such as `models`.
        options: what can be chosen, by name.
        default: what is taken where neither the form nor the experiment says anything; null if one has to.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    options: tuple[str, ...]
    default: str | None


class Checked(BaseModel):
    """What a check has found.

    Attributes:
        config: the composed config, as YAML.
        dry_run: what `evomerge search --dry-run --json` prints.
    """

    model_config = ConfigDict(frozen=True)

    config: str
    dry_run: dict[str, Any]


def groups(settings: Settings) -> tuple[Group, ...]:
    """The choices of a launch, with the shipped options and the user's."""
    defaults = _defaults()
    return tuple(Group(name=name, options=_options(settings, name), default=defaults.get(name)) for name in GROUPS)


def overrides(settings: Settings, form: LaunchForm) -> tuple[str, ...]:
    """What a form asks for, as `evomerge search` takes it.

    Raises:
        ConfigError: a word that a browser may not send, or what is no name for a study; its `where` is the key.
    """
    chosen = [f"{group}={option}" for group, option in form.choices.items()]
    for word in (*chosen, *form.lines):
        _check_word(settings, word)
    named = []
    if study := form.study.strip():
        check_name(study)  # before it is composed: it could be an interpolation
        named = [f"study={_quoted(study)}"]
    return (*chosen, *named, *form.lines, f"runs_dir={_quoted(str(settings.runs_dir.absolute()))}")


def command(settings: Settings, form: LaunchForm) -> tuple[str, ...]:
    """The module and the arguments that start what a form asks for. Raises as `overrides`."""
    folder = () if settings.config_dir is None else ("--config-dir", str(settings.config_dir.absolute()))
    return ("evomerge", "search", *folder, *overrides(settings, form))


def compose(settings: Settings, form: LaunchForm) -> SearchConfig:
    """The config that a form asks for, checked as far as it can be without opening a model.

    Raises:
        ConfigError: it is not valid, asks for what a browser may not, or the study's name is taken.
        SuiteError: the suite is not valid.
        StudyError: the runs folder cannot be written.
    """
    words = overrides(settings, form)
    with _composing:
        config = search_config(words, settings.config_dir)
    check_new(config.study, config.runs_dir)
    _check_places(settings, config)
    return config


def config_yaml(config: SearchConfig) -> str:
    """A config as `evomerge search --print-config` prints it."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def check(settings: Settings, form: LaunchForm) -> Checked:
    """Compose a config, then open its models and tasks in a process of its own, as the search itself would.

    Raises:
        OneLineError: what `evomerge search` would say.
    """
    config = compose(settings, form)
    if not _checking.acquire(blocking=False):
        raise OneLineError("other checks are going on", remedy="wait for one of them to end")
    try:
        done = subprocess.run(
            [sys.executable, "-m", *command(settings, form), "--dry-run", "--json"],
            stdin=subprocess.DEVNULL,
            env=child_environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OneLineError("the check takes too long", expected=f"at most {TIMEOUT:.0f} s") from error
    finally:
        _checking.release()
    if done.returncode != 0:
        raise OneLineError(said(done.stderr.splitlines()) or "the check failed without a word")
    return Checked(config=config_yaml(config), dry_run=json.loads(done.stdout))


def resumed(settings: Settings, config: Mapping[str, Any], words: Sequence[str]) -> SearchConfig:
    """The config that a resume would have.

    Args:
        settings: the dashboard's.
        config: of the study.
        words: each `key=value`.

    Raises:
        ConfigError: one is malformed or would make it another study, or asks for what a browser may not.
    """
    for word in words:
        _check_word(settings, word)
    return resumed_config(search_config_of(dict(config), "config"), words)


def field_of(error: OneLineError, form: LaunchForm) -> str:
    """The field that an error is about: `study`, a group, `overrides`, or empty where it is about none."""
    where = str(error.where)
    # what another process or Hydra has told names its place in the text only
    if error.where is None and (told := re.match(r"[^(:;']*[('](?P<where>[^()']+)[)']", error.what)):
        where = told["where"]
    key = where.removeprefix("config: ").partition("=")[0]
    named = [line.partition("=")[0].lstrip("+") for line in form.lines]
    if any(key.startswith(name) or name.startswith(f"{key}.") for name in named if name) or where in form.lines:
        return "overrides"
    if key == "study":
        return "study"
    group = re.split(r"[./]", key)[0]
    return group if group in GROUPS else ""


def _check_word(settings: Settings, word: str) -> None:
    key, equals, value = word.partition("=")
    match = _KEY.fullmatch(key)
    if match is None or not equals:
        raise ConfigError("override cannot be read", where=key or word, expected="key=value")
    if _depth(value) > DEEPEST:
        raise ConfigError(
            "override cannot be read", where=key, expected=f"at most {DEEPEST} brackets within each other"
        )
    name = match[1]
    top = name.partition(".")[0]
    if top in _OURS or "_target_" in word or "${" in word:
        raise ConfigError(
            "cannot be set from a page",
            where=name,
            expected="no _target_, no ${...}, and no key of " + ", ".join(_OURS),
            remedy="use the command line",
        )
    if name in GROUPS:
        known = _options(settings, name)
        if value not in known:
            raise ConfigError("no such option", where=f"{name}/{value}", remedy=nearest(value, known))
    elif name == top and top not in (
        *SearchConfig.model_fields,
        *SHORT_NAMES,
    ):  # Hydra would look for a folder of that name
        raise ConfigError("unknown key", where=f"config: {name}", remedy=nearest(name, SearchConfig.model_fields))


def _depth(value: str) -> int:
    """How many brackets are open at once, at most."""
    return max(accumulate((each in "[{(") - (each in ")}]") for each in value), default=0)


def _check_places(settings: Settings, config: SearchConfig) -> None:
    """Refuse a config that names a file outside of the allowed folders. Raises ConfigError."""
    for key, text in _texts(config.model_dump(mode="json")):
        if text.startswith(("/", "~", ".")) or ".." in Path(text).parts:
            path = Path(text)
            if not (path.is_absolute() and lies_in(path, settings.readable)):
                raise ConfigError(
                    "outside of the allowed folders",
                    where=f"config: {key}",
                    expected=f"a place in {', '.join(map(str, settings.readable))}",
                    found=text,
                    remedy="start the dashboard with --allow DIR",
                )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a document, with its key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict | list):
        for part, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(each, f"{key}.{part}" if key else str(part))


def _options(settings: Settings, group: str) -> tuple[str, ...]:
    roots = [conf_dir(), *([] if settings.config_dir is None else [settings.config_dir])]
    folders = [root / group for root in roots]
    found = {path.relative_to(folder).with_suffix("") for folder in folders for path in folder.rglob("*.yaml")}
    return tuple(sorted(path.as_posix() for path in found))


def _defaults() -> dict[str, str | None]:
    """Group -> the option that the shipped config takes; None where one has to be chosen."""
    document = yaml.safe_load((conf_dir() / "search.yaml").read_text(encoding="utf-8"))
    chosen = (entry for entry in document["defaults"] if isinstance(entry, dict))
    return {group: None if option == "???" else option for entry in chosen for group, option in entry.items()}


def _quoted(text: str) -> str:
    """A text as Hydra reads it back, whatever is in it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
