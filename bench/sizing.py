"""What docs/sizing.md is made of: each part's processor time for an image, what a report takes on disk, and waiting.

    python -m bench.sizing [processor] [engines] [storage] [waiting]     measures, and prints Markdown
    python -m bench.sizing page                                          writes the page's tables anew

`make bench` does the first and the last of these, and keeps what it measures in bench/RESULTS.md. The page's tables
follow from the rates that stand there.

Processor times depend little on what else the machine does. Waiting depends on nothing more: so the simulation gets the
very arrivals and times in a worker that were measured, and what it is asked is how long each image waits.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from itertools import chain, islice, pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from bench.queueing import Deployment, Failures, poisson, recorded, simulate, summary
from bench.whole_system import WITHOUT_US
from demo.phantoms import radiograph, to_bytes
from demo.serve import ROOT
from plugin import classifier, model_repository, servers, weights
from plugin.stand_in import plausible_inputs
from tests.cluster.inference_server import MLSERVER, InferenceServer, MLServer
from tests.pacs import Pacs

SHARES = (0.3, 0.6, 0.9)
"""Of the rate at which the real system did a pile of images, in the same run."""

SIZES = (
    ("a clinic", 50, "1", "none"),
    ("a hospital", 1_000, "1", "none"),
    ("a group of hospitals", 10_000, "1", "none"),
    ("a region", 100_000, "2 on one PostgreSQL", "none"),
    ("a nation", 1_000_000, "4 on one PostgreSQL", "none, or one with a GPU"),
)
"""Whose images, how many a day, and what is chosen for reasons other than rates: Orthancs and inference servers."""

REPORT, IMAGE = 70_000, 8_400_000
"""Bytes that an image's report and index entries take (`storage`), and a raw image of 2048x2048."""

PEAK = 0.15
"""The share of a day's images that come in its busiest hour."""

RESULTS, PAGE = ROOT / "bench/RESULTS.md", ROOT / "docs/sizing.md"

PARTS = ("Orthanc", "dispatcher", "workers", "inference server")
"""Whose processes use the processor for an image."""

LOCAL = "local engine"

BUSY = 0.6
"""The share of their time that workers are to be busy at most in that hour."""


# Processor time


def processor_time(folder: Path, images: int = 40, side: int = 2048) -> Iterator[str]:
    """What an image costs in each process, with the local engine and with a server."""
    files = [to_bytes(radiograph(seed, rows=side, columns=side)) for seed in range(images)]
    yield f"| {side}x{side} raw, {images} images | {' | '.join(PARTS)} | sum |"
    yield "|---" * (2 + len(PARTS)) + "|"
    with Pacs(folder / "local") as pacs:
        yield _row(LOCAL, _spent(pacs, None, files))
    if not MLSERVER.exists() or not find_spec("tritonclient"):
        yield "\nnot measured: MLServer, which `make test-cluster` installs."
        return
    model = weights.prepare(weights.STAND_IN, "", ROOT / "build/models")
    model_repository.write(model, folder / "repository")
    with MLServer(folder / "repository", workers=2) as server:
        for protocol, name in (("grpc", "gRPC"), ("http", "HTTP")):
            options = {"ChestXRay": {"Servers": [getattr(server, protocol)]}}
            with Pacs(folder / protocol, options) as pacs:
                yield _row(f"MLServer over {name}", _spent(pacs, server, files))


def _spent(pacs: Pacs, server: InferenceServer | None, files: Sequence[bytes]) -> Sequence[float]:
    """Milliseconds, in the order of `PARTS`."""
    pacs.wait_until_ready()
    _done(pacs, list(islice(_small(10_000), 24)))  # each thread of a worker connects when it is used first
    before = _seconds(pacs, server)
    _done(pacs, files)
    after = _seconds(pacs, server)
    return [1000 * (after[part] - before[part]) / len(files) for part in PARTS]


def _done(pacs: Pacs, files: Sequence[bytes]) -> None:
    """Have a pile of images classified."""
    for file in files:
        pacs.upload(file)
    while pacs.get("/chest-xray/status")["pending"]:
        time.sleep(0.5)  # asking more often would be measured too


def _seconds(pacs: Pacs, server: InferenceServer | None) -> dict[str, float]:
    """What each part's processes have used so far."""
    spent = {"inference server": 0.0}
    dispatcher, *workers = pacs.family()
    parts = [("Orthanc", [pacs.orthanc()]), ("dispatcher", [dispatcher]), ("workers", workers)]
    if server:
        parts.append(("inference server", server.family()))
    for part, processes in parts:
        times = [one.cpu_times() for one in processes]
        spent[part] = sum(one.user + one.system for one in times)
    return spent


def _row(name: str, cells: Sequence[float]) -> str:
    whole = [round(cell) for cell in cells]
    return f"| {name} | " + " | ".join(map(str, (*whole, sum(whole)))) + " |"


