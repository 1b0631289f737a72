"""From a DICOM file's bytes to its stored report: the reference way against ours, on the same files in one run.

    OPENBLAS_NUM_THREADS=1 python -m bench.one_image [--threads N] [--rounds N]

(as a worker has it: numpy's threads would go on spinning in the model's way. As there, memory is kept, and more of it,
since the reference takes more: to have it from the system anew took it up to 70 ms, depending on the file before.)

The reference is what TorchXRayVision's README does (`read_xray_dcm`, center crop, resize, model), with torch's default
number of threads, then a report as highdicom's documentation builds one, and a plain POST of it. Ours is what a worker
does with an image that is alone, with as many threads, and also marks it as done. Both have the same stand-in weights
(the time does not depend on what the weights are) and the same Orthanc, without the plugin. The two take turns on each
file, and the files take turns in rounds, so that whatever else the machine does hits all of them; the table shows
medians.
"""

from __future__ import annotations

import argparse
import io
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
from bench.whole_system import THREADS, WITHOUT_US
from plugin import analysis, classifier, marks, weights, worker
from plugin.archive import Archive
from plugin.classifier import Classifier
from plugin.settings import Connection
from tests import images, oracle
from tests.pacs import Pacs

BUILD = Path(__file__).parent.parent / "build"

Kind = tuple[int, int, str, int]
"""Rows, columns, transfer syntax and BitsStored."""

RAW: list[Kind] = [(1024, 1024, "explicit", 12), (2048, 2048, "explicit", 12), (2500, 3050, "explicit", 12)]
"""Those on whose times there are targets."""

OTHERS: list[Kind] = [
    (2500, 3050, "JPEG lossless .70", 12),
    (2500, 3050, "JPEG 2000 lossless", 12),
    *((2048, 2048, syntax, 12) for syntax in ("big endian", "deflated", "RLE", "JPEG lossless .57")),
    *((2048, 2048, syntax, 12) for syntax in ("JPEG lossless .70", "JPEG-LS", "JPEG 2000 lossless", "HTJ2K lossless")),
    (2048, 2048, "JPEG baseline", 8),
    (2048, 2048, "JPEG 2000", 12),
]
"""All that come in, but JPEG XL, which the reference does not read."""

ROUNDS = 7
TURNS = 3
"""Of those with a target, in each round; the others have one."""

STEPS = ("decode", "model input", "model", "report", "store")
TO_SCORES = 3
"""How many of the steps lead to the scores."""

Result = tuple[tuple[float, ...], Any]
"""Milliseconds of each step, and the scores."""


@dataclass(frozen=True, slots=True)
class Row:
    """Milliseconds per step, medians; the reference's normalisation counts as decoding, and so does our parsing.

    Our hash is made beside the model and its input.
    """

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

    def reference(self, dicom: bytes) -> Result:
        """TorchXRayVision's and highdicom's."""
        return timed(self._reference(dicom))

    def _reference(self, dicom: bytes) -> Iterator[Any]:
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

    def ours(self, dicom: bytes) -> Result:
        """A worker's."""
        found = analysis.analyse(dicom, self.classify, datetime.now(UTC), threads=self.threads)
        began = time.perf_counter()
        stored = self.archive.store(found.document.data)
        self.archive.series_in(stored.study)
        result = found.report.as_json() | {"activation": found.activation.as_json()}
        self.archive.mark(stored.instance, marks.mark("done", stored.instance, **result))
        store = 1000 * (time.perf_counter() - began)
        took = found.milliseconds
        steps = (took["parse"] + took["decode"], took["resize"], took["model"], took["report"], store)
        return steps, list(found.report.scores.values())


def timed(steps: Iterator[Any]) -> Result:
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


class Series:
    """Both ways on generated images of one kind."""

    def __init__(self, kind: Kind, number: int) -> None:
        """`number` is another one for each kind."""
        rows, columns, syntax, bits = kind
        self._name, self._uid = f"{rows}x{columns} {syntax}", f"2.25.{number}"
        self._ds = images.dataset(images.pattern(rows, columns, bits), bits, (images.LOSSLESS | images.LOSSY)[syntax])
        self._times: list[tuple[tuple[float, ...], tuple[float, ...]]] = []
        self._difference = 0.0

    def turn(self, ways: Ways) -> None:
        """Once more."""
        dicom = images.dicom(identified(self._ds, f"{self._uid}.{len(self._times) + 1}"))
        (reference, expected), (ours, scores) = ways.reference(dicom), ways.ours(dicom)
        self._times.append((reference, ours))
        self._difference = max(self._difference, float(abs(scores - expected).max()))

    def row(self) -> Row:
        """All turns but the first, which warms caches and thread pools up."""
        reference, ours = (tuple(map(median, zip(*times, strict=True))) for times in zip(*self._times[1:], strict=True))
        return Row(self._name, reference, ours, self._difference)


def run(threads: int, rounds: int, raw: Sequence[Kind] = RAW, others: Sequence[Kind] = OTHERS) -> list[Row]:
    """Measure these files."""
    worker.settle_memory(kept=1 << 30, largest=32 << 20)
    prepared = weights.prepare(weights.STAND_IN, "", BUILD / "models")
    series = [Series(kind, number) for number, kind in enumerate([*raw, *others], 1)]
    classify = classifier.load(prepared, threads)
    with TemporaryDirectory() as folder, Pacs(Path(folder) / "pacs", WITHOUT_US) as pacs:
        model = oracle.load(prepared.with_name("stand-in.pt"), Path(folder))
        authorization = pacs.session.get(pacs.url + "/system", timeout=30).request.headers["Authorization"]
        archive = Archive(Connection(pacs.url, str(authorization), certificate=""))
        ways = Ways(model, classify, threads, pacs, archive)
        for one in in_turns(series[: len(raw)], series[len(raw) :], rounds + 1):
            one.turn(ways)
    return [one.row() for one in series]


def in_turns(often: Sequence[Series], others: Sequence[Series], rounds: int) -> Iterator[Series]:
    """`rounds` times: some of them `TURNS` times, with a part of the others after each."""
    for _ in range(rounds):
        for turn in range(TURNS):
            yield from often
            yield from others[turn::TURNS]


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
    parser.add_argument("--threads", type=int, default=THREADS, help="of ours, for one image (default: as a worker)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args(arguments)
    print(f"Milliseconds, reference / ours, medians of {chosen.rounds} rounds; {chosen.threads} threads.\n")
    print(table(run(chosen.threads, chosen.rounds)))


if __name__ == "__main__":
    main()
