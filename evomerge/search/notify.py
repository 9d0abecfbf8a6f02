"""Telling others what becomes of a search: a command is run and a webhook is called."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http.client import InvalidURL
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from evomerge.config import Event, NotifyConfig
from evomerge.errors import NothingFeasibleError
from evomerge.study import Candidate, Study
from evomerge.study.document import StudyEntry, study_entry, study_summary

COMMAND_SECONDS = 60.0
WEBHOOK_SECONDS = 10.0


class Notice(BaseModel):
    """What a command reads from its standard input and what a webhook is posted.

    Attributes:
        text: all of it in one line; chat services that take webhooks show it.
        event: `finished`: the budget was used up, or the search was asked to stop. `failed`: an error ended the
            session. `feasible`: a candidate is the first to clear every gate.
        folder: of the study, on `host`.
        time: UTC, ISO 8601.
        reason: why there is nothing to hand over, or why it failed; null where it ended well.
        study: its name.
        summary: as in `evomerge studies --json`; null where the study could not be made.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")

    text: str
    event: Event
    study: str
    folder: str
    host: str
    time: str
    reason: str | None
    summary: StudyEntry | None


class Notifier:
    """Sends notices in a thread of its own; one that cannot be sent is a warning.

    Args:
        folder: of the study.
        config: who is told; until it is known, nobody is.
        say: takes warnings.
    """

    def __init__(self, folder: Path, config: NotifyConfig | None = None) -> None:
        self.folder = folder
        self.config = config or NotifyConfig()
        self.say: Callable[[str], None] = _say
        self._sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="notify")

    def cleared(self, study: Study, candidate: Candidate) -> None:
        """Tell that a candidate is the first to clear every gate."""
        text = f"candidate {candidate.number} clears every gate, with objective {candidate.objective:.4f}"
        self._send("feasible", text, None, lambda: study_summary(study))

    def ended(self, message: str, reason: str | None = None) -> None:
        """Tell that the search has come to its end, with a winner or for a reason without one."""
        self._send("finished", message, reason, self._entry)

    def failed(self, reason: str) -> None:
        """Tell that an error has ended the session."""
        self._send("failed", reason, reason, self._entry)

    def close(self) -> None:
        """Wait until all has been sent."""
        self._sender.shutdown()

    def _entry(self) -> StudyEntry | None:
        return study_entry(self.folder) if self.folder.is_dir() else None

    def _send(self, event: Event, text: str, reason: str | None, summary: Callable[[], StudyEntry | None]) -> None:
        config = self.config
        if event not in config.events or (config.command is None and config.webhook is None):
            return
        try:
            notice = self._notice(event, text, reason, summary())
        except Exception as error:  # whatever it is, the search goes on
            self.say(f"warning: nobody was told that the study is {event}: {_cause(error)}")
            return
        if config.command is not None:
            self._sender.submit(self._try, "notify.command", run_command, config.command, notice)
        if config.webhook is not None:
            self._sender.submit(self._try, "notify.webhook", post, config.webhook, notice)

    def _notice(self, event: Event, text: str, reason: str | None, summary: StudyEntry | None) -> Notice:
        return Notice(
            text=f"evomerge study {self.folder.name} {event}: {text}",
            event=event,
            study=self.folder.name,
            folder=str(self.folder),
            host=socket.gethostname(),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            reason=reason,
            summary=summary,
        )

    def _try(self, key: str, send: Callable[..., None], target: object, notice: Notice) -> None:
        try:
            send(target, notice)
        except Exception as error:  # no thread's error reaches anybody by itself
            self.say(f"warning: nobody was told that the study is {notice.event} ({key}): {_cause(error)}")


@contextmanager
def notifying(folder: Path, config: NotifyConfig | None = None) -> Iterator[Notifier]:
    """A notifier that also tells with which error its block ends.

    The block lets go of the study before it ends, so that who is told may resume, export or merge it.
    """
    notifier = Notifier(folder, config)
    try:
        yield notifier
    except NothingFeasibleError as error:
        notifier.ended(str(error), str(error))
        raise
    except Exception as error:
        notifier.failed(str(error) or type(error).__name__)
        raise
    finally:
        notifier.close()


def run_command(command: Sequence[str] | str, notice: Notice) -> None:
    """Run a command with a notice on standard input, and EVOMERGE_EVENT and EVOMERGE_STUDY in its environment.

    Args:
        command: words, or one line for the shell.
        notice: what it is told.

    Raises:
        OSError: it cannot be run.
        SubprocessError: it took longer than a minute, and was killed, or its exit code is not 0.
    """
    environment = os.environ | {"EVOMERGE_EVENT": notice.event, "EVOMERGE_STUDY": notice.study}
    # files, not pipes: what the command leaves behind may hold a pipe open for ever
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as complaint:
        told.write(notice.model_dump_json().encode())
        told.seek(0)
        process = subprocess.Popen(
            command,
            shell=isinstance(command, str),
            stdin=told,
            stdout=subprocess.DEVNULL,
            stderr=complaint,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the search
        )
        try:
            code = process.wait(COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if code:
            complaint.seek(0)
            raise subprocess.CalledProcessError(code, process.args, stderr=complaint.read())


def post(url: str, notice: Notice) -> None:
    """Post a notice as JSON to a webhook.

    Raises:
        OSError: it cannot be reached within ten seconds, or answers with an error.
        HTTPException: it does not answer in HTTP.
    """
    request = urllib.request.Request(
        url, data=notice.model_dump_json().encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.build_opener(_NoRedirects).open(request, timeout=WEBHOOK_SECONDS):
        pass


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would go on as a GET without the notice, and might still be answered as if all were well."""

    def redirect_request(self, *_: object) -> None:
        return None


def _cause(error: Exception) -> str:
    if isinstance(error, InvalidURL):  # whose message repeats parts of it, and it is a secret
        return "the URL is not valid"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it took longer than {error.timeout:g} s"
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        return ": ".join([f"exit code {error.returncode}", *lines[-1:]])
    return " ".join(str(error).split()) or type(error).__name__


def _say(line: str) -> None:
    print(f"evomerge: {line}", file=sys.stderr)
