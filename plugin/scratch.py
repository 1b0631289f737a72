"""Temporary folders that do not outlive their owners, even one that is killed: the next one removes what it finds.

Standard library only.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

AGE = 60.0  # seconds; a folder is not locked yet in the moment after it was made


@contextmanager
def folder(prefix: str, within: Path) -> Iterator[Path]:
    """A folder which no other user can enter, and which is gone afterwards.

    The lock says that it is in use: to us, and to systemd-tmpfiles, which removes old files.
    """
    sweep(prefix, within)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=within) as name:
        lock = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(name)
        finally:
            os.close(lock)


def sweep(prefix: str, within: Path) -> None:
    """Remove those folders of ours that killed processes have left; what cannot be removed stays."""
    for left in within.glob(f"{prefix}*"):
        _remove_if_left(left)


def _remove_if_left(left: Path) -> None:
    try:
        lock = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return  # another user's
    try:
        if os.fstat(lock).st_uid == os.geteuid() and os.fstat(lock).st_mtime < time.time() - AGE:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    except BlockingIOError:
        return  # another process's
    finally:
        os.close(lock)
