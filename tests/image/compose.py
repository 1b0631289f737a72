"""compose.yaml, read and run by Docker Compose itself, which speaks to podman as it would to Docker.

Of compose.yaml, only the driver for the log differs, since podman has not Docker's. The stand-ins bear the names of the
real base images; what the build downloads was downloaded by `tests.image.build`, and is taken from podman's layers.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from demo.serve import ROOT
from tests.image.build import MIRROR, PYTHON, debian, pip_settings, weights
from tests.image.podman import KEPT, LIMITS, PODMAN, podman
from tests.pacs import free_port, wait_for

PROGRAM = KEPT / "compose/usr/libexec/docker/cli-plugins/docker-compose"
SOCKET = KEPT / "podman.sock"
PASSWORD = 'p"a#d\\e'


def program() -> Path:
    """Docker Compose out of Debian 13, since Debian 12 has none that reads such files; kept."""
    if not PROGRAM.exists():
        always = ("--quiet", "--variant=extract", '--aptopt=Acquire::Check-Valid-Until "false"')
        folder = PROGRAM.parents[4]
        subprocess.run(["mmdebstrap", *always, "--include=docker-compose", "trixie", folder, MIRROR], check=True)
    return PROGRAM


def compose(*arguments: str, **environ: str) -> str:
    """What a command of Docker Compose prints; with these variables and none of this machine's that it might read."""
    known = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "DOCKER_HOST": f"unix://{SOCKET}"}
    command = [str(program()), *arguments]
    done = subprocess.run(command, cwd=ROOT, env=known | environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker compose {arguments}: {done.stderr}"
    return done.stdout


@contextmanager
def engine() -> Iterator[None]:
    """Podman, as a server that answers like Docker's."""
    settings = KEPT / "containers.conf"
    settings.write_text(f"[containers]\ndefault_ulimits = {json.dumps(LIMITS)}\n")
    command = [*PODMAN, "system", "service", "--time=0", f"unix://{SOCKET}"]
    environ = os.environ | {"CONTAINERS_CONF": str(settings), "BUILDAH_ISOLATION": "chroot"}
    with (KEPT / "podman.log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
    try:
        wait_for(lambda: SOCKET.exists() or None, 20, (KEPT / "podman.log").read_text)
        yield
    finally:
        process.terminate()
        process.wait()
        SOCKET.unlink(missing_ok=True)


def check_profiles() -> None:
    """Each is read, and what its file names to be started brings its own services along, and no other."""
    wanted = {
        (): {"orthanc"},
        ("--profile", "postgresql", "orthanc-postgresql"): {"orthanc-postgresql", "postgresql"},
        ("--profile", "cluster", "balancer"): {"balancer", "orthanc-a", "orthanc-b", "postgresql", "objects", "triton"},
    }
    for words, services in wanted.items():
        profile, named = words[:2], words[2:]
        read: dict[str, Any] = json.loads(compose(*profile, "config", "--format", "json", *named))
        assert set(read["services"]) == services, (words, set(read["services"]))
        for name in services & {"orthanc-a", "orthanc-b"}:
            check = read["services"][name]["healthcheck"]["test"]
            assert check[-1] == "--alive", "a Triton that takes long would end the whole start"
    for variant in ("", "servers"):
        read = json.loads(compose("config", "--format", "json", **({"VARIANT": variant} if variant else {})))
        assert read["services"]["orthanc"]["build"].get("args", {}).get("VARIANT") == (variant or None)
    read = json.loads(compose("--profile", "cluster", "config", "--format", "json", "balancer"))
    assert read["services"]["orthanc-a"]["build"]["args"]["VARIANT"] == "servers"
    gpu = ("--file", "compose.yaml", "--file", "compose.gpu.yaml", "config", "--format", "json")
    assert json.loads(compose(*gpu, VARIANT="servers"))["services"]["orthanc"]["build"]["args"]["VARIANT"] == "gpu"


def check(upload: Callable[[str, tuple[str, str]], Sequence[object]]) -> None:
    """`docker compose up --build`: it classifies, and keeps what it did over a restart."""
    check_profiles()
    podman("tag", "localhost/orthanc-stand-in", "docker.io/orthancteam/orthanc:26.8.1")
    podman("tag", debian(*PYTHON), "docker.io/library/python:3.11-slim-bookworm")
    links = pip_settings().get("find-links")
    override = {
        "build": {"network": "host", "args": {"TORCH_LINKS": links[0]} if links else {}},
        "logging": {"driver": "json-file", "options": {}},
    }
    file = KEPT / "compose.override.json"
    file.write_text(json.dumps({"services": {"orthanc": override}}))
    files = ("--file", "compose.yaml", "--file", str(file))
    port = free_port()
    environ = {"HTTP_PORT": str(port), "DICOM_PORT": str(free_port()), "CHEST_XRAY_PASSWORD": PASSWORD}
    environ |= weights() | {"DOCKER_BUILDKIT": "0"}

    def run(*arguments: str) -> str:
        return compose(*files, *arguments, **environ)

    def ready() -> dict[str, Any] | None:
        try:
            answer = requests.get(f"http://127.0.0.1:{port}/chest-xray/status", auth=account, timeout=5)
        except requests.ConnectionError:
            return None
        status: dict[str, Any] = answer.json()
        return status if status["ready"] else None

    account = ("chest-xray", PASSWORD)
    with engine():
        try:
            run("up", "--build", "--detach", "--pull", "never")
            wait_for(ready, 60, lambda: run("logs"))
            run("exec", "-T", "orthanc", "python3", "/opt/chest-xray/docker/healthcheck.py")
            count = len(upload(f"http://127.0.0.1:{port}", account))
            run("exec", "-T", "orthanc", ".venv/bin/python", "-m", "plugin.backfill", "--from", "2020-01-01")
            run("restart")
            assert wait_for(ready, 60, lambda: run("logs"))["done"] == count
            print(f"docker compose up --build, {count} results, the same after a restart")
        finally:
            run("down", "--volumes")
