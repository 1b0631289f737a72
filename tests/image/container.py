"""The image in place of the machine's own Orthanc: what `tests.pacs.Pacs` starts where PACS_IMAGE names an image."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from demo.serve import Account, configuration
from tests.image.podman import PODMAN, RUN, podman

SAME = ("RemoteAccessAllowed", "HttpBindAddresses", "HttpPort", "DicomPort", "StorageDirectory", "IndexDirectory")
"""What `make serve` sets that the image leaves to who runs it."""

PLUGIN_FOLDER = Path("/usr/share/orthanc/plugins-available")
"""Where the image has Orthanc's plugins, before it is known which are wanted."""


def command(image: str, environ: Mapping[str, str], options: Mapping[str, Any], disk: int = 0) -> list[str]:
    """Run an image in the foreground, with the ports, folders and account that `environ` names for `demo.serve`.

    Where `disk` is not 0, the StorageDirectory of `options` is a file system of so many bytes.

    All folders are where they are outside. They belong to root, and so this one container runs as root, who has no more
    rights than another user without capabilities.
    """
    served = configuration(environ, Account(environ["CHEST_XRAY_USER"], environ["CHEST_XRAY_PASSWORD"]))
    settings = {key: served[key] for key in SAME} | dict(options)
    paths = [*environ.values(), settings["StorageDirectory"]]
    folders = {Path(value).parent for value in paths if value.startswith("/")}
    small = f"type=tmpfs,tmpfs-size={disk},destination={settings['StorageDirectory']}"
    for folder in (environ["STORAGE"], settings["StorageDirectory"]):
        Path(folder).mkdir(exist_ok=True)
    return [
        *(*RUN, "--rm", "--name", name(environ), "--network", "host", "--user", "0:0"),
        *(option for one in sorted(folders) if one.exists() for option in ("--volume", f"{one}:{one}")),
        *(("--mount", small) if disk else ()),
        *(option for key, value in environ.items() for option in ("--env", f"{key}={value}")),
        *("--env", f"ORTHANC_JSON={json.dumps(settings)}", image),
    ]


def name(environ: Mapping[str, str]) -> str:
    """The container's: one for each port."""
    return f"pacs-{environ['HTTP_PORT']}"


def main_process(environ: Mapping[str, str]) -> int:
    """Orthanc's number, as this machine counts: the child of the container's init."""
    init = psutil.Process(int(podman("inspect", "--format", "{{.State.Pid}}", name(environ))))
    return next(one.pid for one in init.children() if one.name() == "Orthanc")


def healthy(environ: Mapping[str, str]) -> bool:
    """Whether the image's own health check, which Docker would run, says so now."""
    image = podman("inspect", "--format", "{{.Image}}", name(environ))
    check = json.loads(podman("inspect", "--format", "{{json .HealthCheck}}", image))["Test"]
    assert check[0] == "CMD"
    return subprocess.run([*PODMAN, "exec", name(environ), *check[1:]], check=False).returncode == 0
