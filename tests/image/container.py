"""The image in place of the machine's own Orthanc: what `tests.pacs.Pacs` starts where PACS_IMAGE names an image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from demo.serve import Account, configuration
from tests.image.podman import RUN, podman

SAME = ("RemoteAccessAllowed", "HttpBindAddresses", "HttpPort", "DicomPort")
"""What `make serve` sets that the image leaves to who runs it."""


def command(image: str, environ: Mapping[str, str], options: Mapping[str, Any]) -> list[str]:
    """Run an image in the foreground, with the ports, folders and account that `environ` names for `demo.serve`.

    All folders are where they are outside. They belong to root, and so this one container runs as root, who has no more
    rights than another user without capabilities.
    """
    served = configuration(environ, Account(environ["CHEST_XRAY_USER"], environ["CHEST_XRAY_PASSWORD"]))
    settings = {key: served[key] for key in SAME} | {"StorageDirectory": environ["STORAGE"]} | dict(options)
    paths = [*environ.values(), settings["StorageDirectory"]]
    folders = {Path(value).parent for value in paths if value.startswith("/")}
    Path(settings["StorageDirectory"]).mkdir(exist_ok=True)
    return [
        *(*RUN, "--rm", "--name", name(environ), "--network", "host", "--user", "0:0"),
        *(option for folder in sorted(folders) for option in ("--volume", f"{folder}:{folder}")),
        *(option for key, value in environ.items() for option in ("--env", f"{key}={value}")),
        *("--env", f"ORTHANC_JSON={json.dumps(settings)}", image),
    ]


def name(environ: Mapping[str, str]) -> str:
    """The container's: one for each port."""
    return f"pacs-{environ['HTTP_PORT']}"


def main_process(environ: Mapping[str, str]) -> int:
    """Orthanc's number, as this machine counts."""
    return int(podman("inspect", "--format", "{{.State.Pid}}", name(environ)))