def rates(results: str) -> dict[str, dict[str, int]]:
    """What `processor_time` has written there: milliseconds by engine and part, without the sum."""
    rows = re.findall(rf"^\| ({LOCAL}|MLServer over \w+) \| ([\d |]+) \|$", results, re.M)
    return {name: dict(zip(PARTS, map(int, cells.split(" | ")[:-1]), strict=True)) for name, cells in rows}


# Engines


def engines(folder: Path, callers: int = 4) -> Iterator[str]:
    """What callers get who ask all the time, each for one image: with the model in each, and on a server."""
    model = weights.prepare(weights.STAND_IN, "", ROOT / "build/models")
    model_repository.write(model, folder / "repository")
    cores = len(os.sched_getaffinity(0))
    yield f"{callers} callers, {cores} cores, MLServer with {cores} workers on the same ones:\n"
    yield "| | images/s | one image, median |"
    yield "|---|---|---|"
    with MLServer(folder / "repository", workers=cores) as server:
        for name, address in (("local engine", ""), ("over grpc", server.grpc), ("over http", server.http)):
            rate, median = throughput(model, address, callers)
            yield f"| {name} | {rate:.1f} | {1000 * median:.0f} ms |"


def throughput(model: Path, address: str, callers: int, seconds: float = 6) -> tuple[float, float]:
    """Images a second of all callers, and one's median seconds; without an address, the local engine's."""
    with ProcessPoolExecutor(callers, get_context("spawn")) as processes:
        times = list(processes.map(_calls, [model] * callers, [address] * callers, [seconds] * callers))
    return sum(1 / statistics.mean(one) for one in times), statistics.median(chain.from_iterable(times))


def _calls(model: Path, address: str, seconds: float) -> list[float]:
    classify = servers.load(model, [address], fallback=False) if address else classifier.load(model)
    image, times = plausible_inputs(1), []
    classify(image)
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        classify(image)
        times.append(time.perf_counter() - began)
    return times


# Storage


def storage(folder: Path, images: int = 200) -> Iterator[str]:
    """Bytes that a report and a mark add to what an image takes."""
    with Pacs(folder / "storage") as pacs:
        pacs.wait_until_ready()
        instances = [pacs.upload(to_bytes(radiograph(seed, rows=64, columns=64))) for seed in range(images)]
        results = [pacs.result(instance) for instance in instances]
        report = pacs.get(f"/instances/{results[0]['sr']['instance']}/attachments/dicom/size")
        mark = len(pacs.session.get(f"{pacs.url}/instances/{instances[0]}/metadata/4750", timeout=30).content)
    with_us = (folder / "storage/storage/index").stat().st_size
    with Pacs(folder / "without", WITHOUT_US) as pacs:
        for seed in range(images):
            pacs.upload(to_bytes(radiograph(seed, rows=64, columns=64)))
    without = (folder / "without/storage/index").stat().st_size
    yield f"- the report: {report / 1000:.1f} kB; the mark: {mark / 1000:.1f} kB"
    yield f"- Orthanc's index (SQLite) for both: {(with_us - without) / images / 1000:.1f} kB, the mark included;"
    yield f"  for the image itself, its study and patient: {without / images / 1000:.1f} kB"


# Waiting


def waiting(folder: Path, images: int = 100) -> Iterator[str]:
    """Poisson arrivals at shares of the rate that is possible: the real system, and the simulation of the same."""
    with Pacs(folder / "waiting") as pacs:
        pacs.wait_until_ready()
        files = _small(0)
        possible = _rate(pacs, [next(files) for _ in range(60)])
        workers = pacs.get("/chest-xray/status")["workers"]
        yield f"{workers} workers, {possible:.1f} images/s (64x64) from a pile of 60; Poisson arrivals of {images}:\n"
        yield "| share | arrivals/s | waited, mean (95 %) | simulated | to the result, mean (95 %) | simulated |"
        yield "|---|---|---|---|---|---|"
        for share in SHARES:
            arrived, results = _arrivals(pacs, [next(files) for _ in range(images)], share * possible)
            began = [datetime.fromisoformat(result["created"]).timestamp() for result in results]
            took = [sum(result["milliseconds"].values()) / 1000 for result in results]
            waited = [max(start - arrival, 0.0) for start, arrival in zip(began, arrived, strict=True)]
            stayed = [wait + work for wait, work in zip(waited, took, strict=True)]
            pauses = [0.0, *(after - before for before, after in pairwise(arrived))]
            in_order = [work for _, work in sorted(zip(began, took, strict=True))]
            visits = simulate(Deployment(workers, recorded(in_order)), pauses)
            simulated = [visit.waited for visit in visits], [visit.stayed for visit in visits]
            rate = images / (arrived[-1] - arrived[0])
            cells = [_ms(values) for values in (waited, simulated[0], stayed, simulated[1])]
            yield f"| {share:.0%} | {rate:.1f} | " + " | ".join(cells) + " |"


def _small(first: int) -> Iterator[bytes]:
    seed = first
    while True:
        yield to_bytes(radiograph(seed, rows=64, columns=64))
        seed += 1


