"""Source Dataset + Report -> DICOM Structured Report (Comprehensive 3D SR, TID 1500).

`plugin/inherited.py` holds what the report takes over from its image, `plugin/content.py` its content tree and
`plugin/sr_reader.py` the way back. Pure, but for `main`, which reads one file: `python -m plugin.sr FILE` prints a
report as JSON, with `-` that on standard input.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from io import BytesIO
from typing import Final

import pydicom
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage, ExplicitVRLittleEndian

from plugin.codes import PRIVATE_SCHEME, PRIVATE_SCHEME_NAME, PRIVATE_SCHEME_UID
from plugin.content import (
    container,
    device_uid,
    encode,
    encoded_content,
    model_name,
    on_same_image,
    report_uid,
    series_uid,
)
from plugin.inherited import CannotReport, patient_and_study, repairs, required_uid
from plugin.marks import MANUFACTURER, SERIES_NUMBERS
from plugin.report import Model, Report
from plugin.sr_reader import read

__all__ = [
    "CannotReport",
    "Document",
    "on_same_image",
    "read",
    "repairs",
    "report_uid",
    "structured_report",
]

FORM: Final = 1
"""Goes into every SOPInstanceUID. Raise it whenever the same report is written differently than before."""

SERIES_DESCRIPTION: Final = "Chest X-ray AI scores (not for diagnosis)"
STAND_IN_DESCRIPTION: Final = "TEST ONLY: meaningless scores of stand-in weights"


@dataclass(frozen=True, slots=True)
class Document:
    """A report as a DICOM file (PS3.10), Explicit VR Little Endian, and its identifiers."""

    SOPInstanceUID: str
    SeriesInstanceUID: str
    data: bytes


def structured_report(source: Dataset, report: Report, created: datetime) -> Document:
    """Write the report on the image `source` as a DICOM SR of the same patient and study.

    The UIDs depend on everything but `created` and the scores, which the image, the model and the settings decide:
    a second classification, on another machine even, gives the same document and not a second one.

    :param created: the moment that the document carries; written in the image's TimezoneOffsetFromUTC if it has one.
    :raises CannotReport: if no valid report can be filed with this image, naming the attribute.
    """
    with warnings.catch_warnings():
        # pydicom's, on values that are mended or left out here; some quote the patient's data.
        warnings.simplefilter("ignore")
        return _structured_report(source, report, created)


def _structured_report(source: Dataset, report: Report, created: datetime) -> Document:
    ds = patient_and_study(source)
    ds.InstanceNumber = instance_number(source)
    identity = (report.digest.hex(), hashlib.sha256(encode(ds)).hexdigest())
    ds.update(_of_model(report.model))
    image = (report.image.SeriesInstanceUID, report.image.SOPInstanceUID)
    ds.SOPInstanceUID = report_uid(image, (str(FORM), *identity))
    ds.SeriesInstanceUID = series_uid(str(ds.StudyInstanceUID), model_identity(report.model))
    ds.CurrentRequestedProcedureEvidenceSequence = [_evidence(source)]
    set_created(ds, created)

    # ContentSequence has the highest tag of all in an SR: the file is its other elements, and then the content.
    return Document(ds.SOPInstanceUID, ds.SeriesInstanceUID, encoded_file(ds) + encoded_content(source, report))


def model_identity(model: Model) -> tuple[str, str, str]:
    """What makes a series another: one for each study and this."""
    return model.name, model.version, model.weights_sha256


@lru_cache(maxsize=8)
def _of_model(model: Model) -> Dataset:
    """The attributes that every report of one model has."""
    ds = Dataset()
    ds.SOPClassUID = Comprehensive3DSRStorage
    ds.Modality = "SR"
    ds.SeriesNumber = SERIES_NUMBERS["SR"]
    ds.SeriesDescription = SERIES_DESCRIPTION if model.trained else STAND_IN_DESCRIPTION
    ds.ReferencedPerformedProcedureStepSequence = []
    ds.PerformedProcedureCodeSequence = []
    ds.CompletionFlag = "COMPLETE"
    ds.PreliminaryFlag = "PRELIMINARY"
    ds.VerificationFlag = "UNVERIFIED"
    describe_equipment(ds, model)
    equipment = Dataset()
    describe_equipment(equipment, model)
    equipment.DeviceUID = device_uid(model)
    equipment.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.ProcessingEquipment)]
    ds.ContributingEquipmentSequence = [equipment]
    scheme = Dataset()
    scheme.CodingSchemeDesignator = PRIVATE_SCHEME
    scheme.CodingSchemeUID = PRIVATE_SCHEME_UID
    scheme.CodingSchemeName = PRIVATE_SCHEME_NAME
    scheme.CodingSchemeResponsibleOrganization = MANUFACTURER
    ds.CodingSchemeIdentificationSequence = [scheme]
    root = container(codes.DCM.ImagingMeasurementReport, template="1500")
    del root.RelationshipType  # the root has no parent to relate to
    for element in root:
        ds.add(element)
    return ds


def describe_equipment(ds: Dataset, model: Model) -> None:
    """The General Equipment Module: the model is the device."""
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = model_name(model)
    ds.DeviceSerialNumber = model.weights_sha256
    ds.SoftwareVersions = model.version


def instance_number(source: Dataset) -> int:
    """The image's own number, so that the reports of a study stand in its images' order; 1 if it has none."""
    try:
        number = int(source.InstanceNumber)
    except Exception:  # absent, empty, or whatever a malformed value makes pydicom raise
        return 1
    return number if 0 <= number < 2**31 else 1


def _evidence(source: Dataset) -> Dataset:
    instance = Dataset()
    instance.ReferencedSOPClassUID = required_uid(source, "SOPClassUID")
    instance.ReferencedSOPInstanceUID = required_uid(source, "SOPInstanceUID")
    series = Dataset()
    series.SeriesInstanceUID = required_uid(source, "SeriesInstanceUID")
    series.ReferencedSOPSequence = [instance]
    study = Dataset()
    study.StudyInstanceUID = required_uid(source, "StudyInstanceUID")
    study.ReferencedSeriesSequence = [series]
    return study


def set_created(ds: Dataset, created: datetime) -> None:
    """The moment as the content's and the instance's, in the zone of the image's TimezoneOffsetFromUTC."""
    # The series has no date: its reports are made at different times, and a series' attributes must agree.
    if offset := ds.get("TimezoneOffsetFromUTC"):
        hours_minutes = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))
        created = created.astimezone(timezone(-hours_minutes if offset[0] == "-" else hours_minutes))
    ds.ContentDate = ds.InstanceCreationDate = created.strftime("%Y%m%d")
    ds.ContentTime = ds.InstanceCreationTime = created.strftime("%H%M%S.%f")


def encoded_file(ds: Dataset) -> bytes:
    """A file (PS3.10) in Explicit VR Little Endian."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m plugin.sr FILE`: print what a report says, as JSON; FILE may be `-`, for standard input."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        print("usage: python -m plugin.sr FILE, or - for standard input", file=sys.stderr)  # noqa: T201
        return 2
    try:
        # A pipe cannot be gone back in, which reading a DICOM file takes.
        file = BytesIO(sys.stdin.buffer.read()) if arguments[0] in ("-", "/dev/stdin") else arguments[0]
        text = json.dumps(read(pydicom.dcmread(file)), indent=2, ensure_ascii=False)
    except InvalidDicomError:
        print(f"{arguments[0]}: This is no DICOM file", file=sys.stderr)  # noqa: T201
        return 1
    except OSError as problem:
        print(f"{arguments[0]}: {problem.strerror}", file=sys.stderr)  # noqa: T201
        return 1
    except ValueError as problem:
        print(f"{arguments[0]}: {problem}", file=sys.stderr)  # noqa: T201
        return 1
    print(text)  # noqa: T201
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `... | head` ends us quietly, as it does other programs
    sys.exit(main())
