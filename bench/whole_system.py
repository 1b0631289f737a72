"""A real Orthanc with the plugin against the same Orthanc without it, and against what the machine can do at most."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import requests
from pydicom.uid import UID, CTImageStorage

from demo.phantoms import radiograph, to_bytes
from demo.serve import PLUGIN_FOLDER, PLUGINS, ROOT
from plugin import classifier, weights
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
        parts = (_start_up, _classifying, _ingest, _sending, _past)
        return [*_limits(), *(row for part in parts for row in part(folder))]


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
    target = pacs.get("/chest-xray/status")["done"] + len(files)
    began = time.perf_counter()
    _with_upload_py(pacs, upload)
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


def _sending(folder: Path, slices: int = 1000, rounds: int = 3) -> list[Row]:
    """upload.py, its start included, against one request after another, as Orthanc's ImportDicomFiles.py sends them."""
    files = folder / "slices"
    files.mkdir()
    for number, data in enumerate(_slices(slices, 512)):
        (files / f"{number}.dcm").write_bytes(data)
    ways: dict[str, Callable[[Pacs, Path], object]] = {
        "ours": _with_upload_py,
        "theirs": _one_by_one,
        "again": _with_upload_py,
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds):
        for way, send in ways.items():
            with Pacs(folder / f"sending {way} {turn}", WITHOUT_US) as pacs:
                if way == "again":
                    _with_upload_py(pacs, files)
                began = time.perf_counter()
                send(pacs, files)
                rates[way].append(slices / (time.perf_counter() - began))
    ours, theirs, again = (statistics.median(rates[way]) for way in ("ours", "theirs", "again"))
    what = f"{slices} CT slices (512x512) in a folder"
    return [
        (f"{what}, sent with one POST after another, each over a new connection", f"{theirs:.0f}/s"),
        ("the same with upload.py, its start included", f"{ours:.0f}/s ({ours / theirs:.1f} times as fast)"),
        ("the same once more, when Orthanc has them all", f"{again:.0f}/s"),
    ]


def _with_upload_py(pacs: Pacs, files: Path) -> None:
    account = {"CHEST_XRAY_USER": pacs.user, "CHEST_XRAY_PASSWORD": pacs.password}
    command = [sys.executable, "upload.py", str(files), "--url", pacs.url]
    subprocess.run(command, cwd=ROOT, env=os.environ | account, check=True, stdout=subprocess.DEVNULL)


def _one_by_one(pacs: Pacs, files: Path) -> None:
    for file in files.iterdir():
        with requests.post(
            f"{pacs.url}/instances", file.read_bytes(), auth=(pacs.user, pacs.password), timeout=60
        ) as answer:
            answer.raise_for_status()


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


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
