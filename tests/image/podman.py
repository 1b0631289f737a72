"""Images and containers without Docker: buildah and podman, with everything that they keep below build/containers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from demo.serve import ROOT

KEPT = ROOT / "build" / "containers"
STORAGE = ("--root", str(KEPT / "storage"), "--runroot", str(KEPT / "run"))
PODMAN = ("podman", *STORAGE, "--cgroup-manager", "cgroupfs", "--runtime", "runc")
IMAGE = "localhost/orthanc-chest-xray"

# As compose.yaml runs it: not as root, on a root that cannot be written to, with no capability.
AS_IN_PRODUCTION = (
    *("--init", "--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"),
    *("--tmpfs", "/tmp:mode=1777", "--tmpfs", "/run/orthanc/plugins:exec,mode=1777"),
)
LIMITS = ("nofile=20000:20000", "nproc=4096:4096")
RUN = (
    *(*PODMAN, "run", "--rm", "--pull", "never", "--no-healthcheck"),
    *(option for limit in LIMITS for option in ("--ulimit", limit)),
    *AS_IN_PRODUCTION,
)


def podman(*arguments: str) -> str:
    """What a command of podman prints."""
    done = subprocess.run([*PODMAN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"podman {arguments}: {done.stderr}"
    return done.stdout.strip()


def exists(image: str) -> bool:
    """Whether an image is there."""
    return subprocess.run([*PODMAN, "image", "exists", image], check=False).returncode == 0


@contextmanager
def nothing_left() -> Iterator[None]:
    """Afterwards no container runs, nothing is mounted, and the storage may be moved: podman's notes name its place."""
    try:
        yield
    finally:
        podman("rm", "--all", "--force", "--time", "0")
        for folder in (KEPT / "storage" / "overlay", KEPT / "run"):
            while folder.is_mount() and subprocess.run(["umount", folder], check=False).returncode == 0:
                pass
        shutil.rmtree(KEPT / "storage" / "libpod", ignore_errors=True)
