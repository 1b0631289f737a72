"""What this process may use of its machine: cores and memory, within the limits of its control groups (cgroups(7)).

A container's limits are such groups', and so are a systemd service's. Both versions are read, as they are mounted below
/sys/fs/cgroup. Standard library only, since this is read inside Orthanc.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def cores(mounted: Path = MOUNTED, own: Path = OWN) -> int:
    """The cores that this process may run on, or as many as the time of its groups lasts for; at least 1."""
    most = float(len(os.sched_getaffinity(0)))
    for group in _groups("cpu", mounted, own):
        match _words(group, "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"):
            case [quota, period] if quota.isdecimal():
                most = min(most, int(quota) / int(period))
    return max(1, math.ceil(most))


def memory(mounted: Path = MOUNTED, own: Path = OWN) -> int:
    """Bytes: the machine's, or as many as the groups of this process may have."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for group in _groups("memory", mounted, own):
        match _words(group, "memory.max", "memory.limit_in_bytes"):
            case [limit] if limit.isdecimal():
                most = min(most, int(limit))
    return most


def _groups(controller: str, mounted: Path, own: Path) -> Iterator[Path]:
    """The folders of this process's group and of all above it, each of which may set a limit.

    In a container, its own group may be the top one that is seen, under whatever name.
    """
    try:
        memberships = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in memberships:
        if controller in controllers.split(",") or not controllers:  # none are named in version 2
            top = mounted / controller if controllers else mounted
            group = top / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def _words(group: Path, *files: str) -> list[str]:
    """What stands in those of the files that are there: each version has its own. What cannot be read is no limit."""
    words = []
    for file in files:
        try:
            words += (group / file).read_text().split()
        except OSError:
            continue
    return words
