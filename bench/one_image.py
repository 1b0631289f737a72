"""From a DICOM file's bytes to its stored report: the reference way against ours, on the same files in one run.

    OPENBLAS_NUM_THREADS=1 python -m bench.one_image [--threads N] [--repeats N]

(as a worker has it: numpy's threads would go on spinning in the model's way.)

The reference is what TorchXRayVision's README does (`read_xray_dcm`, center crop, resize, model), with torch's default
number of threads, then a report as highdicom's documentation builds one, and a plain POST of it. Ours has as many
threads for the one image, and also marks it as done. Both have the same stand-in weights (the time does not depend on
what the weights are) and the same Orthanc, without the plugin. The two take turns on each file, so that whatever else
the machine does hits both; the table shows medians.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from pydicom import Dataset, dcmread

from bench import naive_report
from bench.whole_system import WITHOUT_US
from plugin import analysis, classifier, pixels, weights
from plugin.archive import Archive
from plugin.classifier import Classifier
from plugin.settings import Connection
from tests import images, oracle
from tests.pacs import Pacs

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

STEPS = ("decode", "model input", "model", "report", "store")
TO_SCORES = 3
"""How many of the steps lead to the scores."""


@dataclass(frozen=True, slots=True)
class Row:
    """Milliseconds per step, medians; the reference's normalisation counts as decoding, our hash as the model."""

    file: str
    reference: tuple[float, ...]
    ours: tuple[float, ...]
    difference: float
    """The largest difference between the two ways' scores."""

    def ratio(self, steps: int) -> float:
        """How many times faster ours does the first steps."""
        return sum(self.reference[:steps]) / sum(self.ours[:steps])


@dataclass(frozen=True, slots=True)
class Ways:
    """What both need: the models, and an Orthanc to store in."""

    model: Any
    classify: Classifier
    threads: int
    pacs: Pacs
    archive: Archive

    def reference(self, dicom: bytes) -> Iterator[Any]:
        """One step per `next`; the third one yields the scores."""
        image = oracle.read(dicom)
        yield
        image = oracle.resize(image)
        yield
        scores = oracle.scores(self.model, image)
        yield scores
        labels = [label for label in self.classify.model.labels if label]
        found = dict(zip(labels, map(float, scores), strict=True))
        report = naive_report.encoded(dcmread(io.BytesIO(dicom), force=True), found)
        yield
        yield self.pacs.upload(report)

    def ours(self, dicom: bytes) -> Iterator[Any]:
        """The same steps as a worker does them."""
        source = dcmread(io.BytesIO(dicom), force=True)
        decoded = pixels.decode(source, self.threads)
        yield
        image = pixels.prepare(decoded)
        yield
        prediction, sha256 = analysis.predict(source, image, self.classify)
        yield prediction.scores[0]
        now = datetime.now(UTC)
        report, document = analysis.report_on(source, sha256, image.warnings, self.classify, prediction, now)
        yield
        stored = self.archive.store(document.data)
        self.archive.series_in(stored.study)
        self.archive.mark(stored.instance, str(report.as_json()))
        yield


def timed(steps: Iterator[Any]) -> tuple[tuple[float, ...], Any]:
    """Milliseconds of each step, and the scores."""
    times, results, start = [], [], time.perf_counter()
    for result in steps:
        now = time.perf_counter()
        times.append(1000 * (now - start))
        results.append(result)
        start = now
    return tuple(times), results[TO_SCORES - 1]


def identified(ds: Dataset, uid: str) -> Dataset:
    """The image `uid`, alone in its study, with the attributes that highdicom demands."""
    for keyword in ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"):
        setattr(ds, keyword, "")
    ds.StudyTime = ""
    ds.PatientID, ds.Modality = "BENCH", "CR"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = f"{uid}.1", f"{uid}.2", f"{uid}.3"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def measure(file: tuple[int, int, str, int], ways: Ways, repeats: int) -> Row:
    """Both ways on generated images of one kind of `FILES`."""
    rows, columns, syntax, bits = file
    ds = images.dataset(images.pattern(rows, columns, bits), bits, (images.LOSSLESS | images.LOSSY)[syntax])
    reference, ours, difference = [], [], 0.0
    for repeat in range(repeats + 1):
        dicom = images.dicom(identified(ds, f"2.25.{FILES.index(file) + 1}.{repeat + 1}"))
        expected_times, expected = timed(ways.reference(dicom))
        our_times, scores = timed(ways.ours(dicom))
        difference = float(abs(scores - expected).max())
        if repeat:  # the first warms caches and thread pools up
            reference.append(expected_times)
            ours.append(our_times)
    medians = [tuple(map(median, zip(*times, strict=True))) for times in (reference, ours)]
    return Row(f"{rows}x{columns} {syntax}", medians[0], medians[1], difference)


def run(threads: int, repeats: int, files: Sequence[tuple[int, int, str, int]] = FILES) -> list[Row]:
    """Measure these files."""
    prepared = weights.prepare(weights.STAND_IN, "", BUILD / "models")
    classify = classifier.load(prepared, threads)
    with TemporaryDirectory() as folder, Pacs(Path(folder) / "pacs", WITHOUT_US) as pacs:
        model = oracle.load(prepared.with_name("stand-in.pt"), Path(folder))
        authorization = pacs.session.get(pacs.url + "/system", timeout=30).request.headers["Authorization"]
        archive = Archive(Connection(pacs.url, str(authorization), certificate=""))
        ways = Ways(model, classify, threads, pacs, archive)
        return [measure(file, ways, repeats) for file in files]


def table(rows: Sequence[Row]) -> str:
    """The result as Markdown: reference / ours in each cell."""
    head = ["file", *STEPS, "all", "ratio to scores", "ratio of all", "score difference"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        pairs = [*zip(row.reference, row.ours, strict=True), (sum(row.reference), sum(row.ours))]
        cells = [row.file, *(f"{theirs:.1f} / {ours:.1f}" for theirs, ours in pairs)]
        cells += [f"{row.ratio(TO_SCORES):.1f}", f"{row.ratio(len(STEPS)):.1f}", f"{row.difference:.0e}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.one_image", description=__doc__.split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of ours, for one image (default: all)")
    parser.add_argument("--repeats", type=int, default=7)
    chosen = parser.parse_args(arguments)
    print(f"Milliseconds for one image, reference / ours, medians of {chosen.repeats}; {chosen.threads} threads.\n")
    print(table(run(chosen.threads, chosen.repeats)))


if __name__ == "__main__":
    main()
