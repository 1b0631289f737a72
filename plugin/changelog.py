"""Orthanc's change log, read from a position on."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from plugin.archive import Archive, Change

LATE = 60.0
"""Seconds by which an entry may become visible after later ones, where several Orthancs write to one database."""

AGAIN = 30.0
"""Seconds between two readings of what is younger than that."""


class Page(NamedTuple):
    """Some entries, the position behind them, and whether they are the log's last."""

    changes: Sequence[Change]
    end: int
    last: bool


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
        self._again = False  # whether what was read already is gone through once more just now
        self._from: int | None = None  # where the next page begins, while there is one
        self._page = Page([], since, True)

    def page(self, now: float) -> dict[str, int]:
        """The instances of the next entries with their places in the log; the same ones until `turn`."""
        if self._from is None:
            self._again = self._shared and now >= self._read_again
            self._from = self.settled if self._again else self.position
        self._page = Page(*self._archive.changes(self._from))
        return {change.instance: change.seq for change in self._page.changes if change.seq not in self._seen}

    def turn(self, now: float) -> bool:
        """That page was dealt with; whether there are more."""
        self._seen.update(change.seq for change in self._page.changes)
        self.position = max(self.position, self._page.end)
        self._from = None if self._page.last else self._page.end
        if not self._shared:
            self.settled = self.position
        elif self._page.last:
            self._settle(now)
        self._seen = {seq for seq in self._seen if seq > self.settled}
        return not self._page.last

    def _settle(self, now: float) -> None:
        if self._again:
            self._read_again = now + AGAIN
            self._passed.append((now, self.position))
        while self._passed and self._passed[0][0] <= now - LATE:
            self.settled = self._passed.popleft()[1]
