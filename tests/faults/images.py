"""Small radiographs in any number, each of a patient of its own, so that a report that is lost or doubled shows."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

from pydicom import Dataset
from pydicom.uid import UID

from demo.phantoms import radiograph, to_bytes

SIDE = 256


def images(count: int, first: int = 0, **overrides: Any) -> Iterator[bytes]:
    """The files number `first` and on; the same number is the same file."""
    return (to_bytes(image(number, **overrides)) for number in range(first, first + count))


def image(number: int, **overrides: Any) -> Dataset:
    """One of them; `overrides` are `radiograph`'s."""
    ds = deepcopy(_drawing(tuple(overrides.items())))
    ds.PatientID = f"FAULTS-{number:06}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = UID(f"2.25.1{number:09}"), UID(f"2.25.2{number:09}")
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.3{number:09}")
    return ds


@cache
def _drawing(overrides: tuple[tuple[str, Any], ...]) -> Dataset:
    return radiograph(5, **{"rows": SIDE, "columns": SIDE} | dict(overrides))
