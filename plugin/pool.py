"""The worker processes: a pebble pool with a time limit for each image, and the model that it needs.

Preparing the model may take a download and minutes, so it happens beside everything else and is tried until it works.
"""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from tempfile import gettempdir

from pebble import ProcessPool

from plugin import scratch, worker
from plugin.settings import Connection, Settings
from plugin.worker import GRACE, Outcome

ROOT = Path(__file__).resolve().parent.parent
PAUSE, LONGEST_PAUSE = 15.0, 60.0
"""Seconds between two tries to get a model, when it is long away: if a try is cheap, and at most."""
SHARE = 0.05  # of the time is for tries: a missing file takes 0.2 s, a download that fails 4 s of a core and 365 MB


def longer(pause: float, took: float) -> float:
    """The pause after this one, if a try that took so many seconds fails again."""
    return min(2 * pause, max(PAUSE, took / SHARE), LONGEST_PAUSE)


class WorkerPool:
    """Worker processes that share one prepared model.

    :param changed: called whenever a task has ended or `problem` or `remarks` say something new; from any thread.
    """

    def __init__(self, connection: Connection, settings: Settings, changed: Callable[[], None]) -> None:
        """Begin to prepare the model; `problem` tells how far that is."""
        self.workers, self.in_flight = settings.workers, settings.in_flight
        self.time_limit = float(settings.TimeLimit)
        self._connection, self._settings, self._changed = connection, settings, changed
        self._pool: ProcessPool | None = None
        self._engine: subprocess.Popen[str] | None = None
        # A Unix socket in a folder that no other user can enter; '' if each worker loads the model itself.
        self._open = ExitStack()
        self._engine_address = ""
        if settings.Engine != "onnx":
            folder = self._open.enter_context(scratch.folder("chest-xray-engine-", Path(gettempdir())))
            self._engine_address = f"{folder}/engine"
        self._problem = "The model is being prepared"
        self._unusable: dict[str, str] = {}  # servers, by address, with the sentence why
        self._doubt = threading.Event()
        self._stopping = threading.Event()
        threading.Thread(target=self._keep_ready, name="model", daemon=True).start()

    def problem(self) -> str:
        """A sentence if nothing can be classified at present, else ''."""
        return self._problem

    def remarks(self) -> Mapping[str, str]:
        """Sentences about inference servers that are not used, by address; under '' what is done without any."""
        remarks = {
            address: f"The inference server {address} is not used, since it {problem}"
            for address, problem in self._unusable.copy().items()
        }
        if self._settings.LocalFallback and len(remarks) == len(set(self._settings.Servers)) > 0:
            remarks[""] = "No inference server can be used; this machine runs the model itself"
        return remarks

    def classify(self, images: Sequence[tuple[str, str]], all_cores: bool) -> Future[list[Outcome]]:
        """Start one task; its result is `worker.classify`'s, or the exception that ended its worker.

        `BrokenProcessPool` is no fault of the task's: all processes are started again then, and `problem` says so.
        """
        return self._give(worker.classify, images, all_cores)

    def tidy(self, guest: str, study: str) -> Future[list[Outcome]]:
        """Have a document looked at that others brought; the result is `worker.tidy`'s."""
        return self._give(worker.tidy, guest, study)

    def give_up(self, instance: str, study: str, reason: str) -> Future[list[Outcome]]:
        """Have an image that ended its workers marked as `failed`; the result is `worker.give_up`'s."""
        return self._give(worker.give_up, instance, study, reason)

    def _give(self, task: Callable[..., list[Outcome]], *arguments: object) -> Future[list[Outcome]]:
        try:
            future = self._submit(task, *arguments)
        except RuntimeError as broken:  # a process was killed while it had nothing to do, and pebble gave up
            future = Future()
            future.set_exception(BrokenProcessPool(str(broken)))
        future.add_done_callback(self._notice)
        return future

    def stop(self) -> None:
        """End the workers at once; what they were doing is done again after the next start."""
        self._stopping.set()
        self._doubt.set()
        self._end_pool()
        if self._engine:
            self._engine.kill()
            self._engine.wait()
        self._open.close()

    def _end_pool(self) -> None:
        if self._pool:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join(timeout=2)
            self._pool = None

    def _submit(self, task: Callable[..., list[Outcome]], *arguments: object) -> Future[list[Outcome]]:
        assert self._pool, "no task is given out before the model is ready"  # noqa: S101
        future: Future[list[Outcome]] = self._pool.schedule(task, args=arguments, timeout=self._settings.TimeLimit)
        return future

    def _notice(self, future: Future[list[Outcome]]) -> None:
        ended = future.exception()
        self._hear_of_servers(future)
        without = [] if ended else [one for one in future.result() if one.model_unavailable]
        if isinstance(ended, BrokenProcessPool):
            self._problem = "The worker processes have ended; they are started again"
            self._doubt.set()
        elif without:
            self._problem = without[0].reason
            self._doubt.set()
        self._changed()

    def _hear_of_servers(self, future: Future[list[Outcome]]) -> None:
        if future.cancelled() or future.exception():
            return
        for address, problem in chain.from_iterable(one.servers.items() for one in future.result()):
            if problem:
                self._unusable[address] = problem
            else:
                self._unusable.pop(address, None)

    def _keep_ready(self) -> None:
        pause = 1.0
        while not self._stopping.is_set():
            began = time.monotonic()
            self._problem = self._make_ready()
            took = time.monotonic() - began
            self._changed()
            if self._problem:
                self._stopping.wait(pause)
                pause = longer(pause, took)
            else:
                pause = 1.0
                self._doubt.wait()
            self._doubt.clear()

    def _make_ready(self) -> str:
        """Prepare the model and have the workers load it; a sentence if that fails."""
        try:
            return self._made_ready()
        except Exception as problem:  # no memory, or whatever keeps a fresh process from loading its libraries
            return f"The worker processes cannot be started ({type(problem).__name__}: {problem})"

    def _made_ready(self) -> str:
        try:
            model = self._prepare()
        except subprocess.CalledProcessError as failed:
            lines = failed.stderr.strip().splitlines() or [f"it ended with status {failed.returncode}"]
            return f"The model could not be prepared: {lines[-1]}"
        if problem := self._start_engine(model):
            return problem
        if self._pool and not self._pool.active:
            self._end_pool()
        if not self._pool:
            # Spawned, since a fork of a process with threads may hang; what Python does by default differs by release.
            self._pool = ProcessPool(
                self.workers,
                initializer=worker.begin,
                initargs=(self._connection, self._settings, model, self._engine_address),
                context=multiprocessing.get_context("spawn"),
            )
        first, *others = [self._submit(worker.ready) for _ in range(self.workers)]
        for one in (first, *others):
            one.add_done_callback(self._hear_of_servers)
        try:
            return first.result(timeout=self._settings.TimeLimit + GRACE)[0].reason
        except TimeoutError:  # the pool may have lost it
            self._end_pool()
            raise

    def _start_engine(self, model: Path) -> str:
        """Start `plugin.engine`, if there is to be one and none runs; a sentence if that fails."""
        if not self._engine_address or (self._engine and self._engine.poll() is None):
            return ""
        command = [sys.executable, "-m", "plugin.engine", str(model), self._settings.Engine, self._engine_address]
        self._engine = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: S603
        assert self._engine.stdout  # noqa: S101 - a pipe
        said = self._engine.stdout.readline().strip()
        return "" if said == "ready" else said or "The process with the model on the GPU cannot start"

    def _prepare(self) -> Path:
        """In a process of its own, since torch is large and is needed only if the model is not there yet."""
        settings = self._settings
        command = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "plugin.weights", "prepare"]
        command += ["--weights", settings.Weights]
        command += ["--sha256", settings.WeightsSha256] if settings.WeightsSha256 else []
        command += ["--folder", str(settings.model_folder(ROOT))]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603
        return Path(done.stdout.strip().splitlines()[-1])
