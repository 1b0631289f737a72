"""What a report takes over from its image: the attributes of the patient and of the study, made fit to be written.

Identity is never altered: PatientID, PatientName, AccessionNumber, StudyID and UIDs keep their characters, even where
the standard's limits are exceeded. All else is kept if it is valid, and otherwise left empty (type 2) or out (type 3).
Nothing of this happens silently: `repairs` says it in words, for the report and its JSON. Pure.
"""

from __future__ import annotations

import re
from collections.abc import MutableSequence
from datetime import datetime
from typing import Final

from pydicom import DataElement, Dataset, config
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.valuerep import validate_value

IDENTITY: Final = ("PatientName", "AccessionNumber", "StudyID")
"""Type 2 (PS3.3 C.7.1.1, C.7.2.1), kept as they are; so are PatientID and StudyInstanceUID, which decide where
the report is filed."""

TYPE_2: Final = ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName")

OPTIONAL: Final = (
    # Patient
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "PatientBirthTime",
    "EthnicGroup",
    "PatientComments",
    "QualityControlSubject",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    # General Study and Patient Study
    "StudyDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "AdmissionID",
    "AdditionalPatientHistory",
    # SOP Common
    "TimezoneOffsetFromUTC",
)

REQUEST: Final = (
    "AccessionNumber",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
)
"""Type 2 in an item of ReferencedRequestSequence (PS3.3 C.17.2), as far as RequestAttributesSequence can fill them."""

VALID: Final = {
    "PatientIdentityRemoved": "YES|NO",
    "QualityControlSubject": "YES|NO",
    "TypeOfPatientID": "TEXT|RFID|BARCODE",
    "PatientSize": r".*[1-9].*",  # 0 stands for unknown
    "PatientWeight": r".*[1-9].*",
    "TimezoneOffsetFromUTC": r"[+-](0\d|1[0-4])[0-5]\d",
}
"""What the standard demands of these beyond their value representation."""

UID: Final = r"[0-9.]{1,64}"

# Where these stand for each other's missing characters, pydicom reads bytes that belong to none of them as Latin-1.
WITHOUT_LATIN_1: Final = {"", *(f"ISO 2022 IR {number}" for number in (6, 13, 58, 87, 149))}
LATIN_1: Final = re.compile("[\x80-\x9f\xc0-\xd6\xd8-\xf6\xf8-\xff]")

# pydicom leaves the designators of some character sets (ISO 2022 IR 58) in the decoded text.
ESCAPES: Final = re.compile(r"\x1b[$()*+,\-./]*[@-~]")


class CannotReport(Exception):
    """A valid report on this image cannot be written; the sentence names the attribute."""


def patient_and_study(source: Dataset) -> Dataset:
    """The attributes that the report shares with its image, to be written as UTF-8.

    :raises CannotReport: where PatientID or StudyInstanceUID cannot be written exactly as they stand in the source,
        so that the report would be filed under another patient.
    """
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    _put(ds, "StudyInstanceUID", required_uid(source, "StudyInstanceUID"))
    _put(ds, "PatientID", _patient_id(source))
    for keyword in IDENTITY:
        _put(ds, keyword, _text(source, keyword))
    for keyword in TYPE_2:
        _put(ds, keyword, _valid(source, keyword))
    for keyword in OPTIONAL:
        if value := _valid(source, keyword):
            _put(ds, keyword, value)
    if "PatientIdentityRemoved" in ds and "DeidentificationMethod" not in ds:
        del ds.PatientIdentityRemoved  # each requires the other
    if requests := _requests(source, str(ds.StudyInstanceUID)):
        ds.ReferencedRequestSequence = requests
    return ds


def repairs(source: Dataset) -> tuple[str, ...]:
    """What the report says otherwise than the image does, or may spell otherwise: a sentence for each attribute.

    Absent and empty are the same, and so are the same characters in another character set.

    :raises CannotReport: as `patient_and_study` does.
    """
    ds = patient_and_study(source)
    found = [_repair(source, ds, keyword) for keyword in ("PatientID", *IDENTITY, *TYPE_2, *OPTIONAL)]
    for asked, said in zip(_items(source), ds.get("ReferencedRequestSequence", []), strict=False):
        found += [
            _repair(asked, said, keyword) for keyword in (*REQUEST, "StudyInstanceUID") if _stated(asked, keyword)
        ]
    return tuple(dict.fromkeys(filter(None, found)))


def _repair(source: Dataset, ds: Dataset, keyword: str) -> str:
    stated, said = _stated(source, keyword), _text(ds, keyword).strip()
    if said != stated:
        instead = f"; the report says '{said}'" if said else " and left out of the report"
        return f"{keyword} is '{_shown(stated)}', which is not valid{instead}."
    if _undecodable(source, stated):
        return f"{keyword} cannot be decoded with the image's SpecificCharacterSet; the report has what could be read."
    if not stated.isascii() and not _text(source, "SpecificCharacterSet"):
        return f"{keyword} is not ASCII and there is no SpecificCharacterSet; the report may spell it differently."
    if not stated.isascii() and (charset := _unusable_charset(source)):
        return (
            f"{keyword} is not ASCII and SpecificCharacterSet '{_shown(charset)}' does not say how to read it; the "
            "report may spell it differently."
        )
    return ""


