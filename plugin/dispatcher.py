"""Which instances are still to do, and who does them: the process beside Orthanc that owns the workers.

Orthanc's own change log is the queue. It is durable and ordered, so nothing has to be remembered but the position up
to which all is finished; an instance is to do if it belongs to a CR or DX series and bears no mark. The same code
therefore serves a new arrival, a restart after a crash and a wish to classify again (which removes the mark).

`Dispatcher.tick` does one round and waits for no worker; everything around it (`plugin/__main__.py`) only decides when.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

from pebble import ProcessExpired

from plugin.archive import Archive, ArchiveUnavailable, Instance, Series
from plugin.changelog import ChangeLog
from plugin.listing import Listing
from plugin.metrics import Metrics
from plugin.worker import GRACE, Outcome
from plugin.worklist import moment

LONGEST = 30.0  # seconds between two looks at the change log
SOON = 0.1  # seconds from a task's end to the look at what it wrote there: one look for several
LONGEST_PAUSE = 300.0  # seconds between two tries of something that is not the image's fault
MOVING = 2.0  # seconds in which Orthanc removes what it has copied, if it is to be moved
MOVING_ELSEWHERE = 300.0  # the same where another Orthanc may do so, which tells nobody when it is done
ELSEWHERE = 2.0  # seconds between two looks at what another server works on
AHEAD = 2  # groups of tasks given to the pool for each worker, so that none waits for the next
PAGE = 200  # series looked at in one round, when the past is gone through


class Pool(Protocol):
    """What does the work; `plugin.pool` in production."""

    workers: int
    in_flight: int
    time_limit: float

    def problem(self) -> str:
        """A sentence if nothing can be classified at present, else ''."""
        ...

    def remarks(self) -> Mapping[str, str]:
        """Sentences about inference servers that are not used, by address; under '' what is done without any."""
        ...

    def classify(self, images: Sequence[tuple[str, str]], all_cores: bool) -> Future[list[Outcome]]:
        """Have one worker classify these, at most `in_flight`, at the same time; on all cores, if no other has work."""
        ...

    def tidy(self, guest: str, study: str) -> Future[list[Outcome]]:
        """Look at a document of ours that others brought, which may not stay."""
        ...

    def give_up(self, instance: str, study: str, reason: str) -> Future[list[Outcome]]:
        """Mark an image as `failed` that cannot be classified."""
        ...


@dataclass(order=True)
class Task:
    """An instance to do: an image, or a guest. Arrivals go before the past, and each in its order.

    `alone`: an image that had its chance in a group.
    """

    past: bool
    order: int
    instance: str = field(compare=False)
    study: str = field(compare=False)
    guest: bool = field(default=False, compare=False)  # a document of ours that others brought
    given_up: str = field(default="", compare=False)  # why, if it is to be marked as `failed`
    given: float = field(default=0.0, compare=False)
    crashes: int = field(default=0, compare=False)
    pauses: int = field(default=0, compare=False)
    alone: bool = field(default=False, compare=False)

    @property
    def by_itself(self) -> bool:
        """Whether it goes to a worker without others."""
        return bool(self.guest or self.alone or self.given_up)


@dataclass
class Walk:
    """Going through the CR and DX series that are in the archive already, the latest arrivals first."""

    series: list[str]
    found: int

    def page(self) -> list[str]:
        """The next series to look at, none at the end."""
        page, self.series = self.series[-PAGE:], self.series[:-PAGE]
        return page


Say = Callable[[str, Any], None]
"""Tells Orthanc's side something: `status`, `metrics`, `position`, `backfill`, or for the log `info` or `warning`."""


