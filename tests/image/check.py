"""The image, run as in production: it receives radiographs, reports on them, keeps them, and follows its predecessor.

    python -m tests.image.check [IMAGE]

Run by podman, without Docker: not root inside, on a root that cannot be written to, with no capability.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import requests
from requests.auth import HTTPBasicAuth

from demo.serve import ROOT
from plugin import __version__
from tests.image import compose
from tests.image.podman import IMAGE, PODMAN, RUN, nothing_left, podman
from tests.pacs import FINAL, free_port, wait_for

ACCOUNT = ("Zoë", 'p"a$HOME\\s s')  # what a careless shell, JSON or envsubst would alter
STOPS_WITHIN = 5.0  # seconds
PREVIOUS = Path(__file__).with_name("volume-0.1.0.tar.xz")
"""A volume that the previous release filled; see `tests.image.volume`."""


class Container:
    """One container that answers on the loopback interface, or on no network at all."""

    def __init__(self, image: str, volume: str, network: str = "host", password: str = ACCOUNT[1]) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._session = requests.Session()
        self._session.auth = HTTPBasicAuth(*(word.encode() for word in ACCOUNT))
        account = {"CHEST_XRAY_USER": ACCOUNT[0], "CHEST_XRAY_PASSWORD": password} if password else {}
        self.id = subprocess.run(
            [
                *(*RUN, "--detach", "--network", network, "--volume", f"{volume}:/var/lib/orthanc/db"),
                *(option for key, value in account.items() for option in ("--env", f"{key}={value}")),
                *("--env", f"ORTHANC__HTTP_PORT={port}", "--env", f"ORTHANC__DICOM_PORT={free_port()}", image),
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()

    def get(self, path: str) -> Any:
        answer = self._session.get(self.url + path, timeout=20)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, data: bytes = b"") -> Any:
        answer = self._session.post(self.url + path, data=data, timeout=20)
        answer.raise_for_status()
        return answer.json()

    def inside(self, script: str) -> str:
        return podman("exec", self.id, "sh", "-c", script)

    def log(self) -> str:
        return subprocess.run([*PODMAN, "logs", self.id], capture_output=True, text=True, check=False).stderr

    def wait_until_healthy(self, seconds: float = 60) -> None:
        """Until the image's own health check, which Docker would run, says so."""
        check = json.loads(podman("inspect", "--format", "{{json .HealthCheck}}", self.image()))["Test"]
        assert check[0] == "CMD"

        def healthy() -> bool | None:
            command = [*PODMAN, "exec", self.id, *check[1:]]
            return subprocess.run(command, capture_output=True, check=False).returncode == 0 or None

        wait_for(healthy, seconds, self.log)

    def stop(self) -> float:
        """As Docker stops it; the seconds that Orthanc takes for it, without what podman does afterwards."""
        orthanc = psutil.Process(int(podman("inspect", "--format", "{{.State.Pid}}", self.id)))
        began = time.monotonic()
        with subprocess.Popen([*PODMAN, "stop", "--time", "20", self.id], stdout=subprocess.DEVNULL):
            orthanc.wait()
            seconds = time.monotonic() - began
        podman("rm", "--force", self.id)
        return seconds

    def image(self) -> str:
        return podman("inspect", "--format", "{{.Image}}", self.id)

    def result(self, instance: str) -> dict[str, Any]:
        def final() -> dict[str, Any] | None:
            answer: dict[str, Any] = self.get(f"/instances/{instance}/chest-xray")
            return answer if answer["state"] in FINAL else None

        return wait_for(final, 60, self.log)

    def reports(self, instance: str) -> list[str]:
        """The SR instances in an instance's study."""
        series = self.get(f"/studies/{self.get(f'/instances/{instance}/study')['ID']}/series")
        return [one for each in series if each["MainDicomTags"]["Modality"] == "SR" for one in each["Instances"]]


@contextmanager
def running(image: str, volume: str, network: str = "host") -> Iterator[Container]:
    """A container that is ready; on leaving, it must stop in time."""
    began = time.monotonic()
    container = Container(image, volume, network)
    try:
        container.wait_until_healthy()
        print(f"ready within {time.monotonic() - began:.1f} s, ", end="")
        yield container
    except BaseException:
        print(container.log())
        raise
    finally:
        seconds = container.stop()
    print(f"stopped within {seconds:.1f} s")
    assert seconds < STOPS_WITHIN


@contextmanager
def a_volume() -> Iterator[str]:
    """A new one, gone afterwards."""
    volume = podman("volume", "create")
    try:
        yield volume
    finally:
        podman("volume", "rm", "--force", volume)


