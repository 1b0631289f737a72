"""Orthanc's change log, read from a position on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from plugin.archive import Archive

LATE = 60.0
"""Seconds by which an entry may become visible after later ones, where several Orthancs write to one database."""

AGAIN = 30.0
"""Seconds between two readings of what is younger than that."""


class ChangeLog:
    """Which instances changed, each entry once.

    An Orthanc alone writes its entries in their order. Of several, each takes a number and commits in its own time, so
    that a position may have been passed by when its entry appears: the last minute is read again and again then, and
    no position counts as passed before.
    """

    def __init__(self, archive: Archive, since: int, shared: bool) -> None:
        """Nothing is read yet."""
        self._archive, self._shared = archive, shared
        self.position = self.settled = since
        """The last entry that was read, and the last before which none will appear any more."""
        self._passed: deque[tuple[float, int]] = deque()  # positions, with the moment in which they were passed
        self._seen: set[int] = set()  # entries after `settled`
        self._read_again = 0.0

    def read(self, now: float) -> Iterator[dict[str, int]]:
        """The instances of new entries with their places in the log, a page at a time.

        A page counts as read when the next one is asked for.
        """
        again = self._shared and now >= self._read_again
        since, done = self.settled if again else self.position, False
        while not done:
            changes, since, done = self._archive.changes(since)
            yield {change.instance: change.seq for change in changes if change.seq not in self._seen}
            self._seen.update(change.seq for change in changes)
            self.position = max(self.position, since)
        if again:
            self._read_again = now + AGAIN
            self._passed.append((now, self.position))
        while self._passed and self._passed[0][0] <= now - LATE:
            self.settled = self._passed.popleft()[1]
        if not self._shared:
            self.settled = self.position
        self._seen = {seq for seq in self._seen if seq > self.settled}
