"""Images per second that many processes analyse which share one engine, or have a model each.

    python -m bench.workers --engine torch-cuda [--processes 32] [--side 2048] [--model FILE]

Each does what a worker does with an image between fetching it and storing its report, again and again, with one file in
memory. Not part of `make bench`: it is for machines with a GPU or many cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydicom import uid

from demo.phantoms import radiograph, to_bytes
from plugin import analysis, classifier, engine, weights, worker
from plugin.classifier import ModelUnavailable

BUILD = Path(__file__).parent.parent / "build"
CORES = len(os.sched_getaffinity(0))
SECONDS = 6
SYNTAXES = {"uncompressed": uid.ExplicitVRLittleEndian, "JPEG lossless": uid.JPEGLosslessSV1}


@contextmanager
def served(model: Path, name: str) -> Iterator[str]:
    """The address of a process with the engine of that name; '' for `onnx`, which each worker has for itself."""
    if name not in engine.ENGINES:
        yield ""
        return
    with TemporaryDirectory() as folder:
        address = f"{folder}/engine"
        command = [sys.executable, "-m", "plugin.engine", str(model), name, address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            said = process.stdout.readline().strip()
            if said != "ready":
                raise ModelUnavailable(said)
            try:
                yield address
            finally:
                process.kill()


def together(model: Path, address: str, data: bytes, processes: int) -> float:
    """Images per second of so many processes; the time begins when all of them are ready."""
    context = get_context("spawn")
    start = context.Barrier(processes, timeout=300)  # one may fail to get there
    ears, mouths = zip(*(context.Pipe(duplex=False) for _ in range(processes)), strict=True)
    arguments = [(model, address, data, start, mouth) for mouth in mouths]
    workers = [context.Process(target=_analyse, args=each, daemon=True) for each in arguments]
    for one in workers:
        one.start()
    for mouth in mouths:
        mouth.close()
    return float(sum(ear.recv() for ear in ears))


def _analyse(model: Path, address: str, data: bytes, start: Any, mouth: Connection) -> None:
    worker.settle_memory()
    classify = engine.RemoteClassifier(address) if address else classifier.load(model)
    analysis.rehearse(classify)
    start.wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() < began + SECONDS:
        analysis.analyse(data, classify, datetime.now(UTC))
        count += 1
    mouth.send(count / (time.perf_counter() - began))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__.split("\n\n")[0])
    parser.add_argument("--engine", choices=["onnx", *engine.ENGINES], default="onnx")
    parser.add_argument("--processes", type=int, default=CORES)
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--model", type=Path, help="a prepared model; else stand-in weights are made")
    chosen = parser.parse_args(arguments)
    try:
        model = chosen.model or weights.prepare(weights.STAND_IN, "", BUILD / "models")
        with served(model, chosen.engine) as address:
            os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # as a worker has it, and no engine
            for name, syntax in SYNTAXES.items():
                ds = radiograph(0, rows=chosen.side, columns=chosen.side, transfer_syntax=syntax)
                rate = together(model, address, to_bytes(ds), chosen.processes)
                print(f"{chosen.engine}, {chosen.processes} processes on {CORES} cores, {name}: {rate:.0f} images/s")
    except ModelUnavailable as sentence:
        raise SystemExit(str(sentence)) from None


if __name__ == "__main__":
    main()
