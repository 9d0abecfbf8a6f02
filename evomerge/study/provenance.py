"""Where a recipe comes from: the models, the versions, and what it scored."""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from evomerge.errors import StudyError
from evomerge.study.results import Candidate, Finalist, Range
from fitness.validation import validated

PACKAGES = ("evomerge", "torch", "transformers", "tokenizers", "safetensors", "lm-eval", "datasets", "optuna", "cma")


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Described(Protocol):
    """A checkpoint, as far as provenance goes."""

    @property
    def licence(self) -> str | None:
        """As the model card declares it."""

    def digest(self) -> str:
        """Of the content."""


class ModelFacts(_Document):
    """A model that candidates are made of.

    Attributes:
        ref: path or hub id, revision and adapter, as recipes write it.
        digest: of its content.
        licence: as its model card declares it.
    """

    ref: str
    digest: str
    licence: str | None = None


class Environment(_Document):
    """What a study is run with.

    Attributes:
        packages: name -> version.
        models: that candidates are made of.
        tasks: task -> digest of its documents and of how they are scored.
        code: task -> digest of the code of its own functions and of the files beside it.
        tokens: digest of the tokens of the merged models, whose tokenizer may be of a model that is not merged.
    """

    python: str
    platform: str
    packages: dict[str, str]
    models: tuple[ModelFacts, ...]
    tasks: dict[str, str] = {}
    code: dict[str, str] = {}
    tokens: str | None = None

    @classmethod
    def read(cls, path: Path) -> "Environment":
        """Read an environment.json. Raises StudyError."""
        try:
            return validated(cls, json.loads(path.read_bytes()), str(path), StudyError)
        except OSError as error:
            raise StudyError("study cannot be read", where=path, found=error.strerror) from error
        except ValueError as error:
            raise StudyError("study cannot be read", where=path, found=error) from error

    def require_same_inputs(self, now: "Environment") -> None:
        """Refuse to mix scores of models, tokens or tasks that have changed since the study began.

        What an older study has not recorded cannot be compared.

        Raises:
            StudyError: a model's content is another, or the tokens of the merged models, or a task's documents, file or
                code.
        """
        digests = {model.ref: model.digest for model in now.models}
        for model in self.models:
            _require_same("a model has", model.ref, model.digest, digests.get(model.ref, model.digest), "it")
        if self.tokens:
            _require_same("the tokenizer of the merged models has", None, self.tokens, now.tokens, "it")
        for task, digest in self.tasks.items():
            found, data = now.tasks.get(task, digest), "its data and its task file"
            _require_same("the documents of a task have", f"task {task}", digest, found, data)
        for task, digest in self.code.items():
            found, beside = now.code.get(task, digest), "the files beside its task file and beside what that includes"
            _require_same("the code of a task, or a file beside it, has", f"task {task}", digest, found, beside)

    def differences(self, now: "Environment") -> list[str]:
        """What else has changed, one line each: scores may differ in their last digits."""
        before = {"python": self.python, "platform": self.platform, **self.packages}
        after = {"python": now.python, "platform": now.platform, **now.packages}
        names = dict.fromkeys([*before, *after])
        return [
            f"{name}: {before.get(name)} -> {after.get(name)}" for name in names if before.get(name) != after.get(name)
        ]


def _require_same(what: str, where: str | None, digest: str, found: str | None, kept: str) -> None:
    if found != digest:
        raise StudyError(
            f"{what} changed since the study began",
            where=where,
            expected=f"digest {digest[:12]}",
            found=str(found)[:12],
            remedy=f"restore {kept} or start a new study",
        )


def describe_environment(
    models: Mapping[str, Described],
    tasks: Mapping[str, str],
    tokens: str | None = None,
    code: Mapping[str, str] | None = None,
) -> Environment:
    """This process and what it works on.

    Args:
        models: reference as recipes write it -> checkpoint.
        tasks: task -> digest.
        tokens: digest of the tokens of the merged models.
        code: task -> digest of its code, of those that have functions of their own.
    """
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: found for name in PACKAGES if (found := _version(name)) is not None},
        models=tuple(
            ModelFacts(ref=ref, digest=model.digest(), licence=model.licence) for ref, model in models.items()
        ),
        tasks=dict(tasks),
        code=dict(code or {}),
        tokens=tokens,
    )


class Holdout(_Document):
    """What a recipe scored on the documents that the search did not see."""

    scores: dict[str, float]
    intervals: dict[str, Range]
    gates: dict[str, bool]
    objective: float | None


class Provenance(_Document):
    """The sidecar of an exported recipe.

    Attributes:
        recipe_sha256: of the recipe file, byte for byte.
        candidate: its number in the study.
        benchmarks: public ones that steered the search: its scores on them are no benchmark results.
        scores: on dev, in each task's own unit.
        intervals: task -> (low, high) of its score with 95 % confidence.
        config: of the study, resolved, without who was told of it.
    """

    recipe_sha256: str
    study: str
    candidate: int
    benchmarks: tuple[str, ...]
    objective: float | None
    feasible: bool
    scores: dict[str, float]
    intervals: dict[str, Range]
    gates: dict[str, bool]
    holdout: Holdout | None
    environment: Environment
    config: dict[str, Any]


def provenance(
    study: str,
    candidate: Candidate,
    finalists: Iterable[Finalist],
    benchmarks: Iterable[str],
    environment: Environment,
    config: dict[str, Any],
) -> Provenance:
    """The provenance of one candidate of a study.

    Args:
        study: its name.
        candidate: one of its candidates.
        finalists: what it has scored on holdout.
        benchmarks: public ones that steered the search.
        environment: what it was begun with.
        config: its resolved config.
    """
    finalist = next((each for each in finalists if each.number == candidate.number), None)
    return Provenance(
        recipe_sha256=hashlib.sha256(candidate.recipe.encode()).hexdigest(),
        study=study,
        candidate=candidate.number,
        benchmarks=tuple(benchmarks),
        objective=candidate.objective,
        feasible=candidate.feasible,
        scores=dict(candidate.scores),
        intervals=dict(candidate.intervals),
        gates=candidate.gates,
        holdout=None if finalist is None else _holdout(finalist),
        environment=environment,
        # a recipe is passed on, and the address of a webhook is a secret
        config={key: value for key, value in config.items() if key != "notify"},
    )


def _holdout(finalist: Finalist) -> Holdout:
    return Holdout(
        scores=dict(finalist.scores),
        intervals=dict(finalist.intervals),
        gates=finalist.gates,
        objective=finalist.objective,
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
