"""A real Orthanc with the plugin: how soon it serves, how soon a report is there, how many images a minute."""

from __future__ import annotations

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import requests

from demo.phantoms import radiograph, to_bytes
from demo.serve import PLUGIN_FOLDER
from tests.pacs import Pacs, free_port

Row = tuple[str, str]


def measure(images: int = 60, side: int = 2048) -> list[Row]:
    """Rows of (what, value)."""
    files = [to_bytes(radiograph(seed, rows=side, columns=side)) for seed in range(images)]
    with tempfile.TemporaryDirectory() as folder:
        bare = _start_bare(Path(folder))
        began = time.perf_counter()
        with Pacs(Path(folder) / "pacs") as pacs:
            up = time.perf_counter() - began
            pacs.wait_until_ready()
            ready = time.perf_counter() - began
            latency = [_latency(pacs, data) for data in files[:20]]
            rate = _throughput(pacs, files[20:])
            rows = [
                ("Orthanc alone answers after its start", f"{bare:.2f} s"),
                ("`make serve` answers after its start (Python's included)", f"{up:.2f} s"),
                ("the model is loaded after", f"{ready:.2f} s"),
                (f"from the end of a POST ({side}x{side} raw) to its result, median", _ms(statistics.median(latency))),
                ("the same, 95th percentile", _ms(statistics.quantiles(latency, n=20)[-1])),
                (f"{len(files) - 20} uploads at once until the last result", f"{rate:.1f} images/s"),
                *_memory(pacs),
            ]
    return rows


def _start_bare(folder: Path) -> float:
    port = free_port()
    config = folder / "bare.json"
    config.write_text(
        f'{{"HttpPort": {port}, "DicomPort": {free_port()}, "StorageDirectory": "{folder}/bare",'
        f'"IndexDirectory": "{folder}/bare", "Plugins": ["{PLUGIN_FOLDER}/libOrthancDicomWeb.so"]}}'
    )
    began = time.perf_counter()
    process = subprocess.Popen(["Orthanc", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        try:
            requests.get(f"http://127.0.0.1:{port}/system", timeout=5)
            break
        except requests.ConnectionError:
            time.sleep(0.01)
    took = time.perf_counter() - began
    process.terminate()
    process.wait()
    return took


def _latency(pacs: Pacs, data: bytes) -> float:
    instance = pacs.upload(data)
    began = time.perf_counter()
    pacs.result(instance)
    return time.perf_counter() - began


def _throughput(pacs: Pacs, files: list[bytes]) -> float:
    began = time.perf_counter()
    instances = [pacs.upload(data) for data in files]
    for instance in instances:
        pacs.result(instance, seconds=600)
    return len(files) / (time.perf_counter() - began)


def _memory(pacs: Pacs) -> list[Row]:
    children = sorted(psutil.Process(pacs.process.pid).children(recursive=True), key=lambda one: one.memory_info().rss)
    orthanc = psutil.Process(pacs.process.pid).memory_info().rss
    return [
        ("memory of Orthanc", _mb(orthanc)),
        ("memory of the dispatcher", _mb(children[0].memory_info().rss)),
        ("memory of the largest worker", _mb(children[-1].memory_info().rss)),
    ]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
