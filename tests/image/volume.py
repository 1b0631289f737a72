"""A volume as a release leaves it behind, for the upgrade case of the releases after it: `volume-VERSION.tar.xz`.

    python -m tests.image.volume IMAGE FILE

It holds images that are done, skipped and failed, some that were waiting when the power went, and `results.json`, what
the plugin's route said of each.
"""

from __future__ import annotations

import json
import subprocess
import sys

from demo.phantoms import radiograph, to_bytes
from tests.image.check import Container, a_volume
from tests.image.podman import KEPT, nothing_left, podman


def main(image: str, file: str) -> None:
    """Fill a volume and write it to a file."""
    with nothing_left(), a_volume() as volume:
        container = Container(image, volume)
        container.wait_until_healthy()
        hand, cut = radiograph(3, rows=64, columns=64, BodyPartExamined="HAND"), radiograph(4, rows=64, columns=64)
        cut.PixelData = cut.PixelData[:1000]
        settled = [radiograph(1, rows=64, columns=64), radiograph(2, modality="CR", rows=64, columns=64), hand, cut]
        results = [container.result(container.post("/instances", to_bytes(ds))["ID"]) for ds in settled]
        waiting = [to_bytes(radiograph(seed, rows=64, columns=64)) for seed in range(5, 11)]
        instances = [container.post("/instances", data)["ID"] for data in waiting]
        podman("rm", "--force", "--time", "0", container.id)
        results += [{"instance": instance, "state": "pending"} for instance in instances]
        folder = KEPT / "storage" / "volumes" / volume / "_data"
        (folder / "results.json").write_text(json.dumps(results, indent=1))
        subprocess.run(
            ["tar", "--create", "--xz", "--numeric-owner", "--file", file, "--directory", folder, "."], check=True
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