def check_metadata(image: str) -> None:
    described = json.loads(podman("image", "inspect", image))[0]
    base = json.loads(podman("image", "inspect", "localhost/orthanc-stand-in"))[0]
    layers = len(described["RootFS"]["Layers"]) - len(base["RootFS"]["Layers"])
    size = f"{described['Size'] / 1e6:.0f} MB, of which {base['Size'] / 1e6:.0f} are the base's"
    print(f"{size}; {layers} layers on top of it")
    assert described["Labels"]["org.opencontainers.image.version"] == __version__
    assert described["User"] == "999:999"


def check_accounts(image: str) -> None:
    """Without a password, one is made up, which lasts; one that cannot be read is no reason to go on without."""
    with a_volume() as volume:
        passwords = []
        for _ in range(2):
            container = Container(image, volume, password="")
            container.wait_until_healthy()
            kept = "/var/lib/orthanc/db/password"
            passwords.append(container.inside(f"cat {kept}"))
            assert container.inside(f"stat -c %a {kept}") == "600"
            assert container.log().count("No password was set") == (len(passwords) == 1)
            assert passwords[0] not in container.log()
            for password, status in (("", 401), ("x", 401), (passwords[0], 200)):
                answer = requests.get(f"{container.url}/system", auth=("chest-xray", password), timeout=5)
                assert answer.status_code == status
            container.stop()
        assert passwords[0] == passwords[1]
    command = [*RUN, "--rm", "--network", "none", "--env", "CHEST_XRAY_PASSWORD_FILE=/run/secrets/absent", image]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (refused.returncode, "absent cannot be used" in refused.stderr) == (2, True), refused


def check_contents(container: Container) -> None:
    assert container.inside("id -u") == "999"
    assert container.inside("touch /opt/chest-xray/x 2>&1 || true").endswith("Read-only file system")
    assert container.inside("ls -l /tmp/orthanc.json").startswith("-rw-------")
    # On a read-only root, ONNX Runtime's telemetry complains that it cannot keep this machine's number.
    assert "telemetry" not in container.log()
    assert not container.inside("command -v gcc g++ cc || true")
    assert not container.inside("find / -path /proc -prune -o -type d -name torch -print 2>/dev/null || true")
    assert requests.get(f"{container.url}/chest-xray/status", timeout=5).status_code == 401


def upload(url: str, account: tuple[str, str] = ACCOUNT) -> list[dict[str, Any]]:
    """The samples, as a user uploads them; their results."""
    with tempfile.TemporaryDirectory() as work:
        results = Path(work, "results")
        environ = os.environ | {"CHEST_XRAY_USER": account[0], "CHEST_XRAY_PASSWORD": account[1]}
        command = [sys.executable, "upload.py", "samples", "--url", url, "--results", str(results)]
        subprocess.run(command, cwd=ROOT, env=environ, check=True)
        return [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]


def check_a_new_volume(image: str) -> None:
    """It classifies, and what it stored is there after a restart, with and without a network."""
    with a_volume() as volume:
        with running(image, volume) as container:
            check_contents(container)
            results = upload(container.url)
            assert results and all(result["state"] == "done" for result in results), results
            reports = [container.reports(result["instance"]) for result in results]
            assert all(reports), reports
            print(f"{len(results)} results, ", end="")
        with running(image, volume) as container:
            assert [container.reports(result["instance"]) for result in results] == reports
            print("the same after a restart, ", end="")
        with running(image, volume, "none"):
            print("without any network, ", end="")


def check_an_upgrade(image: str) -> None:
    """What the previous release stored stays as it is; what it left undone is done; all of it can be done again."""
    with a_volume() as volume:
        podman("volume", "import", volume, str(PREVIOUS))
        with running(image, volume) as container:
            known = json.loads(container.inside("cat /var/lib/orthanc/db/results.json"))
            for before in known:
                after = container.result(before["instance"])
                if before["state"] == "pending":
                    assert after["state"] == "done", after
                else:
                    assert after == before
                assert len(container.reports(before["instance"])) == (after["state"] == "done")
            done = next(before for before in known if before["state"] == "done")
            container.post(f"/instances/{done['instance']}/chest-xray")
            assert container.result(done["instance"])["created"] > done["created"]
            assert len(container.reports(done["instance"])) == 1
            states = [before["state"] for before in known]
            print(f"{PREVIOUS.name} ({', '.join(states)}) taken over, ", end="")


def main(image: str = IMAGE) -> None:
    with nothing_left():
        check_metadata(image)
        check_accounts(image)
        check_a_new_volume(image)
        check_an_upgrade(image)
        compose.check(upload)


if __name__ == "__main__":
    main(*sys.argv[1:])
