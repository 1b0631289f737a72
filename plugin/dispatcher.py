"""Which instances are still to do, and who does them: the process beside Orthanc that owns the workers.

Orthanc's own change log is the queue. It is durable and ordered, so nothing has to be remembered but the position up
to which all is finished; an instance is to do if it belongs to a CR or DX series and bears no mark. The same code
therefore serves a new arrival, a restart after a crash and a wish to classify again (which removes the mark).

`Dispatcher.tick` does one round and waits for no worker; everything around it (`plugin/__main__.py`) only decides when.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from plugin import marks
from plugin.archive import Archive, ArchiveUnavailable, Gone, Instance
from plugin.worker import Outcome

LONGEST_PAUSE = 300.0  # seconds between two tries of something that is not the image's fault
AHEAD = 2  # tasks given to the pool for each worker, so that none waits for the next


class Pool(Protocol):
    """What does the work; `plugin.pool` in production."""

    workers: int

    def problem(self) -> str:
        """A sentence if nothing can be classified at present, else ''."""
        ...

    def classify(self, instance: str, study: str) -> Future[Outcome]:
        """Start one task."""
        ...


@dataclass(order=True)
class Task:
    """An instance to do. Ordered by when it is due, then by arrival."""

    due: float
    seq: int
    instance: str = field(compare=False)
    study: str = field(compare=False)
    crashes: int = field(default=0, compare=False)
    pauses: int = field(default=0, compare=False)


Say = Callable[[str, Any], None]
"""Tells Orthanc's side something: `status`, `position`, or a line for the log under `info` and `warning`."""


class Dispatcher:
    """Hands instances to the pool and accounts for each of them.

    :param since: the log's position up to which everything is finished.
    :param attempts: how often an image that ends its worker is tried.
    """

    def __init__(self, archive: Archive, pool: Pool, since: int, attempts: int, say: Say) -> None:
        """Nothing is read yet."""
        self._archive, self._pool, self._attempts, self._say = archive, pool, attempts, say
        self._read = self._finished = since
        self._tasks: list[Task] = []
        self._running: dict[Future[Outcome], Task] = {}
        self._open: set[str] = set()
        self._states: dict[str, str] = {}
        self._census: Iterator[list[Instance]] = archive.radiographs()
        self._said: dict[str, Any] = {}
        self._series = lru_cache(maxsize=10_000)(archive.series)

    def tick(self, now: float) -> float:
        """Do what can be done now; returns the seconds after which to come again at the latest."""
        pause = 30.0
        try:
            self._read_log(now)
            if self._count():
                pause = 0.0
        except ArchiveUnavailable as problem:
            self._say("warning", f"{problem}; trying again in 2 s")
            pause = 2.0
        for future in [future for future in self._running if future.done()]:
            self._finish(self._running.pop(future), future, now)
        self._start(now)
        self._report()
        if self._tasks and not self._pool.problem():
            pause = min(pause, max(self._tasks[0].due - now, 0.05))
        return pause

    def forget(self, instance: str) -> None:
        """The instance was deleted from Orthanc."""
        self._states.pop(instance, None)

    def want(self, instances: list[str], now: float) -> None:
        """Queue those of these instances that are ours and bear no mark."""
        self._queue(dict.fromkeys(instances, self._read), now)

    def _count(self) -> bool:
        """Learn, a page at each tick, what earlier runs have finished; whether there may be more."""
        try:
            page = next(self._census, None)
        except ArchiveUnavailable:
            self._census = self._archive.radiographs()  # a generator that raised is over
            raise
        for instance in page or ():
            if instance.mark:
                self._states[instance.id] = instance.mark["state"]
        return page is not None

    def _read_log(self, now: float) -> None:
        done = False
        while not done:
            changes, last, done = self._archive.changes(self._read)
            self._queue({change.instance: change.seq for change in changes}, now)
            self._read = last

    def _queue(self, seqs: dict[str, int], now: float) -> None:
        unknown = [instance for instance in seqs if instance not in self._open]
        for found in self._archive.instances(unknown):
            if found.mark:
                self._states[found.id] = found.mark["state"]
                continue
            try:
                series = self._series(found.series)
            except Gone:
                continue
            if marks.eligible_modality(series.modality):
                self._states.pop(found.id, None)
                self._open.add(found.id)
                heapq.heappush(self._tasks, Task(now, seqs[found.id], found.id, series.study))

    def _start(self, now: float) -> None:
        while (
            self._tasks
            and self._tasks[0].due <= now
            and len(self._running) < AHEAD * self._pool.workers
            and not self._pool.problem()
        ):
            task = heapq.heappop(self._tasks)
            self._running[self._pool.classify(task.instance, task.study)] = task

    def _finish(self, task: Task, future: Future[Outcome], now: float) -> None:
        outcome = self._outcome(task, future)
        if outcome.state == "later":
            self._again(task, outcome.reason, now, count=not outcome.model_unavailable)
            return
        self._open.discard(task.instance)
        if outcome.state == "gone":
            self._say("info", f"Instance {task.instance} was deleted before it was classified")
            self.want([task.instance], now)  # it may have come back meanwhile
            return
        self._states[task.instance] = outcome.state
        level = "warning" if outcome.state == "failed" else "info"
        self._say(level, f"Instance {task.instance}: {outcome.state}{outcome.reason and f', {outcome.reason}'}")

    def _outcome(self, task: Task, future: Future[Outcome]) -> Outcome:
        """What the worker said, or, if it died or hung, what is to happen next."""
        try:
            return future.result()
        except TimeoutError:
            reason = "it took longer than the time limit"
        except Exception as problem:  # a lost process, no memory, or a fault of ours
            reason = f"its worker ended ({type(problem).__name__}: {problem})"
        task.crashes += 1
        if task.crashes < self._attempts:
            return Outcome("later", reason)
        reason = f"Given up after {task.crashes} tries: {reason}"
        try:
            self._archive.mark(task.instance, marks.mark("failed", task.instance, reason=reason))
        except Gone:
            return Outcome("gone")
        except ArchiveUnavailable as problem:
            return Outcome("later", str(problem))
        return Outcome("failed", reason)

    def _again(self, task: Task, reason: str, now: float, count: bool) -> None:
        pause = min(2.0**task.pauses, LONGEST_PAUSE) if count else 1.0
        task.pauses += count
        task.due = now + pause
        heapq.heappush(self._tasks, task)
        self._say("warning", f"Instance {task.instance} is tried again in {pause:.0f} s: {reason}")

    def _report(self) -> None:
        counts = Counter(self._states.values())
        problem = self._pool.problem()
        status = {
            "ready": not problem,
            "reason": problem,
            "workers": self._pool.workers,
            "pending": len(self._open),
            **{state: counts[state] for state in ("done", "skipped", "failed")},
        }
        unfinished = [task.seq for task in (*self._tasks, *self._running.values())]
        self._finished = max(self._finished, min(unfinished) - 1 if unfinished else self._read)
        if problem != self._said.get("status", {}).get("reason", ""):
            self._say("warning", problem or "Ready")
        self._tell("status", status)
        self._tell("position", self._finished)

    def _tell(self, what: str, value: Any) -> None:
        if self._said.get(what) != value:
            self._said[what] = value
            self._say(what, value)
