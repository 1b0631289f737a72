"""A real Orthanc with the plugin, for tests and benchmarks, started as `make serve` does, in a folder of its own.

Where PACS_IMAGE names an image, that is what is run instead; see `tests.image.container`.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

import psutil
import pydicom
import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from demo.serve import ROOT, Account, environ_for_orthanc, orthanc_command
from tests.image import container

T = TypeVar("T")
IMAGE = os.environ.get("PACS_IMAGE")
FINAL = ("done", "skipped", "failed")


class Pacs:
    """One Orthanc on free ports. As a context manager it is started, and ended with all that it started.

    :param options: what its orthanc.json says besides; the keys of its sections go among those that are there.
    :param disk: bytes of a file system of its own for what it stores, in memory; 0 for none.
    """

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, Any] = MappingProxyType({}),
        disk: int = 0,
        /,
        **environ: str,
    ) -> None:
        self.folder, self._options, self._disk = folder, dict(options), disk
        if disk:
            self._options["StorageDirectory"] = str(folder / "disk")
        self.http_port, self.dicom_port = free_port(), free_port()
        self.user, self.password = "tester", environ.get("CHEST_XRAY_PASSWORD") or secrets.token_urlsafe()
        secure = bool(options.get("SslEnabled"))
        self.url = f"{'https' if secure else 'http'}://127.0.0.1:{self.http_port}"
        self._environ = {
            "HTTP_PORT": str(self.http_port),
            "DICOM_PORT": str(self.dicom_port),
            "STORAGE": str(folder / "storage"),
            "WEIGHTS": "stand-in",
            "CHEST_XRAY_USER": self.user,
            "CHEST_XRAY_PASSWORD": self.password,
            **environ,
        }
        self.session = requests.Session()
        self.session.auth = (self.user, self.password)
        self.session.trust_env = False
        self.session.verify = not secure  # its certificate is a test's, for whatever name
        # Orthanc closes a connection that is idle for a second, perhaps just as a request sets out on it.
        self.session.mount(self.url, HTTPAdapter(max_retries=Retry(3, allowed_methods=None)))

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.process.terminate()
            self.process.wait(timeout=30)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers; the classification may need longer (`wait_until_ready`)."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            environ = os.environ | self._environ
            if self._options:
                environ = environ_for_orthanc(environ)
            self.process = subprocess.Popen(self._command(), cwd=ROOT, env=environ, stdout=log, stderr=log)
        wait_for(self._answers, 30, self.log)

    def _command(self) -> list[str]:
        """`demo.serve`; with options, what it would run, with them in the file."""
        if IMAGE:
            return container.command(IMAGE, self._environ, self._options, self._disk)
        if not self._options:
            return [sys.executable, "-m", "demo.serve"]
        command = orthanc_command(os.environ | self._environ, Account(self.user, self.password))
        file = Path(command[-1])
        settings = json.loads(file.read_text())
        for key, value in self._options.items():
            settings[key] = settings.get(key, {}) | value if isinstance(value, dict) else value
        file.write_text(json.dumps(settings))
        return [*self._on_a_disk(), *command]

    def _on_a_disk(self) -> list[str]:
        """The command that runs another one where the disk is, which needs no rights."""
        if not self._disk:
            return []
        folder = Path(self._options["StorageDirectory"])
        folder.mkdir(exist_ok=True)
        mount = f'mount -t tmpfs -o size={self._disk} none "$0" && exec "$@"'
        return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder)]

    def stop(self) -> None:
        """End it as an operator does, and see that nothing of it is left."""
        family = self.family()
        self.process.terminate()
        self.process.wait(timeout=30)
        _, left = psutil.wait_procs(family, timeout=10)
        assert not left, left

    def kill(self) -> None:
        """End it as a power cut does; its processes must go with it."""
        family = self.family()
        self.orthanc().kill()
        self.process.wait()
        _, left = psutil.wait_procs(family, timeout=10)
        assert not left, left

    def family(self) -> list[psutil.Process]:
        """The processes that Orthanc started: the dispatcher, the workers, and what they need."""
        return self.orthanc().children(recursive=True)

    def orthanc(self) -> psutil.Process:
        """Orthanc's own process, in its container too."""
        return psutil.Process(container.main_process(self._environ) if IMAGE else self.process.pid)

    def companion(self) -> psutil.Process:
        """The dispatcher's process."""
        (process,) = self.orthanc().children()
        return process

    def workers(self) -> list[psutil.Process]:
        """The processes of its pool; multiprocessing's own helper is none of them."""
        found = []
        for process in self.companion().children():
            with suppress(psutil.NoSuchProcess):  # killed just now
                if "spawn_main" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def log(self) -> str:
        """What Orthanc and its processes wrote so far."""
        return (self.folder / "log").read_text(errors="replace")

    def get(self, path: str) -> Any:
        """The JSON of a path that must be there."""
        answer = self.session.get(self.url + path, timeout=30)
        assert answer.ok, (path, answer.status_code, answer.text)
        return answer.json()

    def upload(self, data: bytes) -> str:
        """`POST /instances`; the Orthanc id."""
        answer = self.session.post(f"{self.url}/instances", data=data, timeout=60)
        assert answer.ok, answer.text
        instance: str = answer.json()["ID"]
        return instance

    def instance(self, sop_instance_uid: str, seconds: float = 10) -> str:
        """The Orthanc id of an instance that arrives by another way."""

        def found() -> str | None:
            query = {"Level": "Instance", "Query": {"SOPInstanceUID": sop_instance_uid}}
            ids: list[str] = self.session.post(f"{self.url}/tools/find", json=query, timeout=30).json()
            return ids[0] if ids else None

        return wait_for(found, seconds, self.log)

    def result(self, instance: str, seconds: float = 60) -> dict[str, Any]:
        """The plugin's answer, once it is final."""

        def final() -> dict[str, Any] | None:
            answer: dict[str, Any] = self.get(f"/instances/{instance}/chest-xray")
            return answer if answer["state"] in FINAL else None

        return wait_for(final, seconds, self.log)

    def file(self, instance: str) -> bytes:
        """The DICOM file, read back from Orthanc."""
        return self.session.get(f"{self.url}/instances/{instance}/file", timeout=30).content

    def report(self, result: dict[str, Any]) -> pydicom.Dataset:
        """The SR that a result names, read back from Orthanc."""
        return pydicom.dcmread(BytesIO(self.file(result["sr"]["instance"])))

    def reports_beside(self, instance: str) -> list[str]:
        """The Orthanc ids of all SR instances in this instance's study."""
        study = self.get(f"/instances/{instance}/study")["ID"]
        series = [one for one in self.get(f"/studies/{study}/series") if one["MainDicomTags"]["Modality"] == "SR"]
        return [report for one in series for report in one["Instances"]]

    def wait_until_ready(self, seconds: float = 180) -> None:
        """Until the model is loaded; the first time on a machine, it is made first."""
        wait_for(lambda: self.get("/chest-xray/status")["ready"] or None, seconds, self.log)

    def _answers(self) -> bool | None:
        assert self.process.poll() is None, self.log()
        try:
            return self.session.get(f"{self.url}/system", timeout=2).ok
        except requests.ConnectionError:
            return None


def wait_for(condition: Callable[[], T | None], seconds: float, explain: Callable[[], str]) -> T:
    """What `condition` gives as soon as that is not None."""
    end = time.monotonic() + seconds
    while (found := condition()) is None:
        assert time.monotonic() < end, explain()
        time.sleep(0.02)
    return found


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
