"""A real Orthanc with the plugin against the same Orthanc without it, and against what the machine can do at most."""

from __future__ import annotations

import base64
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
from pydicom.uid import UID, CTImageStorage

from demo.phantoms import radiograph, to_bytes
from demo.serve import PLUGIN_FOLDER, PLUGINS, ROOT
from plugin import classifier, codes, marks, weights
from tests.pacs import Pacs, wait_for

Row = tuple[str, str]

WITHOUT_US = {"Plugins": [str(PLUGIN_FOLDER / name) for name in PLUGINS if "Python" not in name]}
GFLOP = 5.51
"""Of one DenseNet121 at 224x224: multiplications and additions."""
CORES = len(os.sched_getaffinity(0))
UPLOADERS = 6


def measure() -> list[Row]:
    """Rows of (what, value)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            *_limits(),
            *_start_up(folder),
            *_classifying(folder),
            *_ingest(folder),
            *_past(folder),
            *_worklist(folder),
        ]


# What the machine can do at most


def _limits() -> list[Row]:
    model = weights.prepare(weights.STAND_IN, "", ROOT / "build/models")
    with ProcessPoolExecutor(CORES, get_context("spawn")) as processes:
        gflops = sum(processes.map(_gemm, range(CORES)))
        rate = sum(processes.map(_model_rate, [model] * CORES))
    return [
        ("matrix multiplication in f32, all cores", f"{gflops:.0f} GFLOP/s"),
        ("so that the model can do at most", f"{gflops / GFLOP:.1f} images/s"),
        ("the model alone, a process for each core", f"{rate:.1f} images/s"),
    ]


def _gemm(_core: int, seconds: float = 3) -> float:
    n = 2048
    matrix = np.ones((n, n), np.float32)
    return 2 * n**3 / 1e9 * _repeated(lambda: matrix @ matrix, seconds)


def _model_rate(path: Path, seconds: float = 5) -> float:
    classify, batch = classifier.load(path), np.zeros((1, 1, 224, 224), np.float32)
    return _repeated(lambda: classify(batch), seconds)


def _repeated(work: Callable[[], object], seconds: float) -> float:
    """How often a second; the first time does not count."""
    work()
    count, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        work()
        count += 1
    return count / took


# From the start to a report


def _start_up(folder: Path) -> list[Row]:
    times = {}
    for name, options in (("without the plugin", WITHOUT_US), ("with it", {})):
        began = time.perf_counter()
        with Pacs(folder / f"start {name}", options) as pacs:
            times[name] = time.perf_counter() - began
            if not options:
                pacs.wait_until_ready()
                ready = time.perf_counter() - began
    return [
        *((f"`make serve` answers after its start, {name}", f"{took:.2f} s") for name, took in times.items()),
        ("the model is loaded in all workers after", f"{ready:.2f} s"),
    ]


def _classifying(folder: Path, images: int = 60, side: int = 2048) -> list[Row]:
    files = [to_bytes(radiograph(seed, rows=side, columns=side)) for seed in range(images)]
    with Pacs(folder / "classifying") as pacs:
        pacs.wait_until_ready()
        _latency(pacs, files.pop())
        latency, steps = zip(*(_latency(pacs, files.pop()) for _ in range(20)), strict=True)
        rate = _throughput(pacs, files, folder)
        memory = _memory(pacs)
    size = f"{side}x{side} raw"
    medians = ", ".join(f"{step} {statistics.median(one[step] for one in steps):.1f}" for step in steps[0])
    return [
        (f"from the end of the POST of one image ({size}) to its result, median", _ms(statistics.median(latency))),
        ("the same, 95th percentile", _ms(statistics.quantiles(latency, n=20)[-1])),
        ("of that, the steps in the worker, medians in ms (the model with one thread)", medians),
        (f"{len(files)} images ({size}) from the start of upload.py to the last result", f"{rate:.1f} images/s"),
        *memory,
    ]


def _latency(pacs: Pacs, data: bytes) -> tuple[float, dict[str, float]]:
    instance = pacs.upload(data)
    began = time.perf_counter()
    result = pacs.result(instance)
    return time.perf_counter() - began, result["milliseconds"]


def _throughput(pacs: Pacs, files: Sequence[bytes], folder: Path) -> float:
    upload = folder / "upload"
    upload.mkdir()
    for number, data in enumerate(files):
        (upload / f"{number}.dcm").write_bytes(data)
    account = {"CHEST_XRAY_USER": pacs.user, "CHEST_XRAY_PASSWORD": pacs.password}
    command = [sys.executable, "upload.py", str(upload), "--url", pacs.url]
    target = pacs.get("/chest-xray/status")["done"] + len(files)
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=os.environ | account, check=True, stdout=subprocess.DEVNULL)
    wait_for(lambda: pacs.get("/chest-xray/status")["done"] >= target or None, 600, pacs.log)
    return len(files) / (time.perf_counter() - began)


def _memory(pacs: Pacs) -> list[Row]:
    children = sorted(one.memory_info().rss for one in pacs.family())
    return [
        ("memory of Orthanc after that", _mb(psutil.Process(pacs.process.pid).memory_info().rss)),
        ("memory of the largest worker", _mb(children[-1])),
    ]


# What the plugin costs those who do not need it


def _ingest(folder: Path, slices: int = 1000, rounds: int = 3) -> list[Row]:
    rates: dict[str, list[float]] = {"without": [], "with": []}
    for turn in range(rounds):
        for name, options in (("without", WITHOUT_US), ("with", {})):
            with Pacs(folder / f"ingest {name} {turn}", options) as pacs:
                if name == "with":
                    pacs.wait_until_ready()
                rates[name].append(_upload_rate(pacs, _slices(slices, 512)))
    without, with_us = (statistics.median(rates[name]) for name in ("without", "with"))
    return [
        (f"{slices} CT slices (512x512) stored without the plugin, median of {rounds}", f"{without:.0f}/s"),
        ("the same with it", f"{with_us:.0f}/s ({100 * (with_us / without - 1):+.1f} %)"),
    ]


def _upload_rate(pacs: Pacs, files: Iterable[bytes]) -> float:
    with ThreadPoolExecutor(UPLOADERS) as uploaders:
        began = time.perf_counter()
        count = sum(1 for _ in uploaders.map(pacs.upload, files))
        return count / (time.perf_counter() - began)


def _slices(count: int, side: int) -> list[bytes]:
    """A CT series: one object whose SOPInstanceUID is written over."""
    ds = radiograph(0, rows=side, columns=side)
    ds.Modality, ds.SOPClassUID = "CT", CTImageStorage
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID("2.25.10000000")
    data = to_bytes(ds)
    return [data.replace(b"2.25.10000000", f"2.25.{10000001 + number}".encode()) for number in range(count)]


def _past(folder: Path, radiographs: int = 50, sizes: Sequence[int] = (1_000, 10_000, 50_000)) -> list[Row]:
    """A backfill of always as many radiographs, in ever larger archives."""
    images = [to_bytes(radiograph(seed, rows=64, columns=64)) for seed in range(radiographs)]
    return [
        (
            f"backfill of {radiographs} radiographs among {size} instances",
            _backfill(folder / f"past {size}", images, size),
        )
        for size in sizes
    ]


def _backfill(folder: Path, images: Sequence[bytes], size: int) -> str:
    with Pacs(folder, WITHOUT_US) as pacs:
        _upload_rate(pacs, [*images, *_slices(size - len(images), 32)])
    with Pacs(folder) as pacs:
        pacs.wait_until_ready()
        began = time.perf_counter()
        pacs.session.post(f"{pacs.url}/chest-xray/backfill", timeout=60)
        wait_for(lambda: pacs.get("/chest-xray/status")["done"] == len(images) or None, 600, pacs.log)
        return f"{time.perf_counter() - began:.1f} s"


# What people see


QUESTIONS = {
    "newest first": "",
    "most suspicious first": "sort=suspicious",
    "one finding, most suspicious first": "sort=suspicious&finding=Pneumonia",
    "a part of the patient's name": "patient=doe%20100044",
    "the last of 500 rows": "limit=500&offset=4500",
}


def _worklist(folder: Path, images: int = 5_000, repeats: int = 50) -> list[Row]:
    """Pages of a worklist whose marks were put straight into the metadata of small objects."""
    with Pacs(folder / "worklist", WITHOUT_US) as pacs, ThreadPoolExecutor(UPLOADERS) as clients:
        instances = list(clients.map(pacs.upload, _studies(images)))
        list(clients.map(lambda one: _put_mark(pacs, *one), enumerate(instances)))
    with Pacs(folder / "worklist") as pacs:
        began = time.perf_counter()
        wait_for(lambda: pacs.get("/chest-xray/worklist")["rows"] or None, 60, pacs.log)
        first = time.perf_counter()
        wait_for(lambda: pacs.get("/chest-xray/worklist")["complete"] or None, 600, pacs.log)
        filled = time.perf_counter()
        pacs.wait_until_ready()
        pages = [(what, *_page_times(pacs, query, repeats)) for what, query in QUESTIONS.items()]
        exports = [_export(pacs, query, images) for query in ("", "?format=csv")]
        memory = psutil.Process(pacs.process.pid).memory_info().rss
    return [
        (
            f"worklist of {images} results: its first page can be seen after Orthanc's start after",
            f"{first - began:.2f} s",
        ),
        ("the same, all of it is read after further", f"{filled - first:.2f} s"),
        *((f"page, {what}: median and 95th percentile", f"{half:.1f} ms, {most:.1f} ms") for what, half, most in pages),
        *exports,
        ("memory of Orthanc after that", _mb(memory)),
    ]


def _studies(count: int) -> list[bytes]:
    """Small radiographs, each of a patient of its own: one object whose identifiers are written over."""
    ds = radiograph(0, rows=16, columns=16, modality="CR", patient_id="10000000")
    ds.PatientName, ds.StudyInstanceUID, ds.SeriesInstanceUID = (
        "Doe^10000000",
        UID("2.25.110000000"),
        UID("2.25.210000000"),
    )
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID("2.25.310000000")
    data = to_bytes(ds)
    return [data.replace(b"10000000", f"{10000001 + number}".encode()) for number in range(count)]


def _put_mark(pacs: Pacs, number: int, instance: str) -> None:
    random = np.random.default_rng(number)
    scores = {label: float(score) for label, score in zip(codes.FINDINGS, random.random(18), strict=True)}
    mark = marks.mark(
        "done",
        instance,
        created=(datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=number)).isoformat(),
        scores=scores,
        findings=[label for label, score in scores.items() if score >= 0.5],
        image={"PatientID": f"{10000001 + number}", "ViewPosition": "PA", "pixels_sha256": random.bytes(32).hex()},
        model={"name": "densenet121-res224-all", "weights": "stand-in", "weights_sha256": "0" * 64},
        warnings=[],
        activation={"float16": base64.b64encode(random.bytes(18 * 7 * 7 * 2)).decode()},
        sr={"instance": instance},
    )
    address = f"{pacs.url}/instances/{instance}/metadata/{marks.METADATA}"
    pacs.session.put(address, data=mark, timeout=60).raise_for_status()


def _page_times(pacs: Pacs, query: str, repeats: int) -> tuple[float, float]:
    """Median and 95th percentile in milliseconds, as a client on this machine sees them."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        assert pacs.get(f"/chest-xray/worklist?{query}")["rows"]
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times), statistics.quantiles(times, n=20)[-1]


def _export(pacs: Pacs, query: str, images: int) -> Row:
    began = time.perf_counter()
    body = pacs.session.get(f"{pacs.url}/chest-xray/results{query}", timeout=600).content
    took = time.perf_counter() - began
    assert body.count(b"\n") >= images
    return (f"all {images} results as {'CSV' if query else 'JSON lines'}", f"{took:.2f} s, {_mb(len(body))}")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
