"""`make soak`: thousands of images through one Orthanc, and what grows meanwhile.

Kept in `bench/SOAK.md`; of the image, which PACS_IMAGE names, in `bench/SOAK-image.md`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import psutil

from bench.__main__ import machine
from bench.whole_system import WITHOUT_US
from tests.faults.counting import expect_one_report_each, wait_until_idle
from tests.faults.images import SIDE, images
from tests.pacs import IMAGE, Pacs

RESULTS = Path(__file__).parent / ("SOAK-image.md" if IMAGE else "SOAK.md")
IMAGES = int(os.environ.get("IMAGES") or 3000)  # `make` sets it, if to nothing
STEPS = 12


@dataclass(frozen=True, slots=True)
class Sample:
    """What there is after so many images: resident memory in MB, everything else in numbers."""

    images: int
    orthanc: int
    orthanc_without_plugin: int
    companion: int
    workers: int
    files: int
    threads: int
    processes: int
    log_bytes_per_image: int


def measure(pacs: Pacs, plain: Pacs, count: int, logged: int) -> Sample:
    """Orthanc and all that it started; the log's bytes since `logged`, for each image of this step."""
    orthanc, family = pacs.orthanc(), pacs.family()
    everybody = [orthanc, *family]
    return Sample(
        images=count,
        orthanc=_megabytes(orthanc),
        orthanc_without_plugin=_megabytes(plain.orthanc()),
        companion=_megabytes(pacs.companion()),
        workers=sum(map(_megabytes, pacs.workers())),
        files=sum(one.num_fds() for one in everybody),
        threads=sum(one.num_threads() for one in everybody),
        processes=len(everybody),
        log_bytes_per_image=(len(pacs.log()) - logged) // (IMAGES // STEPS),
    )


def _megabytes(process: psutil.Process) -> int:
    return round(process.memory_info().rss / 1e6)


def soak(tell: Callable[[Sample], None]) -> str:
    """Upload, wait, measure, over and over; at the end every image has exactly one report. Returns Orthanc's version.

    An Orthanc without the plugin gets the same images and the reports on them from us, to tell what it keeps by itself.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        Pacs(Path(folder) / "with") as pacs,
        Pacs(Path(folder) / "without", WITHOUT_US) as plain,
        ThreadPoolExecutor(2) as uploaders,
    ):
        pacs.wait_until_ready()
        files = images(IMAGES)
        for step in range(1, STEPS + 1):
            logged, count = len(pacs.log()), step * IMAGES // STEPS
            batch = list(islice(files, IMAGES // STEPS))
            instances = list(uploaders.map(pacs.upload, batch))
            wait_until_idle(pacs, count, 1200)
            for file, instance in zip(batch, instances, strict=True):
                plain.upload(file)
                plain.upload(pacs.file(pacs.result(instance)["sr"]["instance"]))
            tell(measure(pacs, plain, count, logged))
        expect_one_report_each(pacs, IMAGES)
        return str(pacs.get("/system")["Version"])


def main() -> None:
    """Print each line as soon as it is known."""
    head = [field.name.replace("_", " ") for field in fields(Sample)]
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    print("\n".join(rows), flush=True)

    def tell(sample: Sample) -> None:
        rows.append(f"| {' | '.join(map(str, astuple(sample)))} |")
        print(rows[-1], flush=True)

    began = time.monotonic()
    version = soak(tell)
    table, minutes = "\n".join(rows), (time.monotonic() - began) / 60
    RESULTS.write_text(f"""# A long life

Made by `make soak` on {datetime.now(UTC):%Y-%m-%d} with Orthanc {version}: {machine()}. {IMAGES} radiographs of
{SIDE}x{SIDE} pixels, each of another patient, in {minutes:.0f} minutes; at the end, every one has exactly one report.
Resident memory in MB; open files, threads and processes are those of Orthanc and all that it started; the log is
Orthanc's, with the bytes that each image of the step added to it. The Orthanc without the plugin got the same images
and reports, one after another.

Debian 12's Python plugin (4.0, with Orthanc 1.10.1) loses about 1 kB for each request to a route of any Python plugin,
whatever it answers, this measurement's among them; 7.1, with Orthanc 1.13.0, loses nothing (3,000 requests each).

{table}
""")


if __name__ == "__main__":
    main()
