"""What a document says of itself: whether we wrote it, on which image, and whether it is still as we write it. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType
from typing import Final

import pydicom
from pydicom import Dataset
from pydicom.uid import UID, Comprehensive3DSRStorage, EncapsulatedPDFStorage, SecondaryCaptureImageStorage

from plugin.content import LIBRARY, series_uid
from plugin.marks import MANUFACTURER, is_report_uid

KINDS: Final[Mapping[UID, str]] = MappingProxyType(
    {Comprehensive3DSRStorage: "sr", SecondaryCaptureImageStorage: "secondary-capture", EncapsulatedPDFStorage: "pdf"}
)
"""What we write, by SOP class: nothing changes that."""

SOMEBODYS: Final = (
    "VerifyingObserverSequence",
    "PredecessorDocumentsSequence",
    "AuthorObserverSequence",
    "ParticipantSequence",
)
"""What stands in a document that a person has taken over, and never in ours."""

ORTHANCS_ROOT: Final = "1.2.276.0.7230010.3.1.4."
"""Of the SOPInstanceUIDs that Orthanc makes, with DCMTK."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Of a document of ours, or of a copy that another program made of one.

    :param kind: `sr`, `secondary-capture` or `pdf`.
    :param image: the SOPInstanceUID of the image that it is about, '' if it does not say that any more.
    :param SeriesInstanceUID: of the document.
    :param unchanged: whether it stands in the series and the study for which it was written.
    """

    kind: str
    image: str
    SeriesInstanceUID: str
    unchanged: bool


def read(data: bytes, changed_here: bool = False) -> Provenance | None:
    """None if it is not ours, or not any more: what has our name in it and a UID of somebody else is somebody's.

    :param changed_here: whether this Orthanc made it of another one, in which Manufacturer may have been replaced.
    """
    try:
        ds = pydicom.dcmread(BytesIO(data), stop_before_pixels=True)
        kind = KINDS[ds.SOPClassUID]
        ours = ds.get("Manufacturer") == MANUFACTURER or (changed_here and _of_our_model(ds))
        copied = changed_here or is_report_uid(ds.SOPInstanceUID) or ds.SOPInstanceUID.startswith(ORTHANCS_ROOT)
        if (
            not (ours and copied)
            or ds.get("VerificationFlag") == "VERIFIED"
            or any(keyword in ds for keyword in SOMEBODYS)
        ):
            return None
        return Provenance(kind, _image(ds, kind), str(ds.SeriesInstanceUID), _unchanged(ds, kind))
    except Exception:  # whatever another program made of it
        return None


def _of_our_model(ds: Dataset) -> bool:
    return bool(re.fullmatch(rf"{LIBRARY} \S+", str(ds.get("ManufacturerModelName"))))


def _unchanged(ds: Dataset, kind: str) -> bool:
    model = str(ds.get("ManufacturerModelName")).removeprefix(f"{LIBRARY} ")
    identity = (model, str(ds.get("SoftwareVersions")), str(ds.get("DeviceSerialNumber")))
    expected = series_uid(str(ds.StudyInstanceUID), identity, "" if kind == "sr" else kind)
    return bool(
        ds.get("Manufacturer") == MANUFACTURER and ds.SeriesInstanceUID == expected and is_report_uid(ds.SOPInstanceUID)
    )


def _image(ds: Dataset, kind: str) -> str:
    try:
        return str(REFERENCES[kind](ds).ReferencedSOPInstanceUID)
    except (AttributeError, IndexError, KeyError):
        return ""


REFERENCES: Final[Mapping[str, Callable[[Dataset], Dataset]]] = MappingProxyType(
    {
        "sr": lambda ds: (
            ds.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        ),
        "secondary-capture": lambda ds: ds.SourceImageSequence[0],
        "pdf": lambda ds: ds.SourceInstanceSequence[0],
    }
)