class Dispatcher:
    """Hands instances to the pool and accounts for each of them.

    :param since: the log's position up to which everything is finished.
    :param attempts: how often an image that ends its worker is tried.
    :param listing: is told of every image of ours that may have changed.
    :param shared: whether other Orthancs write to the same database.
    """

    def __init__(
        self,
        archive: Archive,
        pool: Pool,
        since: int,
        attempts: int,
        say: Say,
        listing: Listing,
        shared: bool = False,
    ) -> None:
        """Nothing is read yet."""
        self._archive, self._pool, self._attempts, self._say = archive, pool, attempts, say
        self._listing = listing
        self._log = ChangeLog(archive, since, shared)
        self._moving = MOVING_ELSEWHERE if shared else MOVING
        self._ready: list[Task] = []
        self._waiting: list[tuple[float, Task]] = []
        self._running: dict[Future[list[Outcome]], list[Task]] = {}
        self._arrivals: OrderedDict[str, int] = OrderedDict()  # unfinished, with their place in the log
        self._guests: set[str] = set()  # those among them that are no images
        self._past: set[str] = set()  # unfinished, from a backfill
        self._since: dict[str, float] = {}  # when they came, or were to be done again, in seconds since 1970
        self._idle = 0.0  # when nothing of that kind was unfinished
        self._metrics = Metrics()
        self._touched: dict[str, int] = {}  # unfinished, of which the log has told more, and the first place where
        self._unsure: dict[str, int] = {}  # finished, but others may have written to them meanwhile
        self._dates: str | None = None
        self._backfill: Walk | None = None
        self._look = 0.0  # when to look at the change log again, though nothing rang
        self._said: dict[str, Any] = {}
        self._remarks: Mapping[str, str] = {}  # those that were said

    def tick(self, now: float, news: bool = True) -> float:
        """Do what can be done now; returns the seconds after which to come again at the latest.

        :param news: whether the change log may have grown; what our own workers write there can wait a little.
        """
        for future in [future for future in self._running if future.done()]:
            self._finish(self._running.pop(future), future, now)
        if news or now >= self._look:
            self._look = now + LONGEST
            try:
                self._queue(self._unsure, now)
                self._unsure.clear()
                more = self._read_log(now)
                if self._look_back() or more:
                    self._look = now
            except ArchiveUnavailable as problem:
                self._say("warning", f"{problem}; trying again in 2 s")
                self._look = now + 2.0
        self._start(now)
        self._report()
        return max(min(self._look, self._waiting[0][0] if self._waiting else self._look) - now, 0.0)

    def stuck(self, now: float) -> bool:
        """Whether a task is out for longer than any can take: the pool has lost it, and only a new one helps.

        That happens where a process is killed in the very moment in which it takes a task or hands its result over.
        """
        longest = AHEAD * (self._pool.time_limit + GRACE)
        return any(now > task.given + longest for group in self._running.values() for task in group)

    def want(self, instances: Iterable[str]) -> None:
        """Queue those of these instances that are ours and bear no mark."""
        self._queue(dict.fromkeys(instances, self._log.position), 0.0)

    def forget(self, instance: str) -> None:
        """The instance was deleted from Orthanc."""
        self._listing.look_up(instance)

    def backfill(self, dates: str | None) -> None:
        """Classify what is in the archive already and bears no mark, as long as nothing new is to do.

        :param dates: a range of StudyDate (`20200101-20201231`), '' for everything, or None to stop.
        """
        self._dates, self._backfill = dates, None
        self._past.clear()
        self._ready = [task for task in self._ready if not task.past]
        heapq.heapify(self._ready)

    @property
    def pending(self) -> int:
        """How many images are known that are not finished."""
        return len(self._arrivals) - len(self._guests) + len(self._past)

    def _read_log(self, now: float) -> bool:
        """Queue what its next page tells; whether there are more."""
        began = time.time()
        self._queue(self._log.page(now), now)
        more = self._log.turn(now)
        self._listing.reached(self._log.position)
        if not (more or self._arrivals):
            self._idle = began
        return more

    def _look_back(self) -> bool:
        """Queue a page of the past, if there is one and little else to do; whether to come again at once."""
        if self._dates is None or len(self._past) > AHEAD * self._pool.workers * self._pool.in_flight:
            return False
        if not self._backfill:
            series = self._archive.radiographs(self._dates)
            self._backfill = Walk(series, len(series))
        page = self._backfill.page()
        order = len(self._backfill.series)
        rows = {one.id: one for one in self._archive.series(page)}
        for found in self._archive.instances([instance for one in rows.values() for instance in one.instances]):
            if not found.mark and found.id not in self._arrivals and found.series in rows:
                self._past.add(found.id)
                heapq.heappush(self._ready, Task(True, -order, found.id, rows[found.series].study))
        if not page and not self._past:
            self._say("info", f"The backfill is finished: {self._backfill.found} series were looked at")
            self._say("backfill", None)
            self._dates = self._backfill = None
            return False
        return bool(page)

    def _queue(self, places: dict[str, int], now: float) -> None:
        """Queue arrivals, given with their places in the log."""
        for unfinished in places.keys() & self._arrivals.keys():
            self._listing.look_up(unfinished)  # it may have its mark already
            self._touched.setdefault(unfinished, places[unfinished])  # or lost it, if it is to be classified again
        # Most of what arrives in a hospital is not ours: of that, nothing is asked but where it belongs.
        wanted = {one for one in places if one not in self._arrivals}
        series = {one.id: one for one in self._archive.series(wanted) if one.radiographs or one.documents}
        wanted = wanted.intersection(chain.from_iterable(one.instances for one in series.values()))
        found = [one for one in self._archive.instances(wanted) if one.series in series]
        # In the log's order, which Orthanc's answer does not keep: the first arrival tells what is finished.
        late = found and self._arrivals and min(places.values()) < next(reversed(self._arrivals.values()))
        for one in sorted(found, key=lambda one: places[one.id]):
            self._hear(one, series[one.series], places[one.id], now)
        if late:
            self._arrivals = OrderedDict(sorted(self._arrivals.items(), key=lambda arrival: arrival[1]))

    def _hear(self, found: Instance, series: Series, order: int, now: float) -> None:
        """Of an instance that arrived, or was marked."""
        if series.radiographs:
            self._listing.note(found)
        if not found.mark if series.radiographs else found.guest and not found.beside:
            self._arrivals[found.id] = order
            task = Task(False, order, found.id, series.study, guest=not series.radiographs)
            if task.guest:
                self._guests.add(found.id)
                heapq.heappush(self._waiting, (now + self._moving, task))
            else:
                self._since[found.id] = max(moment(found.received), self._idle) or time.time()
                heapq.heappush(self._ready, task)

    def _start(self, now: float) -> None:
        while self._waiting and self._waiting[0][0] <= now:
            heapq.heappush(self._ready, heapq.heappop(self._waiting)[1])
        while len(self._running) < AHEAD * self._pool.workers and not self._pool.problem():
            group = self._next_group()
            if not group:
                return
            for task in group:
                task.given = now
            self._running[self._give(group)] = group

    def _next_group(self) -> list[Task]:
        """What one worker is to do at once: a share of what is ready, or, while all are busy, only a full group."""
        idle, most = self._pool.workers - len(self._running), self._pool.in_flight
        if not self._ready or (idle <= 0 and len(self._ready) < most):
            return []
        size = min(most, math.ceil(len(self._ready) / idle)) if idle > 0 else most
        group = [heapq.heappop(self._ready)]
        while len(group) < size and self._ready and not (group[0].by_itself or self._ready[0].by_itself):
            group.append(heapq.heappop(self._ready))
        return group

    def _give(self, group: list[Task]) -> Future[list[Outcome]]:
        first = group[0]
        if first.guest:
            return self._pool.tidy(first.instance, first.study)
        if first.given_up:
            return self._pool.give_up(first.instance, first.study, first.given_up)
        nothing_else = len(group) == 1 and not (self._ready or self._running)
        return self._pool.classify([(task.instance, task.study) for task in group], nothing_else)

    def _finish(self, group: list[Task], future: Future[list[Outcome]], now: float) -> None:
        for task, outcome in zip(group, self._outcomes(group, future), strict=True):
            if outcome:
                self._account(task, outcome, now)

    def _account(self, task: Task, outcome: Outcome, now: float) -> None:
        if outcome.state == "later":
            self._again(task, outcome, now)
            return
        self._arrivals.pop(task.instance, None)
        self._since.pop(task.instance, None)
        self._past.discard(task.instance)
        self._guests.discard(task.instance)
        touched = self._touched.pop(task.instance, self._log.position if outcome.state == "gone" else None)
        if touched is not None:
            self._unsure[task.instance] = touched  # it may have come back
        if task.guest:
            level = "warning" if outcome.reason == "removed" else "info"
            self._say(level, f"Instance {task.instance}, a copy of a report: {outcome.reason or outcome.state}")
            return
        self._listing.look_up(task.instance)
        self._look = min(self._look, now + SOON)
        if outcome.state == "gone":
            self._say("warning", f"Instance {task.instance} was deleted or replaced before it was classified")
            return
        self._metrics.finished(outcome)
        reason = outcome.reason and f", {outcome.reason}"
        # Nothing to warn of, as a rule; but Orthanc's log has nothing below a warning, unless it is asked for more.
        self._say("warning", f"Instance {task.instance}: {outcome.state} in {outcome.took} ms{reason}")

    def _outcomes(self, group: list[Task], future: Future[list[Outcome]]) -> list[Outcome | None]:
        """What the worker said, or, if it died or hung, what is to happen next; None if one is given up just now."""
        try:
            return [*future.result()]
        except BrokenProcessPool as problem:
            self._metrics.lost_worker()
            return [Outcome("later", str(problem), model_unavailable=True)] * len(group)
        except TimeoutError:
            self._metrics.lost_worker()
            reason = "it took longer than the time limit"
        except ProcessExpired as problem:
            self._metrics.lost_worker()
            reason = f"its worker ended (status {problem.exitcode})"
        except MemoryError:
            reason = "it took more memory than the limit"
        except Exception as problem:  # a fault of ours, or Orthanc refused what it never refuses
            reason = f"it failed ({type(problem).__name__}: {problem})"
        if len(group) > 1:  # nobody knows which of them it was
            return [Outcome("later", reason, alone=True)] * len(group)
        return [self._crashed(group[0], reason)]

    def _crashed(self, task: Task, reason: str) -> Outcome | None:
        task.crashes += 1
        if task.crashes < self._attempts:
            return Outcome("later", reason)
        if task.guest:
            return Outcome("failed", reason)
        if task.given_up:  # not even that could be written
            return Outcome("later", reason)
        task.given_up = f"Given up after {task.crashes} tries: {reason}"
        heapq.heappush(self._ready, task)
        return None

    def _again(self, task: Task, outcome: Outcome, now: float) -> None:
        if outcome.model_unavailable:  # the pool says when there is one again; that was not this image's try
            heapq.heappush(self._ready, task)
            return
        if outcome.elsewhere:
            heapq.heappush(self._waiting, (now + ELSEWHERE, task))
            return
        if outcome.alone:
            task.alone = True
            heapq.heappush(self._ready, task)
            self._say("warning", f"Instance {task.instance} is tried again alone: {outcome.reason}")
            return
        pause = min(2.0 ** min(task.pauses, 9), LONGEST_PAUSE)
        task.pauses += 1
        heapq.heappush(self._waiting, (now + pause, task))
        level = "info" if task.guest else "warning"
        self._say(level, f"Instance {task.instance} is tried again in {pause:.0f} s: {outcome.reason}")

    def _report(self) -> None:
        problem = self._pool.problem()
        if problem != self._said.get("status", {}).get("reason", ""):
            self._say("warning", problem or "Ready")
        said, self._remarks = self._remarks, self._pool.remarks()
        for address, remark in self._remarks.items():
            if address not in said:
                self._say("warning", remark)
        for address in said:
            if address and address not in self._remarks:
                self._say("warning", f"The inference server {address} is used again")
        walk = self._backfill or Walk([], 0)
        progress = {"series": walk.found, "looked_at": walk.found - len(walk.series)}
        status = {
            "ready": not problem,
            "reason": problem,
            "remarks": [*self._remarks.values()],
            "workers": self._pool.workers,
            "pending": self.pending,
            "backfill": None if self._dates is None else progress,
        }
        self._tell("status", status)
        oldest = time.time() - min(self._since.values(), default=time.time())
        self._tell("metrics", self._metrics.values(not problem, self.pending, oldest))
        if not self._unsure:
            # Everything before the first unfinished arrival is finished.
            settled = self._log.settled
            self._tell("position", min(next(iter(self._arrivals.values()), settled + 1) - 1, settled))

    def _tell(self, what: str, value: Any) -> None:
        if self._said.get(what) != value:
            self._said[what] = value
            self._say(what, value)
