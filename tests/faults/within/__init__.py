"""Faults that happen inside a worker: `sitecustomize` brings them there, by `PYTHONPATH`."""

from __future__ import annotations

import os
from pathlib import Path

from tests.pacs import Pacs, wait_for


def environ(fault: str, **more: str) -> dict[str, str]:
    """What to start Orthanc with, so that each worker imports the module `fault` of this folder first."""
    path = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {"PYTHONPATH": os.pathsep.join(filter(None, path)), "FAULT": fault, **more}


class Hold:
    """Holds the workers, while it is entered, in front of one method of `plugin.archive.Archive`."""

    def __init__(self, folder: Path, method: str) -> None:
        self._held, self._reached = folder / "held", folder / "reached"
        self.environ = environ("holding", FAULT_AT=method, FAULT_FOLDER=str(folder))

    def __enter__(self) -> Hold:
        self._held.touch()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.unlink(missing_ok=True)
        self._reached.unlink(missing_ok=True)

    def wait_until_reached(self, pacs: Pacs) -> None:
        """Until a worker stands there."""
        wait_for(lambda: self._reached.exists() or None, 30, pacs.log)
