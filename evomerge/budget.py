"""Another budget for a study: for a search that runs, from any process, or for one that is resumed.

A search that runs records it as a resume would, and goes on.
"""

import math
import time
from collections.abc import Sequence

from evomerge.config import RESUMABLE, BudgetConfig, resumed_config, search_config_of
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
    _check_keys(study, overrides)
    config = search_config_of(study.config, str(study.folder.config))
    changed = resumed_config(config, overrides).budget
    if study.holder is not None:  # else nobody can be asked
        _require_enough(study, changed, overrides, f"evomerge stop {study.folder.path} ends the search")
    keys = [override.partition("=")[0].removeprefix("budget.") for override in overrides]
    budget = {key: getattr(changed, key) for key in keys}
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


def check_resume(study: StudyView, budget: BudgetConfig, overrides: Sequence[str]) -> None:
    """Refuse a resume that would end a study by mistake, or that has nothing to do.

    A budget of as many candidates as there are is let through: it ends a study that is not finished, with the winner of
    what there is.

    Args:
        study: that is to be resumed.
        budget: that it would have.
        overrides: of the resume.

    Raises:
        ConfigError: an override asks for less than is used up, or the study is finished and its budget still used up.
    """
    if (key := used_up(study, budget)) is not None:
        raise ConfigError(
            "the study is finished, and its budget is used up",
            where=f"budget.{key}",
            expected=f"more than {_told(_used(study)[key])}",
            found=getattr(budget, key),
        )
    _require_enough(study, budget, overrides, f"evomerge stop {study.folder.path} ends the search, once it runs")


def used_up(study: StudyView, budget: BudgetConfig) -> str | None:
    """The key of a budget under which a finished study has nothing left to do; None if it would go on.

    A finalist that failed would be scored again: it may have failed by accident, such as a lack of memory.
    """
    if study.ended != "finished" or any(finalist.reason is not None for finalist in study.finalists()):
        return None
    if study.tally.done >= budget.candidates:
        return "candidates"
    return "hours" if budget.hours is not None and study.hours >= budget.hours else None


def _check_keys(study: StudyView, overrides: Sequence[str]) -> None:
    """Refuse to change anything but the budget. Raises ConfigError."""
    for override in overrides:
        key = override.partition("=")[0]
        if key.startswith("budget."):
            continue
        remedy = "start a new study for anything else"
        if "." in key and key.partition(".")[0] in RESUMABLE:
            remedy = f"evomerge resume {study.folder.path} {override}"
            if study.holder is not None:
                remedy = f"evomerge pause {study.folder.path} --wait, then {remedy}"
        raise ConfigError("not of the budget", where=key, expected="budget.candidates or budget.hours", remedy=remedy)


def _require_enough(study: StudyView, budget: BudgetConfig, overrides: Sequence[str], remedy: str) -> None:
    """Refuse what overrides make of a budget if it is less than what is used up. Raises ConfigError."""
    keys = {override.partition("=")[0] for override in overrides}
    for key, used in _used(study).items():
        value = getattr(budget, key)
        if f"budget.{key}" in keys and value is not None and value < used:
            raise ConfigError(
                "less than is used up already",
                where=f"budget.{key}",
                expected=f"at least {_told(used)}",
                found=value,
                remedy=remedy,
            )


def _used(study: StudyView) -> dict[str, float]:
    """Key of the budget -> how much of it is used up, with what has begun."""
    return {"candidates": study.tally.candidates, "hours": study.hours}


def _told(used: float) -> str:
    """In few digits, and never less."""
    return f"{math.ceil(1e4 * used) / 1e4:.9g}"


def _recorded(study: StudyView, budget: Budget) -> bool:
    """Whether the config says so, or what somebody else has asked for since."""
    asked = asked_budget(study.folder)
    last = {key: asked.get(key, value) for key, value in budget.items()}
    if "candidates" in last:  # those that had begun before the search looked are in the budget anyway
        last["candidates"] = max(last["candidates"] or 0, study.tally.candidates)
    found = study.folder.read_config()["budget"]
    return all(found[key] == value for key, value in last.items())
