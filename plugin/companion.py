"""The process beside Orthanc, as Orthanc sees it: started, fed, listened to, started again, ended.

Standard library only. See `plugin/__main__.py` for what goes over the pipes.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

PIPE = 1 << 20  # bytes
LONGEST_PAUSE = 60.0  # seconds between two starts of a process that keeps ending


class Companion:
    """One child process, kept alive until `stop`.

    :param first: gives the first message to each new process.
    :param hear: called with every message from it, in the order in which they come, from one thread.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        first: Callable[[], dict[str, Any]],
        hear: Callable[[str, Any], None],
    ) -> None:
        """Start it, without waiting for it."""
        self._command, self._folder, self._first, self._hear = command, folder, first, hear
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="chest-xray", daemon=True)
        self._thread.start()

    def tell(self, message: dict[str, Any] | None = None) -> None:
        """Send a message, or ring the bell. Never blocks: a full pipe holds enough bells.

        Of other messages there is room for thousands; a deletion that is lost nevertheless is found within a day.
        """
        process = self._process
        if process and process.stdin:
            try:
                os.write(process.stdin.fileno(), json.dumps(message or {}).encode() + b"\n")
            except (BlockingIOError, BrokenPipeError, ValueError):
                return  # it is gone, or has not listened for a while

    def stop(self) -> None:
        """End it and all that it started, at the latest after two seconds: nothing is lost by that."""
        self._stopping.set()
        if process := self._process:
            if process.stdin:
                process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=2)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        self._thread.join(timeout=1)

    def _keep_alive(self) -> None:
        pause = 1.0
        while not self._stopping.is_set():
            said_something = False
            try:
                said_something = self._live()
            except Exception as problem:  # Orthanc did not give what a new process is to know, on a failing disk say
                self._hear("warning", f"The classifying process cannot be started ({type(problem).__name__})")
            if self._stopping.is_set():
                return
            pause = 1.0 if said_something else min(2 * pause, LONGEST_PAUSE)
            self._hear("ended", pause)
            self._stopping.wait(pause)

    def _live(self) -> bool:
        """One life of the process, up to its end; whether it got as far as saying something."""
        said_something = False
        try:
            with subprocess.Popen(  # noqa: S603 - the command is the operator's own setting
                self._command,
                cwd=self._folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=_without_accounts(os.environ),
                process_group=0,  # Ctrl-C in a terminal is for Orthanc alone
            ) as process:
                assert process.stdin and process.stdout  # noqa: S101 - both are pipes
                os.write(process.stdin.fileno(), json.dumps(self._first()).encode() + b"\n")
                os.set_blocking(process.stdin.fileno(), False)
                with suppress(OSError):  # room for 16,000 deletions at once; one user's pipes may not be as large
                    fcntl.fcntl(process.stdin.fileno(), fcntl.F_SETPIPE_SZ, PIPE)
                self._process = process
                for line in process.stdout:
                    said_something = True
                    self._understand(line)
        except OSError as problem:
            self._hear("warning", f"{self._command[0]} could not be run: {problem.strerror}")
        finally:
            self._process = None
        return said_something

    def _understand(self, line: bytes) -> None:
        """What cannot be used is lost, and no more than that: the marks in Orthanc are what counts."""
        try:
            for what, value in json.loads(line).items():
                self._hear(what, value)
        except Exception as problem:  # half a line of one that was killed, or Orthanc could not keep it
            self._hear("warning", f"A message of the classifying process was lost ({type(problem).__name__})")


def _without_accounts(environ: Mapping[str, str]) -> dict[str, str]:
    """Processes that read files of strangers are not told the passwords of Orthanc's users."""
    return {name: value for name, value in environ.items() if not name.startswith(("ORTHANC", "CHEST_XRAY_"))}
