"""The report again for viewers that show no SR: a Secondary Capture picture and an Encapsulated PDF, each opt-in.

They stand beside the SR, each kind in a series of its own, with the same guarantees: the image's own patient and study
(`plugin/inherited.py`), UIDs that follow from the content, and a Modality and a Manufacturer that are never classified.
A PDF and not a Basic Text SR: a viewer that shows text SR shows the SR that is there already as text, and those that
show none (OHIF and Weasis open PDF, and so do Orthanc's own pages) have a page to read and to print. Pure.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
from highdicom.sc import SCImage
from highdicom.sr import CodedConcept
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage

from plugin import sr, summary_image, summary_pdf
from plugin.activation import ActivationMaps
from plugin.content import device_uid, encode, model_name, report_uid, series_uid
from plugin.inherited import patient_and_study
from plugin.marks import MANUFACTURER, SERIES_NUMBERS
from plugin.pixels import Pixels
from plugin.report import Model, Report
from plugin.summary_image import top_finding

FORM: Final = 2
"""Goes into every SOPInstanceUID. Raise it whenever the same result is shown differently than before."""

SERIES: Final = MappingProxyType(
    {
        "secondary-capture": (SERIES_NUMBERS["OT"], "Chest X-ray AI summary (not for diagnosis)"),
        "pdf": (SERIES_NUMBERS["DOC"], "Chest X-ray AI report (not for diagnosis)"),
    }
)
"""The kinds of output, with SeriesNumber and SeriesDescription."""

Make = Callable[[Dataset, Report, npt.NDArray[np.uint8], datetime], Dataset]


def documents(
    kinds: Sequence[str],
    source: Dataset,
    report: Report,
    pixels: Pixels,
    maps: ActivationMaps,
    created: datetime,
) -> dict[str, sr.Document]:
    """The outputs of these kinds on the image `source`; `sr`, which is always there, and others are passed over.

    :raises CannotReport: as `sr.structured_report` does.
    """
    wanted = [kind for kind in SERIES if kind in kinds]
    if not wanted:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, on the image's own errors, some of which quote the patient's data
        picture = summary_image.summary(pixels, maps, report)
        return {kind: _document(kind, source, report, picture, created) for kind in wanted}


def _document(
    kind: str, source: Dataset, report: Report, picture: npt.NDArray[np.uint8], created: datetime
) -> sr.Document:
    identity = patient_and_study(source)
    identity.pop("ReferencedRequestSequence", None)  # SR documents alone have one
    identity.InstanceNumber = sr.instance_number(source)
    model = report.model
    ds = MAKERS[kind](identity, report, picture, created)
    content = (str(FORM), kind, report.digest.hex(), hashlib.sha256(encode(identity)).hexdigest())
    ds.update(identity)
    ds.SOPInstanceUID = report_uid((report.image.SeriesInstanceUID, report.image.SOPInstanceUID), content)
    ds.SeriesInstanceUID = series_uid(str(ds.StudyInstanceUID), sr.model_identity(model), kind)
    ds.SeriesNumber, ds.SeriesDescription = SERIES[kind]
    if not model.trained:
        ds.SeriesDescription = sr.STAND_IN_DESCRIPTION
    ds.BurnedInAnnotation = "YES"  # it has text, and whatever stands in the radiograph
    describe_equipment(ds, model)
    sr.set_created(ds, created)
    return sr.Document(ds.SOPInstanceUID, ds.SeriesInstanceUID, sr.encoded_file(ds))


def describe_equipment(ds: Dataset, model: Model) -> None:
    sr.describe_equipment(ds, model)
    equipment = Dataset()
    sr.describe_equipment(equipment, model)
    equipment.DeviceUID = device_uid(model)
    equipment.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.ProcessingEquipment)]
    ds.ContributingEquipmentSequence = [equipment]
    ds.ConversionType = "WSD"


def _secondary_capture(identity: Dataset, report: Report, picture: npt.NDArray[np.uint8], created: datetime) -> Dataset:
    """Secondary Capture Image (PS3.3 A.8.1), RGB."""
    image = SCImage(
        picture,
        "RGB",
        8,
        "PATIENT",
        # What identifies it is put in its place afterwards, by one way for all that we write.
        study_instance_uid="1.2",
        series_instance_uid="1.2",
        series_number=1,
        sop_instance_uid="1.2",
        instance_number=1,
        manufacturer=MANUFACTURER,
        patient_orientation=("L", "F"),
    )
    ds = Dataset()
    ds.update(image)
    ds.PatientOrientation = None  # a page has none
    ds.BodyPartExamined = "CHEST"
    ds.ImageType = ["DERIVED", "SECONDARY"]
    ds.DerivationDescription = f"{model_name(report.model)}: activation map of {top_finding(report)}, and all scores"
    source = _reference(report)
    source.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(codes.DCM.SourceImageForImageProcessingOperation)]
    ds.SourceImageSequence = [source]
    for keyword in ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"):
        del ds[keyword]  # says highdicom's own clock; it is optional, and ContentDate is there
    return ds


def _pdf(identity: Dataset, report: Report, picture: npt.NDArray[np.uint8], created: datetime) -> Dataset:
    """Encapsulated PDF (PS3.3 A.45.1)."""
    data = summary_pdf.page(identity, report, picture, created)
    ds = Dataset()
    ds.SOPClassUID = EncapsulatedPDFStorage
    ds.Modality = "DOC"
    ds.AcquisitionDateTime = None
    ds.DocumentTitle = "Chest X-ray AI scores (not for diagnosis)"
    ds.ConceptNameCodeSequence = []
    ds.SourceInstanceSequence = [_reference(report)]
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    ds.EncapsulatedDocumentLength = len(data)
    ds.EncapsulatedDocument = data + b"\0" * (len(data) % 2)
    return ds


def _reference(report: Report) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID = report.image.SOPClassUID
    ds.ReferencedSOPInstanceUID = report.image.SOPInstanceUID
    return ds


MAKERS: Final[Mapping[str, Make]] = MappingProxyType({"secondary-capture": _secondary_capture, "pdf": _pdf})
