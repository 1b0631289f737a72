"""A real Orthanc with the plugin against the same Orthanc without it, and against what the machine can do at most."""

from __future__ import annotations

import base64
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import psutil
import requests
from pydicom.uid import UID, CTImageStorage

from demo.phantoms import radiograph, to_bytes
from demo.serve import PLUGIN_FOLDER, PLUGINS, ROOT
from plugin import analysis, classifier, codes, marks, weights
from plugin.settings import Settings
from tests.image import container
from tests.pacs import FINAL, IMAGE, Pacs, wait_for

Row = tuple[str, str]

OTHERS = container.PLUGIN_FOLDER if IMAGE else PLUGIN_FOLDER
WITHOUT_US = {"Plugins": [str(OTHERS / name) for name in PLUGINS if "Python" not in name]}
GFLOP = 5.51
"""Of one DenseNet121 at 224x224: multiplications and additions."""
CORES = len(os.sched_getaffinity(0))
THREADS = Settings().threads
"""That a worker has for an image that is alone."""
UPLOADERS = 6


def measure() -> list[Row]:
    """Rows of (what, value)."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            *_limits(),
            *_start_up(folder),
            *_storing(folder),
            *_classifying(folder, 1024),
            *_classifying(folder, 2048),
            *_ingest(),
            *_sending(folder),
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
        ("one worker alone is ready after its start, from a prepared model", f"{_worker_start():.2f} s"),
        ("all workers are ready after Orthanc's start", f"{ready:.2f} s"),
    ]


def _worker_start(repeats: int = 5) -> float:
    """Seconds from a new interpreter until it has done all that the first image would wait for; the median."""
    model = weights.prepare(weights.STAND_IN, "", ROOT / "build/models")
    code = "import sys, pathlib; from plugin import analysis, classifier; model, *threads = sys.argv[1:]\n"
    code += "for number in threads: analysis.rehearse(classifier.load(pathlib.Path(model), int(number)))"
    threads = [str(number) for number in sorted({1, THREADS})]
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, str(model), *threads], cwd=ROOT, check=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _storing(folder: Path, copies: int = 40) -> list[Row]:
    """What Orthanc's own work costs for one image and for its report, which no plugin can change."""
    classify = classifier.load(weights.prepare(weights.STAND_IN, "", ROOT / "build/models"))
    now = datetime.now(UTC)
    kinds = {f"a radiograph of {side}x{side}": [_drawn(seed, side) for seed in range(copies)] for side in (1024, 2048)}
    reports = [analysis.analyse(_drawn(seed, 64), classify, now).document.data for seed in range(copies)]
    rows = []
    with Pacs(folder / "storing", WITHOUT_US) as pacs:
        for what, files in {**kinds, "its report (SR)": reports}.items():
            before = _seconds(pacs.process.pid)
            for file in files:
                pacs.upload(file)
            spent = (_seconds(pacs.process.pid) - before) / copies
            rows.append((f"Orthanc alone, without the plugin: processor time to store {what}", _ms(spent)))
    return rows


def _drawn(seed: int, side: int) -> bytes:
    return to_bytes(radiograph(seed, rows=side, columns=side))


def _classifying(folder: Path, side: int, images: int = 150, alone: int = 40) -> list[Row]:
    files = [_drawn(seed, side) for seed in range(images + alone + 1)]
    with Pacs(folder / f"classifying {side}") as pacs:
        pacs.wait_until_ready()
        latency, steps, model = _one_by_one_alone(pacs, [files.pop() for _ in range(alone + 1)])
        rate, processor = _throughput(pacs, files, folder / f"upload {side}")
        memory = _memory(pacs)
    size = f"{side}x{side} raw"
    medians = {step: statistics.median(one[step] for one in steps) for step in steps[0]}
    return [
        (f"{size}: from the end of the POST of one image to its result, median", _ms(statistics.median(latency))),
        (f"{size}: the same, 95th percentile", _ms(statistics.quantiles(latency, n=20)[-1])),
        (
            f"{size}: twice the model's own time (one thread) and the decoding",
            _ms(2 * model + medians["decode"] / 1000),
        ),
        (
            f"{size}: the steps in the worker for an image that is alone (threads: {THREADS}), medians in ms",
            ", ".join(f"{step} {ms:.1f}" for step, ms in medians.items()),
        ),
        (f"{size}: {len(files)} images from the start of upload.py to the last result", f"{rate:.1f} images/s"),
        (
            f"{size}: processor time for each of them, in ms",
            ", ".join(f"{who} {ms:.0f}" for who, ms in processor.items()),
        ),
        *((f"{size}: {what}", value) for what, value in memory),
    ]


def _one_by_one_alone(pacs: Pacs, files: Sequence[bytes]) -> tuple[list[float], list[dict[str, float]], float]:
    """Seconds to each result but the first, the steps in the worker, and the median of the model's own in between."""
    classify = classifier.load(weights.prepare(weights.STAND_IN, "", ROOT / "build/models"))
    times: list[float] = []
    steps, own = [], []
    for file in files:
        took, milliseconds = _latency(pacs, file, 0.8 * min(times, default=0))
        times.append(took)
        steps.append(milliseconds)
        own.append(1 / _repeated(lambda: classify(np.zeros((1, 1, 224, 224), np.float32)), 0.1))
    return times[1:], steps[1:], statistics.median(own)


