"""A report's content, read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from plugin.codes import PRESENT


def read(ds: Dataset) -> dict[str, Any]:
    """What a report of ours says, as JSON-ready values; `scores` maps labels to 0..1 as exactly as DS allows,
    `codes` each label to its finding and site as value, scheme and meaning, `comment` is a list of lines.

    :raises ValueError: if this is not one of our reports.
    """
    try:
        items = ds.ContentSequence
        groups = _named(items, codes.DCM.ImagingMeasurements)[0].ContentSequence
        findings = {_one(group, codes.DCM.TrackingIdentifier).TextValue: group for group in groups}
        return {
            "SOPInstanceUID": str(ds.SOPInstanceUID),
            "PatientID": str(ds.PatientID or ""),
            "StudyInstanceUID": str(ds.StudyInstanceUID),
            "SeriesInstanceUID": str(ds.SeriesInstanceUID),
            "image": _read_evidence(ds),
            "model": _read_model(ds, groups[0]),
            "scores": {label: _read_score(group) for label, group in findings.items()},
            "findings": [label for label, group in findings.items() if _read_finding(group)["present"]],
            "codes": {label: _read_finding(group) for label, group in findings.items()},
            "comment": _named(items, codes.DCM.Comment)[0].TextValue.split("\r\n"),
        }
    except (AttributeError, IndexError, KeyError, StopIteration) as problem:
        raise ValueError("This is not one of this plugin's reports") from problem


def _named(items: Iterable[Dataset], name: Code) -> list[Dataset]:
    return [
        item for item in items if "ConceptNameCodeSequence" in item and _read_code(item.ConceptNameCodeSequence) == name
    ]


def _one(group: Dataset, name: Code) -> Dataset:
    return _named(group.ContentSequence, name)[0]


def _read_code(sequence: Sequence[Dataset]) -> Code:
    item = sequence[0]
    return Code(item.get("CodeValue") or item.LongCodeValue, item.CodingSchemeDesignator, item.CodeMeaning)


def _read_evidence(ds: Dataset) -> dict[str, str]:
    study = ds.CurrentRequestedProcedureEvidenceSequence[0]
    series = study.ReferencedSeriesSequence[0]
    instance = series.ReferencedSOPSequence[0]
    return {
        "StudyInstanceUID": str(study.StudyInstanceUID),
        "SeriesInstanceUID": str(series.SeriesInstanceUID),
        "SOPClassUID": str(instance.ReferencedSOPClassUID),
        "SOPInstanceUID": str(instance.ReferencedSOPInstanceUID),
    }


def _read_model(ds: Dataset, group: Dataset) -> dict[str, Any]:
    parameters = _named(group.ContentSequence, codes.DCM.AlgorithmParameters)
    return {
        "name": _one(group, codes.DCM.AlgorithmName).TextValue,
        "version": _one(group, codes.DCM.AlgorithmVersion).TextValue,
        "weights_sha256": _one(ds, codes.DCM.DeviceObserverSerialNumber).TextValue,
        **{name: _setting(text) for name, text in (item.TextValue.split(": ", 1) for item in parameters)},
    }


def _setting(text: str) -> Any:
    """JSON's value, or the text itself if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read_score(group: Dataset) -> float:
    percent = _one(group, codes.DCM.CertaintyOfFinding).MeasuredValueSequence[0].NumericValue
    return float(Decimal(str(percent)).scaleb(-2))


def _read_finding(group: Dataset) -> dict[str, Any]:
    finding = _read_code(_one(group, codes.DCM.Finding).ConceptCodeSequence)
    site = _read_code(_one(group, codes.SCT.FindingSite).ConceptCodeSequence)
    return {
        "finding": list(finding[:3]),
        "site": list(site[:3]),
        "present": _read_code(_one(group, finding).ConceptCodeSequence) == PRESENT,
        "tracking_uid": str(_one(group, codes.DCM.TrackingUniqueIdentifier).UID),
    }
