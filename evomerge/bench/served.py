"""A dashboard in a process of its own, and a client that measures how long its answers take."""

import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from evomerge.errors import UsageError

PATIENCE = 60.0  # seconds until a dashboard has to answer, or to have ended
_ENTRY = re.compile(r"(http://\S+)/\?token=(\S+)")


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: of the HTTP answer.
        first_byte: seconds from the request until its first byte.
        whole: seconds until its last.
        size: bytes, as they came over the wire.
        body: unpacked by nobody.
    """

    status: int
    first_byte: float
    whole: float
    size: int
    body: bytes


@dataclass(frozen=True)
class Served:
    """A dashboard that runs.

    Attributes:
        runs_dir: of its studies.
        origin: scheme, host and port.
        token: that lets in.
        process: its own; the searches that it starts have others.
        startup: seconds until it printed its address.
        said: lines of its output since then.
    """

    runs_dir: Path
    origin: str
    token: str
    process: subprocess.Popen[str]
    startup: float
    said: list[str]

    @property
    def entry(self) -> str:
        """The address that lets a browser in."""
        return f"{self.origin}/?token={self.token}"

    def get(self, path: str, *, packed: bool = True, accept: str = "text/html") -> Answer:
        """Fetch a path, with the token, over a connection of its own.

        Args:
            path: with its query.
            packed: take gzip, as browsers do.
            accept: what kind of document is wanted.
        """
        headers = self._headers | {"Accept": accept} | ({"Accept-Encoding": "gzip"} if packed else {})
        connection = self._connect()
        try:
            began = time.perf_counter()
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            first = answer.read(1)
            seen = time.perf_counter()
            body = first + answer.read()
            return Answer(answer.status, seen - began, time.perf_counter() - began, len(body), body)
        finally:
            connection.close()

    @contextmanager
    def events(self, path: str) -> Iterator[Iterator[str]]:
        """What a stream of server-sent events tells, one after another, until it ends.

        Args:
            path: of the stream.
        """
        connection = self._connect()
        try:
            connection.request("GET", path, headers=self._headers | {"Accept": "text/event-stream"})
            answer = connection.getresponse()
            yield (line[6:].strip().decode() for line in answer if line.startswith(b"data: "))
        finally:
            connection.close()

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.origin)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)
        connection.connect()
        return connection

    def cpu_seconds(self) -> float | None:
        """Processor time that its process has taken so far; None where the system does not tell."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int | None:
        """Bytes of memory that its process has taken at most; None where the system does not tell."""
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)

    def stop(self) -> int:
        """End it as Ctrl-C does; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)


@contextmanager
def serving(runs_dir: Path, *options: str) -> Iterator[Served]:
    """Run `evomerge dashboard` on a free port of this machine; it has ended when the block has.

    Args:
        runs_dir: of the studies.
        options: further ones of the command.

    Raises:
        UsageError: it did not start; says what it said.
    """
    began = time.perf_counter()
    words = ["dashboard", "--port", "0", "--runs-dir", str(runs_dir), *options]
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-m", "evomerge", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            origin, token = _entry(process)
            startup = time.perf_counter() - began
            # nobody reads along, and a full pipe would stop it
            listener = threading.Thread(target=said.extend, args=(process.stdout or (),), daemon=True)
            listener.start()
            served = Served(runs_dir, origin, token, process, startup, said)
            _wait(served)
            yield served
        finally:
            _end(process)
        listener.join(PATIENCE)


def _entry(process: subprocess.Popen[str]) -> Sequence[str]:
    said = []
    for line in process.stdout or ():
        if found := _ENTRY.search(line):
            return found.groups()
        said.append(line.strip())
    last = said[-1].removeprefix("evomerge: ") if said else f"exit code {process.wait()}"
    raise UsageError("the dashboard did not start", found=last)


def _wait(served: Served) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            served.get("/health")
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UsageError("the dashboard does not answer", where=served.origin, found=error) from error
            time.sleep(0.02)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
