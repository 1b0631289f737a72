"""What a document says of itself: whether we wrote it, on which image, and whether it is still as we write it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import Final

import pydicom
from pydicom import Dataset

from plugin.content import LIBRARY, series_uid
from plugin.marks import MANUFACTURER, is_report_uid

KINDS: Final = MappingProxyType({"SR": "", "OT": "secondary-capture", "DOC": "pdf"})
"""The kinds of document, as `content.series_uid` knows them, by Modality."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Of a document of ours, or of a copy that another program made of one.

    :param image: the SOPInstanceUID of the image that it is about, '' if it does not say that any more.
    :param scores: whether it is a report with its content; pictures, pages and what anonymising leaves are not.
    :param unchanged: whether it stands in the series and the study for which it was written.
    """

    image: str
    scores: bool
    unchanged: bool


def read(data: bytes) -> Provenance | None:
    """None if it is not ours."""
    try:
        ds = pydicom.dcmread(BytesIO(data), stop_before_pixels=True)
        model = str(ds.get("ManufacturerModelName") or "")
        if ds.get("Manufacturer") != MANUFACTURER and not model.startswith(f"{LIBRARY} "):
            return None
        return Provenance(_image(ds), ds.Modality == "SR" and bool(ds.get("ContentSequence")), _unchanged(ds, model))
    except Exception:  # whatever another program made of it
        return None


def _unchanged(ds: Dataset, model: str) -> bool:
    identity = (model.removeprefix(f"{LIBRARY} "), str(ds.get("SoftwareVersions")), str(ds.get("DeviceSerialNumber")))
    expected = series_uid(str(ds.StudyInstanceUID), identity, KINDS[ds.Modality])
    return bool(
        ds.get("Manufacturer") == MANUFACTURER and ds.SeriesInstanceUID == expected and is_report_uid(ds.SOPInstanceUID)
    )


def _image(ds: Dataset) -> str:
    try:
        return str(REFERENCES[ds.Modality](ds).ReferencedSOPInstanceUID)
    except (AttributeError, IndexError, KeyError):
        return ""


REFERENCES: Final[Mapping[str, Callable[[Dataset], Dataset]]] = MappingProxyType(
    {
        "SR": lambda ds: (
            ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        ),
        "OT": lambda ds: ds.SourceImageSequence[0],
        "DOC": lambda ds: ds.SourceInstanceSequence[0],
    }
)
