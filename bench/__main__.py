"""`make bench`: measure everything in one run, print it, and keep it in `bench/RESULTS.md`."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import one_image, sizing, whole_system

REMARKS = Path(__file__).parent / "where_the_time_goes.md"

COSTS = """## What one image costs

Milliseconds of one core in the processes of each part, for a pile of images, on which
[docs/sizing.md](../docs/sizing.md) builds. Other programs on the machine change it."""


def machine() -> str:
    """The processor, its cores and the system, in one line."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    name = names[0] if names else platform.machine()
    cores = len(os.sched_getaffinity(0))
    return f"{name}, {cores} cores, {gigabytes:.0f} GB, Python {platform.python_version()}"


def main() -> None:
    """All parts; each has the machine to itself while it runs."""
    threads, rounds, turns = whole_system.THREADS, one_image.ROUNDS, one_image.TURNS
    pixels = one_image.table(one_image.run(threads, rounds))
    system = "\n".join(f"| {what} | {value} |" for what, value in whole_system.measure())
    with TemporaryDirectory() as folder:
        costs = "\n".join(sizing.processor_time(Path(folder)))
    text = f"""# Measurements

Made by `make bench` on {datetime.now(UTC):%Y-%m-%d}: {machine()}. Other machines give other times; trust the ratios.

## One image, from its file to its stored report

Milliseconds, reference / ours, medians. The reference is TorchXRayVision's own way (`read_xray_dcm`, center crop, the
resizer, the model in torch with its default threads), then a report built with highdicom as its documentation shows,
and a plain POST of it. Ours is what a worker does with an image that is alone, with {threads} threads; it also hashes
the pixels and marks the image as done. Same files, same weights, same Orthanc (without the plugin), in turns: {rounds}
rounds over all files, in each of which the first three had {turns} turns and the others one.

{pixels}

## The whole system

| | |
|---|---|
{system}

{COSTS}

{costs}

{REMARKS.read_text()}"""
    sizing.RESULTS.write_text(text)
    print(text)
    for line in sizing.write_page(sizing.PAGE.parent):
        print(line)


if __name__ == "__main__":
    main()
