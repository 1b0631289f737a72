"""From a DICOM file's bytes to its scores: TorchXRayVision's own way against ours, on the same files in one run.

    OPENBLAS_NUM_THREADS=1 python -m bench.pixels_to_scores [--threads N] [--repeats N]

(as a worker has it: numpy's threads would go on spinning in the model's way.)

The reference is what TorchXRayVision's README does (`read_xray_dcm`, center crop, resize, model), with torch's default
number of threads. Ours is `plugin.pixels` and `plugin.classifier` with as many threads for the one image. Both have
the same stand-in weights: the time does not depend on what the weights are. The two take turns on each file, so that
whatever else the machine does hits both; the table shows medians.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from pydicom import dcmread

from plugin import classifier, pixels, weights
from plugin.classifier import Classifier
from tests import images, oracle

BUILD = Path(__file__).parent.parent / "build"

FILES = [
    (1024, 1024, "explicit", 12),
    (2048, 2048, "explicit", 12),
    (2500, 3050, "explicit", 12),
    (2500, 3050, "JPEG lossless .70", 12),
    (2500, 3050, "JPEG 2000 lossless", 12),
    *((2048, 2048, syntax, 12) for syntax in ("big endian", "deflated", "RLE", "JPEG lossless .57")),
    *((2048, 2048, syntax, 12) for syntax in ("JPEG lossless .70", "JPEG-LS", "JPEG 2000 lossless", "HTJ2K lossless")),
    (2048, 2048, "JPEG baseline", 8),
    (2048, 2048, "JPEG 2000", 12),
]
"""Rows, columns, transfer syntax and BitsStored; the reference reads no JPEG XL."""

STEPS = ("decode", "model input", "model")


@dataclass(frozen=True, slots=True)
class Row:
    """Milliseconds per step, medians; the reference's normalisation and our hash count as decoding."""

    file: str
    reference: tuple[float, ...]
    ours: tuple[float, ...]
    difference: float
    """The largest difference between the two ways' scores."""

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return sum(self.reference) / sum(self.ours)


def reference_steps(dicom: bytes, model: Any) -> Iterator[Any]:
    """The reference way, one step per `next`; the last one yields the scores."""
    image = oracle.read(dicom)
    yield
    image = oracle.resize(image)
    yield
    yield oracle.scores(model, image)


def our_steps(dicom: bytes, classify: Classifier, threads: int) -> Iterator[Any]:
    """Our way, in the same steps."""
    decoded = pixels.decode(dcmread(io.BytesIO(dicom), force=True), threads)
    yield
    image = pixels.prepare(decoded)
    yield
    yield classify(image.array[None]).scores[0]


def timed(steps: Callable[[], Iterator[Any]]) -> tuple[tuple[float, ...], Any]:
    """Milliseconds of each step, and what the last one gave."""
    times, results, start = [], [], time.perf_counter()
    for result in steps():
        now = time.perf_counter()
        times.append(1000 * (now - start))
        results.append(result)
        start = now
    return tuple(times), results[-1]


def measure(file: tuple[int, int, str, int], model: Any, classify: Classifier, threads: int, repeats: int) -> Row:
    """Both ways on one generated image of `FILES`."""
    rows, columns, syntax, bits = file
    stored = images.pattern(rows, columns, bits)
    dicom = images.dicom(images.dataset(stored, bits, (images.LOSSLESS | images.LOSSY)[syntax]))
    reference, ours, difference = [], [], 0.0
    for repeat in range(repeats + 1):
        expected_times, expected = timed(lambda: reference_steps(dicom, model))
        our_times, scores = timed(lambda: our_steps(dicom, classify, threads))
        difference = float(abs(scores - expected).max())
        if repeat:  # the first warms caches and thread pools up
            reference.append(expected_times)
            ours.append(our_times)
    medians = [tuple(map(median, zip(*times, strict=True))) for times in (reference, ours)]
    return Row(f"{rows}x{columns} {syntax}", medians[0], medians[1], difference)


def run(threads: int, repeats: int) -> list[Row]:
    """Measure every file of `FILES`."""
    prepared = weights.prepare(weights.STAND_IN, "", BUILD / "models")
    classify = classifier.load(prepared, threads)
    with TemporaryDirectory() as folder:
        model = oracle.load(prepared.with_name("stand-in.pt"), Path(folder))
        return [measure(file, model, classify, threads, repeats) for file in FILES]


def table(rows: Sequence[Row]) -> str:
    """The result as Markdown."""
    steps = [f"{way} {step}" for way in ("reference", "ours") for step in (*STEPS, "sum")]
    lines = ["| file | " + " | ".join(steps) + " | ratio | score difference |", "|---" * (len(steps) + 3) + "|"]
    for row in rows:
        times = [*row.reference, sum(row.reference), *row.ours, sum(row.ours)]
        cells = [row.file, *(f"{ms:.1f}" for ms in times), f"{row.ratio:.1f}", f"{row.difference:.0e}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.pixels_to_scores", description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of ours, for one image (default: all)")
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args(arguments)
    print(f"Milliseconds for one image, medians of {chosen.repeats}; ours with {chosen.threads} threads.\n")
    print(table(run(chosen.threads, chosen.repeats)))


if __name__ == "__main__":
    main()
