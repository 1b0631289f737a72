"""Keeps the worklist in step with Orthanc: fills it after the start, and follows what the dispatcher learns.

In a thread of its own, so that no image waits for this. `Listing.tick` does one round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any

from plugin.archive import Archive, ArchiveUnavailable, Gone, Instance, Place
from plugin.marks import eligible_modality, is_report_uid
from plugin.worklist import Worklist

PAGE = 100  # series that are read in one round of filling, and news in one round
DAY = 86_400.0  # seconds after which everything is read once more
NO_DISK = 60.0  # seconds until the worklist is made again after it could not be written
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
        self._filed: list[str] = []  # series whose documents are to be compared with the images
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
                pause = 0.0 if self.tick(time.monotonic()) else NO_DISK
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
            self._say("warning", f"The worklist cannot be kept ({reason}); it is made again in {NO_DISK:.0f} s")
            self._path, self._left, self._filed, self._due = "", None, [], now + NO_DISK
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
        elif self._filed:
            self._sweep(self._filed[-PAGE:])
            del self._filed[-PAGE:]
        return bool(self._left or self._filed or self._news)

    def _read(self, left: list[str]) -> None:
        series = self._archive.series(left[-PAGE:])
        self._worklist.learn(self._placed(self._archive.instances([one for each in series for one in each.instances])))
        del left[-PAGE:]
        if not left:
            # What was not found is gone. Deletions do not stand in the change log, and another Orthanc on the same
            # database tells nobody of its own.
            self._worklist.end_walk()
            self._left, self._filed = None, self._archive.documents()
            self._tell(complete=True)

    def _sweep(self, page: Sequence[str]) -> None:
        """Remove the reports on images that were deleted when nobody told us."""
        series = {one.id: one for one in self._archive.series(page) if one.documents}
        named = self._worklist.filed_in({one.study for one in series.values()})
        unnamed = {one for each in series.values() for one in each.instances} - named
        for found in self._archive.instances(unnamed):
            if self._has_lost_its_image(found, series[found.series].study):
                self._archive.delete(found.id)
                self._say("warning", f"Instance {found.id}, a report on an image that is gone, was removed")

    def _has_lost_its_image(self, document: Instance, study: str) -> bool:
        """Whether it is ours or stood beside an image, and that is not in the study now."""
        if document.beside:
            return not self._archive.instances([document.beside])
        return not document.guest and not self._is_there(document.id, study)

    def _is_there(self, document: str, study: str) -> bool:
        """Whether the image of a document of ours is in its study."""
        subject = self._archive.subject(document)
        images = self._archive.find(subject) if subject else []
        return not subject or any(
            one.study == study for one in self._archive.series([image.series for image in images])
        )

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
        self._withdraw(gone)
        self._worklist.learn([*((one, places[one.id]) for one in known if one.id in places), *placed])
        self._worklist.forget(gone)
        for one in news:
            del self._news[one]
        if not self._news:
            self._worklist.reach(self._reached)

    def _withdraw(self, gone: Collection[str]) -> None:
        """Remove the reports on images that are gone: nobody can look at what they describe any more."""
        filed = self._worklist.filed(gone)
        for one in filed:
            with suppress(Gone):  # the study as a whole, as a rule
                series = [each for each in self._archive.series_in(one.study) if each.documents]
                others = self._worklist.filed_in([one.study]) - one.documents
                for found in self._archive.instances({each for row in series for each in row.instances} - others):
                    if found.id in one.documents or self._is_on(one.SOPInstanceUID, found):
                        self._archive.delete(found.id)
        for back in self._archive.instances([one.instance for one in filed]):
            self._archive.unmark(back.id)  # it came again meanwhile, and its report may be what was removed

    def _is_on(self, image: str, document: Instance) -> bool:
        """Whether it is a report of another server on this image; what people made of one has a UID of theirs."""
        return is_report_uid(document.SOPInstanceUID) and self._archive.subject(document.id) == image

    def _placed(self, found: Sequence[Instance]) -> list[tuple[Instance, Place]]:
        places = self._archive.places(sorted({one.series for one in found}))
        placed = [(one, places[one.series]) for one in found if one.series in places]
        return [(one, place) for one, place in placed if eligible_modality(place.Modality)]
