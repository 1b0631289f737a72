"""Keeps the worklist in step with Orthanc: fills it after the start, and follows what the dispatcher learns.

In a thread of its own, so that no image waits for this. `Listing.tick` does one round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any

from plugin import orphans
from plugin.archive import Archive, ArchiveUnavailable, Instance, Place
from plugin.marks import eligible_modality
from plugin.worklist import Worklist

PAGE = 100  # series that are read in one round of filling, and news in one round
DAY = 86_400.0  # seconds after which everything is read once more
IDLE = 60.0  # seconds between two ticks if nothing is heard, and until a worklist that could not be kept is made again
NO_ANSWER = 2.0  # seconds until Orthanc is asked again


class Listing:
    """What the worklist still has to be told.

    :param say: tells Orthanc's side of the `worklist` the file's path and whether it is complete.
    """

    def __init__(self, archive: Archive, worklist: Worklist, say: Callable[[str, Any], None]) -> None:
        """Nothing is read or written yet."""
        self._archive, self._worklist, self._say = archive, worklist, say
        self._heard: SimpleQueue[tuple[str, Instance | None] | int | None] = SimpleQueue()
        self._news: dict[str, Instance | None] = {}  # None where it has to be looked up
        self._left: list[str] | None = None  # series to read, the latest arrivals last
        self._to_sweep: list[str] = []  # series of documents, some of which may have lost their images
        self._due = 0.0
        self._reached = 0
        self._path = ""

    def note(self, found: Instance) -> None:
        """The index knows this of an image of ours. From any thread."""
        self._heard.put((found.id, found))

    def look_up(self, instance: str) -> None:
        """It was deleted, or has a mark by now; it need not be ours. From any thread."""
        self._heard.put((instance, None))

    def reached(self, position: int) -> None:
        """All that the change log says up to there was told. From any thread."""
        self._heard.put(position)

    def stop(self) -> None:
        """End `run` as soon as it does not wait for Orthanc. From any thread."""
        self._heard.put(None)

    def run(self) -> None:
        """Tick whenever there is something to do, until `stop`."""
        pause = 0.0
        while self._listen(pause):
            try:
                pause = 0.0 if self.tick(time.monotonic()) else IDLE
            except ArchiveUnavailable:  # the dispatcher says so
                pause = NO_ANSWER

    def _listen(self, pause: float) -> bool:
        """Wait for news, at most `pause` seconds, and take all that are there by then; False at the end."""
        try:
            heard = self._heard.get(timeout=pause) if pause else self._heard.get_nowait()
            while heard is not None:
                if isinstance(heard, int):
                    self._reached = heard
                else:
                    self._news[heard[0]] = heard[1]
                heard = self._heard.get_nowait()
        except Empty:
            return True
        return False

    def tick(self, now: float) -> bool:
        """Write down some of it; whether there is more. :raises ArchiveUnavailable: and then nothing is lost."""
        if not self._path and now < self._due:
            self._news.clear()  # the filling finds it all
            return False
        try:
            return self._tick(now)
        except ArchiveUnavailable:
            raise
        except Exception as problem:  # a full disk, no temporary folder, or a fault of ours: images go before lists
            reason = f"{type(problem).__name__}: {problem}"
            self._say("warning", f"The worklist cannot be kept ({reason}); it is made again in {IDLE:.0f} s")
            self._path, self._left, self._to_sweep, self._due = "", None, [], now + IDLE
            self._tell(complete=False)
            return False

    def _tick(self, now: float) -> bool:
        if not self._path:
            self._path = self._worklist.renew()
            self._tell(complete=False)
        self._tell_news()
        if self._left is None and now >= self._due:
            self._left, self._due = self._archive.radiographs(), now + DAY
            self._worklist.begin_walk()
        if self._left is not None:
            self._read(self._left)
        elif self._to_sweep:
            orphans.sweep(self._archive, self._worklist, self._to_sweep[-PAGE:], self._say)
            del self._to_sweep[-PAGE:]
        return bool(self._left or self._to_sweep or self._news)

    def _read(self, left: list[str]) -> None:
        series = self._archive.series(left[-PAGE:])
        self._worklist.learn(self._placed(self._archive.instances([one for each in series for one in each.instances])))
        del left[-PAGE:]
        if not left:
            # What was not found is gone. Deletions do not stand in the change log, and another Orthanc on the same
            # database tells nobody of its own.
            self._worklist.end_walk()
            self._left, self._to_sweep = None, self._archive.documents()
            self._tell(complete=True)

    def _tell(self, complete: bool) -> None:
        self._say("worklist", [self._path, complete])

    def _tell_news(self) -> None:
        news = dict(islice(self._news.items(), PAGE))
        looked_up = self._archive.instances([one for one, found in news.items() if not found])
        known = [one for one in news.values() if one] + looked_up
        # One that has its mark now was listed when it came: where it belongs is known then.
        places = {one.id: Place(*place) for one in known if one.mark and (place := self._worklist.place(one.id))}
        placed = self._placed([one for one in known if one.id not in places])
        gone = news.keys() - places.keys() - {one.id for one, _ in placed}  # or no image of ours any more
        orphans.withdraw(self._archive, self._worklist, gone)
        self._worklist.learn([*((one, places[one.id]) for one in known if one.id in places), *placed])
        self._worklist.forget(gone)
        for one in news:
            del self._news[one]
        if not self._news:
            self._worklist.reach(self._reached)

    def _placed(self, found: Sequence[Instance]) -> list[tuple[Instance, Place]]:
        places = self._archive.places(sorted({one.series for one in found}))
        placed = [(one, places[one.series]) for one in found if one.series in places]
        return [(one, place) for one, place in placed if eligible_modality(place.Modality)]
