"""Another budget for a search that runs, from any process: the search records it as a resume would, and goes on."""

import time
from collections.abc import Sequence

from evomerge.config import resumed_config, search_config_of
from evomerge.errors import ConfigError, StudyError
from evomerge.study import StudyView
from evomerge.study.requests import Budget, ask_budget, asked_budget
from evomerge.study.status import read_status

PATIENCE = 10.0  # seconds in which a search that has begun takes it up
LOOK = 0.1  # seconds between looks at its config


def change_budget(study: StudyView, overrides: Sequence[str]) -> str:
    """Ask the search of a study to go on under another budget, and wait a little until it has recorded that.

    Args:
        study: that is running.
        overrides: of `budget.candidates` and `budget.hours`, as a resume takes them.

    Returns:
        What has come of it, in one line.

    Raises:
        ConfigError: an override is malformed, is not of the budget, or asks for less than what is used up.
        UsageError: no process is writing to the study.
        StudyError: it cannot be read or written, or its search has ended before it heard of it.
    """
    config = search_config_of(study.config, str(study.folder.config))
    budget = _changes(study, resumed_config(config, overrides).budget.model_dump(), overrides)
    process = ask_budget(study.folder, budget)
    deadline = time.monotonic() + PATIENCE
    while not _recorded(study, budget):
        if study.holder != process and not _recorded(study, budget):
            raise StudyError(
                "the search ended before it heard of it",
                where=study.folder.path,
                remedy=f"evomerge resume {study.folder.path} {' '.join(overrides)}",
            )
        if time.monotonic() > deadline:
            return f"process {process.pid} on {process.host} was asked, and takes it up once it has started its workers"
        time.sleep(LOOK)
    recorded = search_config_of(study.folder.read_config(), str(study.folder.config)).budget
    status = read_status(study.folder)
    late = status is not None and status.phase in ("finalists", "export")
    return f"the budget of study {study.name} is now {recorded}" + (
        f"; its winner is being chosen already: evomerge resume {study.folder.path} goes on after that" if late else ""
    )


def _changes(study: StudyView, budget: Budget, overrides: Sequence[str]) -> Budget:
    """The part of a budget that overrides set. Raises ConfigError if they set anything else, or less than was used."""
    keys = [override.partition("=")[0] for override in overrides]
    for key in keys:
        if not key.startswith("budget."):
            raise ConfigError(
                "cannot change while the search runs",
                where=key,
                expected="budget.candidates or budget.hours",
                remedy="pause it, then resume it with that",
            )
    used = {"candidates": study.tally.candidates, "hours": study.hours}
    changes = {key: budget[key] for key in (key.removeprefix("budget.") for key in keys)}
    for key, value in changes.items():
        if value is not None and value < used[key]:
            raise ConfigError(
                "less than is used up already",
                where=f"budget.{key}",
                expected=f"at least {used[key]:.7g}",
                found=value,
                remedy=f"evomerge stop {study.folder.path} ends the search",
            )
    return changes


def _recorded(study: StudyView, budget: Budget) -> bool:
    """Whether the config says so, or what somebody else has asked for since."""
    asked = asked_budget(study.folder)
    last = {key: asked.get(key, value) for key, value in budget.items()}
    if "candidates" in last:  # those that had begun before the search looked are in the budget anyway
        last["candidates"] = max(last["candidates"] or 0, study.tally.candidates)
    found = study.folder.read_config()["budget"]
    return all(found[key] == value for key, value in last.items())