def _latency(pacs: Pacs, data: bytes, rest: float) -> tuple[float, dict[str, float]]:
    """Nobody asks in the first `rest` seconds, since that would take from a core what the image is to have."""
    instance = pacs.upload(data)
    began = time.perf_counter()
    time.sleep(rest)
    while (result := pacs.get(f"/instances/{instance}/chest-xray"))["state"] not in FINAL:
        time.sleep(0.003)
    return time.perf_counter() - began, result["milliseconds"]


def _throughput(pacs: Pacs, files: Sequence[bytes], upload: Path) -> tuple[float, dict[str, float]]:
    """Images per second, and the processor's milliseconds per image by who took them."""
    upload.mkdir()
    for number, data in enumerate(files):
        (upload / f"{number}.dcm").write_bytes(data)
    target = pacs.get("/chest-xray/status")["done"] + len(files)
    before, children = _processor(pacs), os.times()
    began = time.perf_counter()
    _with_upload_py(pacs, upload)
    uploading = os.times()
    wait_for(lambda: pacs.get("/chest-xray/status")["done"] >= target or None, 600, pacs.log)
    rate = len(files) / (time.perf_counter() - began)
    spent = {who: seconds - before[who] for who, seconds in _processor(pacs).items()}
    spent["upload.py"] = sum(uploading[2:4]) - sum(children[2:4])
    return rate, {who: 1000 * seconds / len(files) for who, seconds in spent.items()}


def _processor(pacs: Pacs) -> dict[str, float]:
    """Seconds of processor time so far, of Orthanc, of the process beside it, and of the workers."""
    beside, *workers = (_seconds(process.pid) for process in pacs.family())
    return {"Orthanc": _seconds(pacs.process.pid), "the dispatcher": beside, "the workers": sum(workers)}


def _seconds(process: int) -> float:
    return float(sum(psutil.Process(process).cpu_times()[:2]))


def _memory(pacs: Pacs) -> list[Row]:
    children = sorted(one.memory_info().rss for one in pacs.family())
    return [
        ("memory of Orthanc after that", _mb(psutil.Process(pacs.process.pid).memory_info().rss)),
        ("memory of the largest worker", _mb(children[-1])),
    ]


# What the plugin costs those who do not need it


def _ingest(slices: int = 1000, rounds: int = 30) -> list[Row]:
    """Two servers in turns, with their files in memory: disk and machine change their speed by more than is sought."""
    ways: dict[str, dict[str, list[str]]] = {"without": WITHOUT_US, "with": {}}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    files = _slices(slices, 512)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_memory_folder(2 * sum(map(len, files))))))
        servers = {way: stack.enter_context(Pacs(folder / way, options)) for way, options in ways.items()}
        servers["with"].wait_until_ready()
        for turn in range(-1, rounds):
            for way in sorted(ways, reverse=bool(turn % 2)):
                before = _all_processor(servers[way])
                rate = _upload_rate(servers[way], files)
                time.sleep(1)  # what is looked at afterwards
                if turn >= 0:  # the first one is for warming up
                    rates[way].append(rate)
                    spent[way].append(1000 * (_all_processor(servers[way]) - before) / slices)
                _empty(servers[way])
    slower = [100 * (ours / alone - 1) for ours, alone in zip(rates["with"], rates["without"], strict=True)]
    more = [ours - alone for ours, alone in zip(spent["with"], spent["without"], strict=True)]
    rate, milliseconds = (statistics.median(each["without"]) for each in (rates, spent))
    return [
        (f"{slices} CT slices (512x512) stored without the plugin, median of {rounds}", f"{rate:.0f}/s"),
        ("the same with it, in turns: mean difference", f"{statistics.mean(slower):+.1f} % ± {_error(slower):.1f}"),
        ("processor time for each of them without the plugin, median", f"{milliseconds:.2f} ms"),
        (
            "more with it, the process beside Orthanc included, mean",
            f"{statistics.mean(more):+.2f} ms ± {_error(more):.2f}",
        ),
    ]


def _memory_folder(size: int) -> str | None:
    """A file system in memory with so much room; where there is none, temporary files have to do."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > size else None


def _error(values: Sequence[float]) -> float:
    """The standard error of their mean."""
    return statistics.stdev(values) / math.sqrt(len(values))


def _empty(pacs: Pacs) -> None:
    for patient in pacs.get("/patients"):
        pacs.session.delete(f"{pacs.url}/patients/{patient}").raise_for_status()
    time.sleep(1)  # the plugin hears of each instance


def _all_processor(pacs: Pacs) -> float:
    return sum(_seconds(one.pid) for one in (pacs.orthanc(), *pacs.family()))


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