def _stated(source: Dataset, keyword: str) -> str:
    """What the image says, be it readable or not."""
    if text := _text(source, keyword).strip(" \0"):
        return text
    raw = getattr(source.get_item(keyword), "value", None) if keyword in source else None
    return raw.decode("latin-1").strip(" \0") if isinstance(raw, bytes) else ""


def _shown(text: str) -> str:
    """As it may stand in a sentence."""
    text = re.sub(r"[\x00-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", text)
    return text if len(text) <= 64 else f"{text[:64]}\N{HORIZONTAL ELLIPSIS}"


def required_uid(source: Dataset, keyword: str) -> str:
    """A UID's characters as they are, leading zeros and all.

    :raises CannotReport: if there is none, or one that makes a report unreadable for others.
    """
    uid = _text(source, keyword)
    if not uid:
        raise CannotReport(f"{keyword} is missing or empty, so that a report cannot refer to it.")
    if not re.fullmatch(UID, uid):
        raise CannotReport(f"{keyword} '{uid}' is not a UID: at most 64 digits and dots.")
    return uid


def _patient_id(source: Dataset) -> str:
    """PatientID as it stands; '' where it is absent, which Orthanc files as the same patient."""
    try:
        source.get("PatientID")
    except Exception:  # whatever a malformed value makes pydicom raise, which may quote it, and reasons are logged
        raise CannotReport("PatientID cannot be read.") from None
    text = _text(source, "PatientID")
    if "\\" in text:
        raise CannotReport(
            "PatientID contains a backslash, which separates values: a report with it would be filed under another "
            "patient."
        )
    if not text.isascii() and (charset := _unusable_charset(source)):
        raise CannotReport(f"PatientID is not ASCII and SpecificCharacterSet '{charset}' does not say how to read it.")
    if _undecodable(source, text):
        raise CannotReport("PatientID cannot be decoded with the image's SpecificCharacterSet.")
    return text


def _unusable_charset(source: Dataset) -> str:
    """The first value of SpecificCharacterSet that cannot encode more than ASCII or is unknown; '' if all are fine."""
    charsets = [part for part in _text(source, "SpecificCharacterSet").split("\\") if part]
    multibyte = len(charsets) > 1
    return next(
        (part for part in charsets if part not in python_encoding or (part == "ISO_IR 6" and not multibyte)),
        "",
    )


def _undecodable(source: Dataset, text: str) -> bool:
    """Whether pydicom put something in the place of bytes that the character set does not have."""
    if "\N{REPLACEMENT CHARACTER}" in text:
        return True
    charsets = set(_text(source, "SpecificCharacterSet").split("\\"))
    return len(charsets) > 1 and charsets <= WITHOUT_LATIN_1 and bool(LATIN_1.search(text))


def _requests(source: Dataset, study_uid: str) -> list[Dataset]:
    """Items for ReferencedRequestSequence from the image's RequestAttributesSequence."""
    return [_request(item, source, study_uid) for item in _items(source)]


def _items(source: Dataset) -> list[Dataset]:
    try:
        return list(source.get("RequestAttributesSequence") or [])
    except Exception:  # whatever a malformed sequence makes pydicom raise
        return []


def _request(item: Dataset, source: Dataset, study_uid: str) -> Dataset:
    request = Dataset()
    for keyword in REQUEST:
        _put(request, keyword, _valid(item, keyword) or _valid(source, keyword))
    asked_for = _text(item, "StudyInstanceUID")
    _put(request, "StudyInstanceUID", asked_for if re.fullmatch(UID, asked_for) else study_uid)
    request.ReferencedStudySequence = []
    request.RequestedProcedureCodeSequence = []
    return request


def _valid(source: Dataset, keyword: str) -> str:
    """The value as text if it is a valid one, else ''."""
    text = _text(source, keyword).strip()
    vr = dictionary_VR(keyword)
    try:
        if keyword == "PatientSex":
            return _sex(text)
        if vr == "DA" and text:
            datetime.strptime(text, "%Y%m%d")
        for component in text.split("=") if vr == "PN" else [text]:
            validate_value(vr, component, config.RAISE)
    except ValueError:
        return ""
    if not re.fullmatch(VALID.get(keyword, ".*"), text, re.DOTALL):
        return ""
    return text if vr == "LT" or not _multiple_or_control(text) else ""


def _multiple_or_control(text: str) -> bool:
    return "\\" in text or any(ord(character) < 32 for character in text)


def _sex(text: str) -> str:
    return {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F", "O": "O", "OTHER": "O"}.get(text.upper(), "")


def _text(source: Dataset, keyword: str) -> str:
    """The decoded value with its inner and leading characters as they are; several values joined by backslashes."""
    try:
        value = source.get(keyword)
    except Exception:  # whatever a malformed value makes pydicom raise
        return ""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("latin-1").rstrip(" \0")
    values = value if isinstance(value, MutableSequence) else [value]
    return ESCAPES.sub("", "\\".join(str(one) for one in values))


def _put(ds: Dataset, keyword: str, value: str) -> None:
    tag = tag_for_keyword(keyword)
    assert tag is not None  # noqa: S101 - the keywords are this module's own
    ds.add(DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE))
