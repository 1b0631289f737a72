"""`python -m plugin`: the process beside Orthanc, started by `plugin/main.py` and ended with it.

Standard input brings lines of JSON from Orthanc: first what to work with, then `{}` when there is something new,
`{"deleted": id}`, and `{"backfill": dates}`. Its end means that Orthanc is gone. Standard output takes lines of JSON
back: `{"worklist": [path, complete]}`, `{"status": ...}`, `{"metrics": ...}`, `{"position": ...}` in Orthanc's change
log, `{"backfill": null}` when that is finished, and `{"info": ...}` or `{"warning": ...}` for Orthanc's log.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any

from plugin.archive import Archive
from plugin.dispatcher import Dispatcher
from plugin.listing import Listing
from plugin.pool import WorkerPool
from plugin.settings import Connection, Settings
from plugin.worklist import Worklist

SHORTEST_BREATH, BREATH, LONGEST_BREATH = 0.01, 0.1, 0.5
"""Seconds between two looks at the change log: longer, the more pours in, and longest where none of it is ours."""
BELL = b"{}"
POOL = {"pool": "changed"}
VOICE = threading.Lock()  # two threads have something to say


def main() -> None:
    """Work until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for Orthanc, which ends us in its own time
    heard = _hear(sys.stdin.fileno())
    first, *others = next(lines for lines in heard if lines)
    start = json.loads(first)
    connection = Connection(**start["connection"])
    settings = Settings.read(start["settings"], environ={})
    news: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
    pool = WorkerPool(connection, settings, changed=lambda: news.put(POOL))
    worklist = Worklist()
    listing = Listing(Archive(connection), worklist, _say)
    dispatcher = Dispatcher(
        Archive(connection), pool, start["since"], settings.Attempts, _say, listing, connection.shared
    )
    thread = threading.Thread(target=listing.run, name="listing", daemon=True)
    thread.start()
    ears = (chain([others], heard), news, lambda: bool(dispatcher.pending))
    threading.Thread(target=_listen, args=ears, name="ears", daemon=True).start()
    dispatcher.want(start["instances"])
    dispatcher.backfill(start["backfill"])
    try:
        _work(dispatcher, news)
    finally:
        listing.stop()
        thread.join(timeout=1)
        worklist.close()
        pool.stop()


def _work(dispatcher: Dispatcher, news: SimpleQueue[dict[str, Any] | None]) -> None:
    pause = 0.0
    while True:
        messages = list(_drain(news, pause))
        if None in messages:
            return
        for message in messages:
            if message and "deleted" in message:
                dispatcher.forget(message["deleted"])
            if message and "backfill" in message:
                dispatcher.backfill(message["backfill"])
        now = time.monotonic()
        pause = dispatcher.tick(now, news=any(message is not POOL for message in messages) or not messages)
        if dispatcher.stuck(now):
            _say("warning", "The worker processes do not answer; they are started again, and this process with them")
            return


def _drain(news: SimpleQueue[dict[str, Any] | None], pause: float) -> Iterable[dict[str, Any] | None]:
    """Wait for one message, at most `pause` seconds, and take all the others that are there by then."""
    try:
        yield news.get(timeout=pause) if pause else news.get_nowait()
        while True:
            yield news.get_nowait()
    except Empty:
        return


def _hear(descriptor: int) -> Iterator[list[bytes]]:
    """Whole lines, at each time all that are there by then."""
    rest = b""
    while heard := os.read(descriptor, 1 << 16):
        *lines, rest = (rest + heard).split(b"\n")
        yield lines


def _listen(heard: Iterable[list[bytes]], news: SimpleQueue[dict[str, Any] | None], busy: Callable[[], bool]) -> None:
    """Pass on what is heard; of many bells one, since one look at the change log answers them all."""
    breath, rested = SHORTEST_BREATH, 0.0
    for lines in heard:
        for line in lines:
            if line != BELL:
                news.put(json.loads(line))
        if BELL in lines:
            news.put({})
            at_once = time.monotonic() < rested + breath
            breath = min(4 * breath, BREATH if busy() else LONGEST_BREATH) if at_once else SHORTEST_BREATH
            time.sleep(breath)
            rested = time.monotonic()
    news.put(None)


def _say(what: str, value: Any) -> None:
    if what in ("info", "warning"):
        value = _printable(value)
    try:
        with VOICE:
            print(json.dumps({what: value}), flush=True)  # noqa: T201 - this is the pipe to Orthanc
    except BrokenPipeError:  # Orthanc is gone, and standard input says so too
        sys.stdout = None


def _printable(text: str) -> str:
    """One line: a reason quotes what stands in a file; Orthanc's log takes no NUL, and readers no line break."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


if __name__ == "__main__":
    main()