def _rate(pacs: Pacs, files: Sequence[bytes]) -> float:
    """Images per second from the first beginning to the last end."""
    results = [pacs.result(instance) for instance in [pacs.upload(file) for file in files]]
    began = [datetime.fromisoformat(result["created"]).timestamp() for result in results]
    ended = [start + sum(one["milliseconds"].values()) / 1000 for start, one in zip(began, results, strict=True)]
    seconds: float = max(ended) - min(began)
    return len(files) / seconds


def _arrivals(pacs: Pacs, files: Sequence[bytes], rate: float) -> tuple[list[float], list[dict[str, Any]]]:
    """Upload at such times; when each upload had ended, and the results."""
    due, arrived, instances = time.time(), [], []
    for file, pause in zip(files, poisson(rate, len(files)), strict=True):
        due += pause
        time.sleep(max(due - time.time(), 0))
        instances.append(pacs.upload(file))
        arrived.append(time.time())
    return arrived, [pacs.result(instance) for instance in instances]


def _ms(seconds: Sequence[float]) -> str:
    mean, most = summary(seconds)
    return f"{1000 * mean:.0f} ({1000 * most:.0f}) ms"


# The page


def page(text: str, results: str) -> str:
    """docs/sizing.md with its tables as they follow from the rates in bench/RESULTS.md."""
    found = rates(results)
    for name, table in {"costs": costs, "deployments": deployments, "sizes": sizes}.items():
        mark = f"<!-- {name}: made by `bench.sizing page` from the rates in bench/RESULTS.md -->"
        before, rest = text.split(mark)
        text = "\n".join([before + mark, *table(found), "<!-- end -->" + rest.split("<!-- end -->", 1)[1]])
    return text


def costs(found: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """What one image costs."""
    yield f"| milliseconds | {' | '.join(PARTS)} | sum |"
    yield "|---" * (2 + len(PARTS)) + "|"
    for name, parts in found.items():
        yield _row(name, list(parts.values()))


def deployments(found: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """How long images wait in the busiest hour of a day, in deployments of five sizes; simulated."""
    service = _cost(found)
    yield "| images a day | a second, busiest hour | workers | busy | waited, mean (95 %) | ten minutes' outage |"
    yield "|---|---|---|---|---|---|"
    for _, images, *_ in SIZES:
        rate = images * PEAK / 3600
        workers = _workers(rate, service)
        failing = Deployment(workers, partial(_exponential, service), Failures(10_000 * service, 5))
        waits = _ms([visit.waited for visit in simulate(failing, poisson(rate, 40_000))])
        busy = rate * service / workers
        made_up = 10 * busy / (1 - busy)  # what came in meanwhile, by what is left of the workers' time
        outage = f"made up in {made_up:.0f} min" if made_up >= 1 else "made up at once"
        yield f"| {images:,} | {rate:.2g} | {workers} | {100 * busy:.0f} % | {waits} | {outage} |"


def _cost(found: Mapping[str, Mapping[str, int]]) -> float:
    """Seconds of one core that an image costs; a worker has it for no longer, where there are cores enough."""
    return sum(found[LOCAL].values()) / 1000


def _workers(rate: float, service: float) -> int:
    return max(2, math.ceil(rate * service / BUSY))


def _exponential(mean: float, rng: random.Random) -> float:
    return rng.expovariate(1 / mean)


def sizes(found: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """What the sizes need, with the local engine and all on the same machines."""
    service = _cost(found)
    yield "| | images a day | Orthancs | cores, all included | workers | inference servers | reports | images |"
    yield "|---|---|---|---|---|---|---|---|"
    for name, images, orthancs, inference in SIZES:
        rate = images * PEAK / 3600
        cores = math.ceil(rate * service / BUSY)
        stored = " | ".join(_bytes(365 * images * size) for size in (REPORT, IMAGE))
        yield f"| {name} | {images:,} | {orthancs} | {cores} | {_workers(rate, service)} | {inference} | {stored} |"


def _bytes(amount: float) -> str:
    for unit in ("GB", "TB", "PB"):
        amount /= 1e9 if unit == "GB" else 1000
        if amount < 1000:
            break
    return f"{float(f'{amount:.2g}'):g} {unit}"


def write_page(_folder: Path) -> Iterator[str]:
    """Write docs/sizing.md anew."""
    PAGE.write_text(page(PAGE.read_text(), RESULTS.read_text()))
    yield f"The tables of {PAGE} follow from {RESULTS}."


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parts: dict[str, Callable[[Path], Iterator[str]]] = {
        "processor": processor_time,
        "engines": engines,
        "storage": storage,
        "waiting": waiting,
        "page": write_page,
    }
    parser = argparse.ArgumentParser(prog="python -m bench.sizing", description=__doc__.split("\n\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(parts)}; default: all")
    chosen = parser.parse_args(arguments).parts or parts
    if unknown := set(chosen) - set(parts):  # argparse's own choices would have to have [] among them, and show it
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(parts)}")
    print(f"Measured on {datetime.now(UTC):%Y-%m-%d}.")
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            print()
            for line in parts[name](Path(folder)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
