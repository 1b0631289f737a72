"""What compose.cluster.yaml sets up, as far as it runs here: the load balancer by its own configuration, two Orthancs
on one PostgreSQL, and Triton; a folder stands for the object storage.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from demo.phantoms import radiograph, to_bytes
from demo.serve import ROOT
from tests.cluster.database import postgresql, shared
from tests.cluster.inference_server import InferenceServer
from tests.pacs import Pacs, wait_for

PASSWORD = 'p"%[a]$HOME:\\ s'  # what a careless configuration would alter
IMAGES = 60
BY_DICOM = 10


@pytest.fixture
def pair(tmp_path: Path, prepared_model: Path, triton: InferenceServer) -> Iterator[tuple[Pacs, Pacs]]:
    with postgresql() as port:
        settings = {"TimeLimit": 10, "Workers": 1, "Servers": [triton.grpc]}
        environ = {"MODEL_FOLDER": str(prepared_model.parent), "CHEST_XRAY_PASSWORD": PASSWORD}
        options = [shared(name, port, tmp_path / "storage", **settings) for name in "ab"]
        a, b = (Pacs(tmp_path / name, one, **environ) for name, one in zip("ab", options, strict=True))
        with a, b:
            a.wait_until_ready()
            b.wait_until_ready()
            yield a, b


@contextmanager
def balancer(a: Pacs, b: Pacs, folder: Path) -> Iterator[Pacs]:
    """HAProxy before both, with the addresses of this machine; what it offers is spoken to as one Orthanc is."""
    front = Pacs(folder / "balancer", CHEST_XRAY_PASSWORD=PASSWORD)
    text = (ROOT / "docker/haproxy.cfg").read_text()
    for pacs, name in ((a, "orthanc-a"), (b, "orthanc-b")):
        text = text.replace(f"{name}:8042", f"127.0.0.1:{pacs.http_port}")
        text = text.replace(f"{name}:4242", f"127.0.0.1:{pacs.dicom_port}")
    text = text.replace("bind :8042", f"bind 127.0.0.1:{front.http_port}")
    text = text.replace("bind :4242", f"bind 127.0.0.1:{front.dicom_port}")
    file = folder / "haproxy.cfg"
    file.write_text(text)
    environ = os.environ | {"CHEST_XRAY_USER": front.user, "CHEST_XRAY_PASSWORD": front.password}
    with (folder / "haproxy.log").open("wb") as log:
        process = subprocess.Popen(["haproxy", "-db", "-f", str(file)], env=environ, stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(front) or None, 20, (folder / "haproxy.log").read_text)
        yield front
    finally:
        process.terminate()
        process.wait(timeout=10)


def answers(front: Pacs) -> bool:
    try:
        return front.session.get(f"{front.url}/system", timeout=5).ok
    except requests.ConnectionError:
        return False


def test_one_address_for_two_orthancs_of_which_one_is_killed(pair: tuple[Pacs, Pacs], tmp_path: Path) -> None:
    a, b = pair
    files = [to_bytes(radiograph(seed, rows=64, columns=64)) for seed in range(IMAGES)]
    with balancer(a, b, tmp_path) as front, ThreadPoolExecutor(4) as uploaders:
        first, rest = files[BY_DICOM : IMAGES // 2], files[IMAGES // 2 :]
        send_by_dicom(files[:BY_DICOM], front.dicom_port, tmp_path / "sent")
        instances = list(uploaders.map(front.upload, first))
        wait_for(lambda: front.get("/chest-xray/status")["done"] > IMAGES // 10 or None, 60, b.log)
        killed = uploaders.submit(a.kill)
        instances += uploaders.map(lambda file: until_it_is_there(lambda: front.upload(file)), rest)
        killed.result()
        query = {"Level": "Instance", "Query": {"Modality": "DX"}}
        found = front.session.post(f"{front.url}/tools/find", json=query, timeout=30).json()
        assert set(instances) < set(found)
        assert len(found) == IMAGES
        results = [front.result(instance, 120) for instance in found]
        assert {result["state"] for result in results} == {"done"}
        assert all(len(front.reports_beside(instance)) == 1 for instance in found)
        assert len({result["server"] for result in results}) == 2
        status = front.get("/chest-xray/status")
        assert (status["done"], status["pending"], status["failed"]) == (IMAGES, 0, 0)
        a.start()


def send_by_dicom(files: list[bytes], port: int, folder: Path) -> None:
    folder.mkdir()
    for number, file in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(file)
    subprocess.run(["storescu", "--scan-directories", "127.0.0.1", str(port), folder], check=True)


def until_it_is_there(send: Callable[[], str]) -> str:
    """As a sender does whose connection was cut: once more."""

    def sent() -> str | None:
        try:
            return send()
        except (requests.ConnectionError, AssertionError):
            return None

    return wait_for(sent, 30, lambda: "It never arrived.")
