"""`make test-image`: the image, run as it is in production, receives radiographs, reports on them and keeps them.

    python -m tests.image.check [IMAGE]

Run by podman as root, without Docker: not root inside, with a read-only root, no capability and no address but its own.
"""

from __future__ import annotations

import base64
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

import requests

from demo.phantoms import samples, to_bytes

PODMAN = ("podman", "--cgroup-manager", "cgroupfs", "--runtime", "runc")
ACCOUNT = ("Zoë", 'p"a$HOME\\s s')  # what a careless shell, JSON or envsubst would alter
AUTHORIZATION = "Basic " + base64.b64encode(":".join(ACCOUNT).encode()).decode()
PORT = int(os.environ.get("PORT", "20310"))
URL = f"http://127.0.0.1:{PORT}"
STOPS_WITHIN = 5.0  # seconds
RUN = (
    *("--rm", "--no-healthcheck", "--read-only", "--cap-drop", "all"),
    *("--tmpfs", "/tmp:mode=1777", "--tmpfs", "/run/orthanc/plugins:exec,mode=1777"),
    *("--ulimit", "nofile=20000:20000", "--ulimit", "nproc=4096:4096"),
    *("--security-opt", "no-new-privileges"),
    *("--env", f"ORTHANC__HTTP_PORT={PORT}", "--env", f"ORTHANC__DICOM_PORT={PORT + 1}"),
)


def podman(*arguments: str) -> str:
    return subprocess.run([*PODMAN, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def running(image: str, *options: str) -> Iterator[str]:
    """A container that is ready; on leaving, it must stop in time."""
    began = time.monotonic()
    account = ("--env", f"CHEST_XRAY_USER={ACCOUNT[0]}", "--env", f"CHEST_XRAY_PASSWORD={ACCOUNT[1]}")
    container = podman("run", "--detach", *RUN, *account, *options, image)
    try:
        wait_until_ready(container)
        print(f"ready after {time.monotonic() - began:.1f} s")
        yield container
    except BaseException:
        print(subprocess.run([*PODMAN, "logs", container], capture_output=True, text=True).stderr)
        raise
    finally:
        began = time.monotonic()
        podman("stop", "--time", "20", container)
    seconds = time.monotonic() - began
    print(f"stopped within {seconds:.1f} s")
    assert seconds < STOPS_WITHIN


def wait_until_ready(container: str) -> None:
    check = [*PODMAN, "exec", container, "python3", "/opt/chest-xray/docker/healthcheck.py"]
    until = time.monotonic() + 60
    while (answer := subprocess.run(check, capture_output=True, text=True)).returncode:
        assert time.monotonic() < until, answer
        time.sleep(0.2)


def get(path: str) -> Any:
    answer = requests.get(URL + path, headers={"Authorization": AUTHORIZATION}, timeout=20)
    answer.raise_for_status()
    return answer.json()


def upload(folder: Path, results: Path) -> list[dict[str, Any]]:
    environ = {**os.environ, "CHEST_XRAY_USER": ACCOUNT[0], "CHEST_XRAY_PASSWORD": ACCOUNT[1]}
    command = [sys.executable, "upload.py", str(folder), "--url", URL, "--results", str(results)]
    subprocess.run(command, env=environ, check=True)
    return [json.loads(path.read_text()) for path in sorted(results.glob("*.json"))]


def structured_reports() -> list[str]:
    return sorted(series["ID"] for series in get("/series?expand") if series["MainDicomTags"].get("Modality") == "SR")


def check_contents(container: str) -> None:
    def inside(script: str) -> str:
        return podman("exec", container, "sh", "-c", script)

    assert inside("id -u") == "999"
    assert inside("touch /opt/chest-xray/x 2>&1 || true").endswith("Read-only file system")
    assert inside("ls -l /tmp/orthanc.json").startswith("-rw-------")
    # On a read-only root, ONNX Runtime's telemetry complains that it cannot keep this machine's number.
    assert "telemetry" not in subprocess.run([*PODMAN, "logs", container], capture_output=True, text=True).stderr
    assert not inside("command -v gcc g++ cc || true")
    assert not inside("find / -path /proc -prune -o -type d -name torch -print 2>/dev/null || true")


def check_refusals(image: str) -> None:
    """Without a password, Orthanc does not start; without the password, it does not answer."""
    refused = subprocess.run([*PODMAN, "run", *RUN, "--network", "none", image], capture_output=True, text=True)
    assert refused.returncode != 0, refused
    assert "no user" in refused.stdout + refused.stderr, refused


def main(image: str = "localhost/orthanc-chest-xray") -> None:
    size = int(podman("image", "inspect", "--format", "{{.Size}}", image))
    base = int(podman("image", "inspect", "--format", "{{.Size}}", "localhost/orthanc-stand-in"))
    print(f"{size / 1e6:.0f} MB, of which the base has {base / 1e6:.0f}")
    check_refusals(image)
    volume = podman("volume", "create")
    storage = ("--volume", f"{volume}:/var/lib/orthanc/db")
    try:
        with tempfile.TemporaryDirectory() as work, running(image, "--network", "host", *storage) as container:
            check_contents(container)
            assert requests.get(f"{URL}/chest-xray/status", timeout=5).status_code == 401
            radiographs = Path(work, "radiographs")
            radiographs.mkdir()
            for name, ds in samples():
                (radiographs / name).write_bytes(to_bytes(ds))
            results = upload(radiographs, Path(work, "results"))
            assert results and all(result["state"] == "done" for result in results), results
            reports = structured_reports()
            assert reports
            print(f"{len(results)} results, {len(reports)} series of reports")
        with running(image, "--network", "host", *storage):
            assert structured_reports() == reports
        with running(image, "--network", "none", *storage):
            print("ready without any network")
    finally:
        podman("volume", "rm", "--force", volume)


if __name__ == "__main__":
    main(*sys.argv[1:])
