"""Reports to test with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import pydicom
from pydicom import Dataset

from plugin import sr
from plugin.codes import FINDINGS
from plugin.report import Image, Model, Report
from tests.sr_sources import dataset

NOON = datetime(2026, 3, 4, 12, 0, 0, 5, tzinfo=UTC)

MODEL = Model(
    name="densenet121-res224-all",
    version="1.5.7",
    weights_sha256="56524913dd16a906422e8d8b66a7a5c46be1d82eb7ac012d8103776f1aa68899",
    trained=True,
    labels=tuple(FINDINGS),
    thresholds=(0.1,) * 18,
)
STAND_IN = dataclasses.replace(MODEL, trained=False, weights_sha256="0" * 64)
SCORES = {label: 0.03 + number / 18.7 for number, label in enumerate(FINDINGS)}

WRITTEN: dict[bytes, None] = {}
"""All files that `written` gave to the tests, each of which is validated at their end."""

REPORTS: Mapping[str, Mapping[str, Any]] = {
    "trained": {},
    "stand-in, with warnings": {"model": STAND_IN, "warnings": ("One.", "Two.")},
    "fewer and unknown labels": {
        "model": dataclasses.replace(MODEL, labels=("", "Pneumonia", "Support Devices", "Air Trapping Visible")),
        "scores": {"Pneumonia": 0.5, "Support Devices": 0.0, "Air Trapping Visible": 1.0},
    },
}


def report_on(source: Dataset, **changes: Any) -> Report:
    """A report; `changes` to its fields."""
    keywords = (field.name for field in dataclasses.fields(Image) if field.name != "pixels_sha256")
    image = Image(**{keyword: str(source.get(keyword, "")) for keyword in keywords}, pixels_sha256="ab" * 32)
    fields = {"image": image, "model": MODEL, "scores": SCORES, "settings": {"crop": "center", "voi_lut": False}}
    return Report(**{**fields, **changes})


def written_bytes(source: Dataset | None = None, **changes: Any) -> bytes:
    """A report on `source`, as a DICOM file."""
    source = source or dataset()
    data = sr.structured_report(source, report_on(source, **changes), NOON).data
    WRITTEN[data] = None
    return data


def written(source: Dataset | None = None, **changes: Any) -> Dataset:
    """A report on `source`, written and read back."""
    return pydicom.dcmread(BytesIO(written_bytes(source, **changes)))
