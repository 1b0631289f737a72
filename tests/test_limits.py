"""What a process may use, as the control groups of hypothetical machines say it."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from plugin import limits

GIB = 1 << 30
V1 = "4:memory:/docker/a1\n2:cpu,cpuacct:/docker/a1\n0::/\n"


@pytest.fixture(autouse=True)
def a_large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 cores and 256 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    pages = {"SC_PHYS_PAGES": 256 * GIB // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", pages.__getitem__)


@pytest.mark.parametrize(
    ("own", "files", "cores", "gibibytes"),
    [
        pytest.param("0::/\n", {}, 64, 256, id="no limits: a machine's top group has no such files"),
        pytest.param("0::/\n", {"cpu.max": "max 100000", "memory.max": "max"}, 64, 256, id="limits that are none"),
        pytest.param("0::/\n", {"cpu.max": "200000 100000", "memory.max": str(8 * GIB)}, 2, 8, id="a container"),
        pytest.param("0::/\n", {"cpu.max": "150000 100000"}, 2, 256, id="a core and a half"),
        pytest.param("0::/\n", {"cpu.max": "10000 100000"}, 1, 256, id="a tenth of a core"),
        pytest.param(
            "0::/\n", {"cpu.max": "9000000 100000", "memory.max": str(512 * GIB)}, 64, 256, id="beyond it all"
        ),
        pytest.param(
            "0::/system.slice/a.service\n",
            {
                "system.slice/a.service/cpu.max": "max 100000",
                "system.slice/a.service/memory.max": str(16 * GIB),
                "system.slice/cpu.max": "400000 100000",
                "system.slice/memory.max": str(32 * GIB),
            },
            *(4, 16),
            id="a service in a slice: the strictest of both",
        ),
        pytest.param("0::/../../b\n", {"cpu.max": "300000 100000"}, 3, 256, id="a group outside of what is seen"),
        pytest.param(
            V1,
            {
                "cpu/cpu.cfs_quota_us": "250000",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": str(4 * GIB),
            },
            *(3, 4),
            id="a container, version 1",
        ),
        pytest.param(
            V1,
            {
                "cpu/docker/a1/cpu.cfs_quota_us": "-1",
                "cpu/docker/a1/cpu.cfs_period_us": "100000",
                "memory/docker/a1/memory.limit_in_bytes": "9223372036854771712",
            },
            *(64, 256),
            id="limits that are none, version 1",
        ),
    ],
)
def test_the_strictest_limit_counts(
    own: str, files: Mapping[str, str], cores: int, gibibytes: int, tmp_path: Path
) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert limits.cores(tmp_path / "cgroup", tmp_path / "own") == cores
    assert limits.memory(tmp_path / "cgroup", tmp_path / "own") == gibibytes * GIB


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert limits.cores(tmp_path, tmp_path / "absent") == 64
    assert limits.memory(tmp_path, tmp_path / "absent") == 256 * GIB


@pytest.mark.parametrize("problem", [PermissionError(), OSError(errno.ENODEV, "its group is gone")])
def test_limits_that_cannot_be_read_are_none(problem: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").write_text("0::/a\n")
    (tmp_path / "a").mkdir()
    for name in ("a/cpu.max", "a/memory.max"):
        (tmp_path / name).write_text("100000 100000\n")
    reads = Path.read_text

    def refuse(path: Path) -> str:
        if path.parent.name == "a":
            raise problem
        return reads(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    assert (limits.cores(tmp_path, tmp_path / "own"), limits.memory(tmp_path, tmp_path / "own")) == (64, 256 * GIB)


def test_this_machine_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 1 <= limits.cores() <= len(os.sched_getaffinity(0))
    assert limits.memory() > 1 << 20
