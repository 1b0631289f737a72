"""A report on one image as highdicom's documentation builds one: what `plugin.sr` is compared with.

It says less than ours (it has no image library, since highdicom's needs ImagerPixelSpacing, and no equipment), and is
built anew for each image.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO

from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from plugin import __version__
from plugin.codes import ABSENT, PRESENT, finding_and_site
from plugin.report import OPERATING_POINT


def encoded(source: Dataset, scores: Mapping[str, float]) -> bytes:
    """The file of a Comprehensive 3D SR with a measurement group for each score."""
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(uid=generate_uid(), name="bench"),
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[_group(source, label, score) for label, score in scores.items()],
    )
    document = sr.Comprehensive3DSR(
        evidence=[source],
        content=report,
        series_number=1,
        series_instance_uid=generate_uid(),
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="bench",
    )
    file = BytesIO()
    document.save_as(file)
    return file.getvalue()


def _group(source: Dataset, label: str, score: float) -> sr.MeasurementsAndQualitativeEvaluations:
    finding, site = finding_and_site(label)
    image = sr.SourceImageForMeasurement(source.SOPClassUID, source.SOPInstanceUID)
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier=label),
        finding_type=finding,
        finding_sites=[sr.FindingSite(anatomic_location=site)],
        algorithm_id=sr.AlgorithmIdentification(
            name="DenseNet121", version=__version__, family=codes.DCM.ArtificialIntelligence
        ),
        measurements=[
            sr.Measurement(
                name=codes.DCM.CertaintyOfFinding, value=score * 100, unit=codes.UCUM.Percent, referenced_images=[image]
            )
        ],
        qualitative_evaluations=[sr.QualitativeEvaluation(finding, PRESENT if score >= OPERATING_POINT else ABSENT)],
    )
