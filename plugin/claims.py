"""Which of several Orthancs on one database classifies an image: the one that wrote its claim into the mark's place.

All of them read the same change log, and each wants to do everything in it. Orthanc lets only one of two who write to
the same metadata at once succeed (CheckRevisions), and that is all that is needed. A claim lasts no longer than a
worker may; that of a server which was killed is then anybody's. Clocks that differ do no harm: a claim that is broken
too early costs double work, and the report has the same UIDs.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from plugin import marks
from plugin.archive import Archive, Conflict
from plugin.settings import Connection

SLACK = 10.0  # seconds, for clocks that differ
LONGEST = 2 * 86_400.0  # seconds: no TimeLimit is longer than half of that


class Taken(Exception):
    """Another server works on it."""


class Finished(Exception):
    """Another server has finished it, as `state` says."""

    def __init__(self, state: Literal["done", "skipped", "failed"]) -> None:
        super().__init__(state)
        self.state = state


def name(connection: Connection) -> str:
    """A name for this Orthanc among those on one database, the same after a restart."""
    return f"{socket.gethostname()}:{urlsplit(connection.url).port}"


def claim(archive: Archive, instance: str, own: str, seconds: float) -> None:
    """Make the instance that of the server `own`, for so long at most.

    :raises Taken: if it is another's.
    :raises Finished: if it bears its mark already.
    """
    text, revision = archive.marked(instance)
    found = marks.read(text) or {}
    if found and found["state"] != marks.CLAIMED:
        raise Finished(found["state"])
    if found and found.get("server") != own and time.time() < _end(found):
        raise Taken(instance)
    wish = {"state": marks.CLAIMED, "server": own, "until": time.time() + seconds + SLACK}
    try:
        archive.claim(instance, json.dumps(wish), revision)
    except Conflict:
        raise Taken(instance) from None


def _end(claim: Mapping[str, Any]) -> float:
    """In seconds since 1970; anybody with an account can write metadata."""
    until = claim.get("until")
    return until if isinstance(until, int | float) and until < time.time() + LONGEST else 0.0
