"""Recall: what was scored before, by this search or by another under the same runs_dir, is not scored again."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch

import fitness
from evomerge.checkpoint import open_checkpoint
from evomerge.config import PACKAGE, SearchConfig
from evomerge.errors import OneLineError
from evomerge.merge import resolve_device
from evomerge.recipe import ModelRef, Recipe
from evomerge.search.outcome import Job, Outcome
from evomerge.study import Environment
from evomerge.study.cache import ScoreCache
from evomerge.study.results import CACHED
from fitness.harness import Harness

# what says how a model turns text into tokens and generates, besides its weights
_SETTINGS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
# what a suite says beyond how documents are scored; its tasks and their documents are told apart by digests and ids
_NOT_SCORING = {"tasks", "objective", "holdout", "racing", "allow_benchmarks", "include_path"}


class Pool(Protocol):
    """Workers that take jobs, as `WorkerPool` does."""

    @property
    def free(self) -> int:
        """How many jobs may be submitted."""

    @property
    def busy(self) -> int:
        """How many jobs have not been handed back."""

    def submit(self, job: Job) -> None:
        """Take a job while `free` is positive."""

    def wait(self, timeout: float) -> Sequence[tuple[Job, Outcome]]:
        """The jobs that ended within `timeout` seconds."""


class ScoreKeys:
    """What the scores of a job depend on, as one digest.

    That is the recipe's content; of each model that it names, the digest, its tokenizer and settings, and when its
    weights were last written, as the digest does not read all of them; tasks with their code, documents and how
    prompts are batched; versions, code and hardware, on which last bits depend.

    Args:
        config: of the study.
        harness: of its suite.
        environment: packages and platform.
    """

    def __init__(self, config: SearchConfig, harness: Harness, environment: Environment) -> None:
        suite, workers = config.suite, config.workers
        folders = [PACKAGE, *map(Path, fitness.__path__)]
        self._documents = harness.documents
        self._same_for_all = {
            "suite": suite.model_dump(mode="json", exclude=_NOT_SCORING),
            "tasks": list(harness.digests.items()),
            "code of tasks": {task: code.digest for task, code in harness.code.items()},
            "code": _digest(path for folder in folders for path in sorted(folder.rglob("*.py"))),
            "dtype": config.models.dtype,
            "packages": environment.packages,
            "platform": environment.platform,
            "processor": torch.backends.cpu.get_cpu_capability(),
            "accelerator": workers.device if workers.address else _accelerator(workers.device),
            "threads": workers.cpus,
        }
        self._model = cache(_model)

    def __call__(self, job: Job) -> str:
        """The key of a job, as SHA-256 in hex. Raises OneLineError: the recipe or a model of it cannot be read."""
        recipe = Recipe.from_yaml(job.recipe, job.name)
        every = {task: documents[job.split] for task, documents in self._documents.items()}
        facts = self._same_for_all | {
            "recipe": recipe.digest,
            "models": {str(ref): self._model(ref) for ref in recipe.models_named},
            "split": {task: sorted(ids) for task, ids in every.items()},  # examples are drawn along all of it
            "items": {task: sorted(ids) for task, ids in (every if job.items is None else job.items).items()},
            "answers": job.answers,
        }
        return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Recall:
    """A pool that hands a job to its workers only if nothing like it has been scored or is being scored.

    A job that is known takes the place of a worker until it is handed back, so jobs are asked for in the same order
    whether much is known or nothing.

    Args:
        pool: does what is not known.
        scores: what is known.
        key: of a job.
    """

    def __init__(self, pool: Pool, scores: ScoreCache, key: ScoreKeys) -> None:
        self._pool, self._scores, self._key = pool, scores, key
        self._running: dict[str, str] = {}  # name of a job -> key
        self._twins: list[tuple[Job, str]] = []  # of jobs that are running
        self._ended: list[tuple[Job, Outcome]] = []

    @property
    def free(self) -> int:
        """How many jobs may be submitted."""
        return max(0, self._pool.free - len(self._ended) - len(self._twins))

    @property
    def busy(self) -> int:
        """How many jobs have not been handed back."""
        return self._pool.busy + len(self._ended) + len(self._twins)

    def submit(self, job: Job) -> None:
        """Take a job while `free` is positive."""
        if job.fresh:
            self._pool.submit(job)
            return
        began = perf_counter()
        try:
            key = self._key(job)
        except (OneLineError, OSError):  # the worker says what is wrong
            self._pool.submit(job)
            return
        scores = self._scores.get(key)
        if scores is not None:
            self._ended.append((job, Outcome(scores=scores, seconds={CACHED: perf_counter() - began})))
        elif key in self._running.values():
            self._twins.append((job, key))
        else:
            self._pool.submit(job)
            self._running[job.name] = key

    def wait(self, timeout: float) -> Sequence[tuple[Job, Outcome]]:
        """The jobs that ended within `timeout` seconds; a job that waited for one like it shares its fate."""
        ended, self._ended = self._ended, []
        if ended and not self._pool.busy:
            return ended
        for job, outcome in self._pool.wait(0 if ended else timeout):
            ended.append((job, outcome))
            key = self._running.pop(job.name, None)
            if key is not None and outcome.reason is None:
                self._scores.put(key, outcome.scores)
            alike = [twin for twin, its_key in self._twins if its_key == key]
            self._twins = [(twin, its_key) for twin, its_key in self._twins if its_key != key]
            ended += [(twin, replace(outcome, seconds={CACHED: 0.0}, warnings=())) for twin in alike]
        return ended


def _model(ref: ModelRef) -> list[Any]:
    checkpoint = open_checkpoint(ref)
    folder, weights = checkpoint.folder, [path.stat() for path in checkpoint.files]
    settings = _digest(path for pattern in _SETTINGS for path in sorted(folder.glob(pattern)))
    return [checkpoint.digest(), settings, [(file.st_size, file.st_mtime_ns) for file in weights]]


def _accelerator(name: str) -> str:
    device = resolve_device(name)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _digest(files: Iterable[Path]) -> str:
    digest = sha256()
    for path in files:
        digest.update(f"{path.name}\n".encode() + sha256(path.read_bytes()).digest())
    return digest.hexdigest()
