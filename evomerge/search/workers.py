"""Ray workers: each is an actor that keeps an Evaluator warm. The only module that knows Ray."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from evomerge.config import SearchConfig, WorkersConfig
from evomerge.errors import ConfigError, ModelError, OneLineError
from evomerge.search.outcome import Job, Outcome
from evomerge.study.status import WorkerStatus

PATIENCE = 5.0  # seconds in which a cluster has to be reached
MAX_STARTS = 3  # in a row without an answer, before a worker that will not start ends the search

# Nothing calls out, and Ray's own switches must be set before it is imported.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray  # noqa: E402
from ray.exceptions import RayActorError, RayError, RayTaskError  # noqa: E402

log = logging.getLogger(__name__)
logging.getLogger("ray").setLevel(logging.ERROR)


class _Actor:
    """The process of one worker."""

    def __init__(self, config: SearchConfig) -> None:
        from evomerge.search.evaluator import Evaluator  # torch belongs to the worker, not to whoever pickles it

        self._evaluator = Evaluator(config.models, config.suite, config.workers)

    def ready(self) -> tuple[str, int]:
        """Node and process id, once the models are loaded."""
        return ray.util.get_node_ip_address(), os.getpid()

    def evaluate(self, job: Job) -> Outcome:
        return self._evaluator.evaluate(job)


@dataclass
class _Worker:
    actor: Any
    answer: Any  # the reference that is awaited: readiness first, then a job's outcome
    since: float  # when it began to start, to work or to idle
    job: Job | None = None
    ready: bool = False
    place: str = ""


class WorkerPool:
    """A fixed number of workers; one that dies is replaced.

    Use as a context manager. `submit` takes a job while `free` is positive; `wait` hands back what has ended.

    Raises:
        ConfigError: the workers ask for more than the cluster has.
        OneLineError: a worker cannot be started, for the reason that it gave.
    """

    def __init__(self, config: SearchConfig) -> None:
        self.config = config
        self._starts_without_answer = 0
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        workers = self.config.workers
        if workers.address is not None:
            require_answer(workers.address)
        # Ray takes over SIGTERM, which is to drain the search as Ctrl-C does
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            ray.init(
                address=workers.address or "local",
                num_cpus=None if workers.address else max(os.cpu_count() or 1, 1),
                include_dashboard=None if workers.address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
        except (ConnectionError, TimeoutError, ValueError) as error:
            raise _no_cluster(workers.address, _last_line(error)) from error
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
        try:
            require_room(workers, [node["Resources"] for node in ray.nodes() if node["Alive"]])
            self._workers = [self._start() for _ in range(workers.count)]
        except BaseException:
            ray.shutdown()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self._workers:
            ray.kill(worker.actor)
        ray.shutdown()

    @property
    def free(self) -> int:
        """How many workers are ready and idle."""
        return sum(worker.ready and worker.job is None for worker in self._workers)

    @property
    def busy(self) -> int:
        """How many workers have a job."""
        return sum(worker.job is not None for worker in self._workers)

    @property
    def doing(self) -> tuple[WorkerStatus, ...]:
        """What each worker does."""
        now = time.monotonic()
        return tuple(
            WorkerStatus(
                name=worker.place or "starting",
                job=None if worker.job is None else worker.job.name,
                seconds=round(now - worker.since, 1),
            )
            for worker in self._workers
        )

    def submit(self, job: Job) -> None:
        """Give a job to an idle worker. Raises RuntimeError when none is free."""
        worker = next((worker for worker in self._workers if worker.ready and worker.job is None), None)
        if worker is None:
            raise RuntimeError("no worker is free: wait first")
        worker.job, worker.since = job, time.monotonic()
        worker.answer = worker.actor.evaluate.remote(job)

    def wait(self, timeout: float) -> Sequence[tuple[Job, Outcome]]:
        """The jobs that ended within `timeout` seconds; returns as soon as anything happens."""
        awaited = {worker.answer: worker for worker in self._workers if worker.job is not None or not worker.ready}
        answered, _ = ray.wait(list(awaited), num_returns=1, timeout=timeout)
        ended = []
        for reference in answered:
            worker = awaited[reference]
            if worker.job is None:
                self._greet(worker)
            else:
                ended.append((worker.job, self._answer(worker)))
        limit = self.config.workers.timeout
        for worker in self._workers:
            if limit is not None and worker.job is not None and time.monotonic() - worker.since > limit:
                ended.append((worker.job, Outcome(reason=f"timeout: took longer than {limit:g} s")))
                self._replace(worker)
        return ended

    def _start(self) -> _Worker:
        workers = self.config.workers
        # Ray's own restarts would rerun jobs silently; attempts are counted by the study
        actor = (
            ray.remote(_Actor)
            .options(
                num_cpus=workers.cpus,
                num_gpus=workers.gpus,
                max_restarts=0,
                max_task_retries=0,
            )
            .remote(self.config)
        )
        return _Worker(actor, actor.ready.remote(), time.monotonic())

    def _replace(self, worker: _Worker) -> None:
        ray.kill(worker.actor)
        self._workers[self._workers.index(worker)] = self._start()

    def _greet(self, worker: _Worker) -> None:
        try:
            node, pid = ray.get(worker.answer)
        except RayError as error:
            self._starts_without_answer += 1
            if not any(other.ready for other in self._workers):
                cause = getattr(error, "cause", None)
                if isinstance(cause, OneLineError):
                    raise cause from error
                if self._starts_without_answer >= MAX_STARTS:
                    raise ModelError(
                        "workers cannot be started",
                        where=f"device {self.config.workers.device}",
                        found=_last_line(error),
                        remedy="lower workers.count or give each worker more memory",
                    ) from error
            log.warning("a worker did not start: %s", _last_line(error))
            if self._starts_without_answer < MAX_STARTS:
                self._replace(worker)
            else:
                self._workers.remove(worker)
                log.warning("going on with %d workers", len(self._workers))
        else:
            self._starts_without_answer = 0
            worker.ready, worker.place, worker.since = True, f"{node}:{pid}", time.monotonic()
            log.info("worker ready: node %s, pid %d", node, pid)

    def _answer(self, worker: _Worker) -> Outcome:
        job, worker.job, worker.since = worker.job, None, time.monotonic()
        try:
            outcome: Outcome = ray.get(worker.answer)
        except RayTaskError as error:
            return Outcome(reason=_last_line(error))
        except RayError as error:
            log.warning("worker %s died with %s: %s", worker.place, job and job.name, _last_line(error))
            self._replace(worker)
            kind = "worker died" if isinstance(error, RayActorError) else type(error).__name__
            return Outcome(reason=kind, lost=True)
        if outcome.broken:
            log.warning("worker %s is replaced after: %s", worker.place, outcome.reason)
            self._replace(worker)
        return outcome


def require_room(workers: WorkersConfig, nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse a request that would wait for ever: a worker needs all that it asks for on one node.

    Args:
        workers: what is asked for.
        nodes: of each node, how much `CPU` and `GPU` it has.

    Raises:
        ConfigError: the nodes do not have it.
    """
    each = {"CPU": float(workers.cpus)} | ({"GPU": workers.gpus} if workers.gpus else {})
    room = sum(int(min(node.get(name, 0.0) / share for name, share in each.items())) for node in nodes)
    if room < workers.count:
        has = ", ".join("{CPU:g} CPU and {GPU:g} GPU".format(**{"CPU": 0, "GPU": 0, **node}) for node in nodes)
        raise ConfigError(
            "the workers need more than the cluster has",
            where=f"workers.count={workers.count}, workers.cpus={workers.cpus}, workers.gpus={workers.gpus:g}",
            expected=f"at most {room} such workers",
            found=f"{workers.count}, and nodes with {has}",
            remedy="lower workers.count, workers.cpus or workers.gpus",
        )


def require_answer(address: str) -> None:
    """Refuse an address with a port that nobody listens at: Ray would try for minutes, and hear no signal meanwhile.

    Raises:
        ConfigError: nobody answers.
    """
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        place = parts.hostname, parts.port
    except ValueError as error:
        raise _no_cluster(address, str(error)) from error
    if place[0] is None or place[1] is None:  # such as auto
        return
    try:
        socket.create_connection((place[0], place[1]), PATIENCE).close()
    except UnicodeError as error:
        raise _no_cluster(address, "no name of a host") from error
    except OSError as error:
        raise _no_cluster(address, error.strerror or str(error)) from error


def _no_cluster(address: str | None, found: str) -> ConfigError:
    return ConfigError(
        "no Ray cluster to work on",
        where=f"workers.address={address}",
        found=found,
        remedy="start one with `ray start --head`, or leave workers.address out",
    )


def _last_line(error: BaseException) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
