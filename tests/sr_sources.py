"""Small radiographs with everything that real images get wrong, written byte by byte.

pydicom would refuse to write most of them, so the few lines of encoding stand here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from io import BytesIO
from types import MappingProxyType

import pydicom
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword

CR = b"1.2.840.10008.5.1.4.1.1.1"

PATIENT_AND_STUDY: Mapping[str, bytes | None] = MappingProxyType(
    {
        "PatientName": b"Doe^Jane",
        "PatientID": b"ID-1",
        "PatientBirthDate": b"19600229",
        "PatientSex": b"F",
        "StudyDate": b"20240131",
        "StudyTime": b"101500",
        "AccessionNumber": b"A1",
        "ReferringPhysicianName": b"Roe^Richard",
        "StudyID": b"S1",
        "StudyInstanceUID": b"1.2.826.0.1.3680043.8.498.1",
    }
)

IMAGE: Mapping[str, bytes | None] = MappingProxyType(
    {
        **PATIENT_AND_STUDY,
        "SOPClassUID": CR,
        "SOPInstanceUID": b"1.2.826.0.1.3680043.8.498.3",
        "SeriesInstanceUID": b"1.2.826.0.1.3680043.8.498.2",
        "Modality": b"CR",
        "BodyPartExamined": b"CHEST",
        "ViewPosition": b"PA",
        "InstanceNumber": b"1",
        "SamplesPerPixel": struct.pack("<H", 1),
        "PhotometricInterpretation": b"MONOCHROME2",
        "Rows": struct.pack("<H", 2),
        "Columns": struct.pack("<H", 2),
        "BitsAllocated": struct.pack("<H", 8),
        "BitsStored": struct.pack("<H", 8),
        "HighBit": struct.pack("<H", 7),
        "PixelRepresentation": struct.pack("<H", 0),
        "PixelData": b"\0\1\2\3",
    }
)

LONG = {"OB", "OW", "SQ", "UN", "UT"}


def dicom_file(**changes: bytes | None) -> bytes:
    """A 2x2 CR image as a DICOM file in Explicit VR Little Endian; `changes` by keyword, None leaves one out.

    Private attributes go by their tag's eight digits.

    Values are encoded as they are; those of sequences come from `items`.
    """
    values = {**IMAGE, **changes}
    elements = sorted((_tag(keyword), keyword, value) for keyword, value in values.items() if value is not None)
    meta = b"".join(
        _element(_tag(keyword), dictionary_VR(keyword), value)
        for keyword, value in (
            ("MediaStorageSOPClassUID", values["SOPClassUID"] or CR),
            ("MediaStorageSOPInstanceUID", values["SOPInstanceUID"] or b"1"),
            ("TransferSyntaxUID", b"1.2.840.10008.1.2.1"),
        )
    )
    length = _element(0x00020000, "UL", struct.pack("<I", len(meta)))
    return b"\0" * 128 + b"DICM" + length + meta + b"".join(_encoded(*element) for element in elements)


def dataset(**changes: bytes | None) -> Dataset:
    """`dicom_file`, read."""
    return pydicom.dcmread(BytesIO(dicom_file(**changes)))


def items(*each: Mapping[str, bytes]) -> bytes:
    """A sequence's value."""
    encoded = (
        b"".join(
            _encoded(tag, keyword, value) for tag, keyword, value in sorted((_tag(k), k, v) for k, v in one.items())
        )
        for one in each
    )
    return b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in encoded)


def code(value: bytes, scheme: bytes, meaning: bytes) -> bytes:
    """The value of a code sequence."""
    return items({"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning})


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    return int(keyword, 16) if tag is None else tag


def _encoded(tag: int, keyword: str, value: bytes) -> bytes:
    if tag >> 16 & 1:
        return _element(tag, "LO" if tag & 0xFFFF < 0x100 else "UN", value)
    vr = dictionary_VR(keyword)
    return _element(tag, "OW" if vr == "OB or OW" else vr, value)


def _element(tag: int, vr: str, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr in {"UI", "OB"} else b" "
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return head + (struct.pack("<2xI", len(value)) if vr in LONG else struct.pack("<H", len(value))) + value


REQUEST = items(
    {
        "AccessionNumber": b"A1",
        "RequestedProcedureID": b"RP1",
        "RequestedProcedureDescription": b"Chest PA",
        "ScheduledProcedureStepID": b"SPS1",
    }
)
NO_CHARSET: Mapping[str, bytes | None] = {"SpecificCharacterSet": None}


def _charset(term: bytes, text: bytes) -> Mapping[str, bytes | None]:
    return {"SpecificCharacterSet": term, "PatientID": text, "PatientName": text}


VARIANTS: Mapping[str, Mapping[str, bytes | None]] = MappingProxyType(
    {
        "plain": {},
        # Type 2 absent and empty
        **{f"no {keyword}": {keyword: None} for keyword in PATIENT_AND_STUDY if keyword != "StudyInstanceUID"},
        **{f"empty {keyword}": {keyword: b""} for keyword in PATIENT_AND_STUDY if keyword != "StudyInstanceUID"},
        "nothing of type 2": dict.fromkeys((k for k in PATIENT_AND_STUDY if k != "StudyInstanceUID"), None),
        # PatientID
        "padded PatientID": {"PatientID": b"  ID-1   "},
        "long PatientID": {"PatientID": b"X" * 70},
        "tab in PatientID": {"PatientID": b"ID\t1"},
        "wildcards in PatientID": {"PatientID": b"*?^=<script>"},
        "blank PatientID": {"PatientID": b"    "},
        "zeros before PatientID": {"PatientID": b"000123"},
        "PatientID padded with a null": {"PatientID": b"ID-1\0"},
        "spaces within PatientID": {"PatientID": b" ID  1 "},
        "lines in PatientID": {"PatientID": b"ID\r\n1"},
        # Character sets: Orthanc hashes the decoded PatientID
        "Latin-1 without a charset": _charset(b"", "É1".encode("latin-1")),
        "Latin-1 with none at all": {**_charset(b"", "É1".encode("latin-1")), **NO_CHARSET},
        "Latin-1": _charset(b"ISO_IR 100", "Éloïse^Ö".encode("latin-1")),
        "Latin-2": _charset(b"ISO_IR 101", "Łódź^Ż".encode("iso8859-2")),
        "Latin-3": _charset(b"ISO_IR 109", "Ħal^Ġ".encode("iso8859-3")),
        "Latin-4": _charset(b"ISO_IR 110", "Ķāļa^Ņ".encode("iso8859-4")),
        "Latin-5": _charset(b"ISO_IR 148", "Çağ^Şı".encode("iso8859-9")),
        "Cyrillic": _charset(b"ISO_IR 144", "Иванов^Пётр".encode("iso8859-5")),
        "Arabic": _charset(b"ISO_IR 127", "قباني^لنزار".encode("iso8859-6")),
        "Greek": _charset(b"ISO_IR 126", "Διονυσιος".encode("iso8859-7")),
        "Hebrew": _charset(b"ISO_IR 138", "שרון^דבורה".encode("iso8859-8")),
        "Thai": _charset(b"ISO_IR 166", "สมชาย".encode("tis-620")),
        "half-width Japanese": _charset(b"ISO_IR 13", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3"),
        "Japanese": _charset(b"\\ISO 2022 IR 87", b"\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),
        "Korean": _charset(b"\\ISO 2022 IR 149", b"\x1b$)C" + "김희중".encode("euc-kr")),
        "Chinese in ISO 2022": _charset(b"\\ISO 2022 IR 58", b"\x1b$)A" + "王".encode("gb2312")),
        "GB18030": _charset(b"GB18030", "王^小东".encode("gb18030")),
        "GBK": _charset(b"GBK", "王^小东".encode("gbk")),
        "UTF-8": _charset(b"ISO_IR 192", "Wang^小東=王^小東".encode()),
        "UTF-8, emoji": _charset(b"ISO_IR 192", "\N{LUNGS}^\N{BONE}".encode()),
        "UTF-8, decomposed": _charset(b"ISO_IR 192", "Ele\u0301onore".encode()),
        "charset in small letters, ASCII": _charset(b"iso_ir 100", b"Doe^Jane"),
        "ASCII said twice": _charset(b"ISO 2022 IR 6\\ISO 2022 IR 100", b"Doe^Jane"),
        "Latin-1 and Japanese, in the name": {
            "SpecificCharacterSet": b"ISO 2022 IR 100\\ISO 2022 IR 87",
            "PatientName": "Éloïse".encode("latin-1") + b"=\x1b$B;3ED\x1b(B",
        },
        "ISO 2022 IR 100": _charset(b"ISO 2022 IR 100", "Éloïse".encode("latin-1")),
        "two single-byte charsets": _charset(b"ISO_IR 100\\ISO_IR 144", "Éloïse".encode("latin-1")),
        "UTF-8 with extensions": _charset(b"ISO_IR 192\\ISO 2022 IR 87", b"PAT001"),
        "unknown charset, ASCII": _charset(b"FOO", b"Doe^Jane"),
        "unknown charset, other name": {"SpecificCharacterSet": b"FOO", "PatientName": b"D\xe9e"},
        "Japanese charset, undecodable name": {
            "SpecificCharacterSet": b"\\ISO 2022 IR 87",
            "PatientName": b"\xff\xfe^\x80",
        },
        "UTF-8, undecodable name": {"SpecificCharacterSet": b"ISO_IR 192", "PatientName": b"D\xe9e^J"},
        # Dates, times, sex, age
        **{
            f"StudyDate {date.decode()}": {"StudyDate": date}
            for date in (b"2024-01-15", b"20241301", b"20230229", b"today", b"2024.01.15", b"20240101-20240131")
        },
        **{
            f"StudyTime {time.decode()}": {"StudyTime": time}
            for time in (b"25:61", b"250000", b"10:15", b"noon", b"101500.1234567")
        },
        "impossible birth date": {"PatientBirthDate": b"19000000", "PatientBirthTime": b"99"},
        **{
            f"PatientSex {sex.decode()}": {"PatientSex": sex}
            for sex in (b"MALE", b"m", b"f", b"Other", b"U", b"X Y", b"1")
        },
        **{
            f"PatientAge {age.decode()}": {"PatientAge": age} for age in (b"62", b"62Y", b"062Y", b"062Y\\063Y", b"old")
        },
        "sizes that are not numbers": {
            "PatientSize": b"tall",
            "PatientWeight": b"70,5",
            "TimezoneOffsetFromUTC": b"CET",
        },
        # Too long, too many, not allowed
        "long name": {"PatientName": b"N" * 80 + b"^" + b"M" * 80},
        "long AccessionNumber, StudyID": {"AccessionNumber": b"A" * 30, "StudyID": b"S" * 30},
        "long description": {"StudyDescription": b"D" * 100, "PatientComments": b"C" * 5000},
        "backslash in texts": {"StudyDescription": b"Chest\\PA", "ReferringPhysicianName": b"A^B\\C^D"},
        "backslash in the name": {"PatientName": b"Doe^Jane\\Doe^John"},
        "control characters": {"StudyDescription": b"Ches\x01t\n", "PatientComments": b"one\r\ntwo"},
        "script in texts": {"PatientName": b"<script>alert(1)</script>", "StudyDescription": b"<b>&amp;"},
        "five name components": {"PatientName": b"a^b^c^d^e^f^g"},
        # UIDs
        "leading zeros in UIDs": {
            "StudyInstanceUID": b"1.2.03.4",
            "SeriesInstanceUID": b"1.2.0003",
            "SOPInstanceUID": b"1.2.00.1",
        },
        "UIDs of all lengths": {"StudyInstanceUID": b"1." + b"2" * 62, "SeriesInstanceUID": b"1.2"},
        "UIDs padded with spaces": {"StudyInstanceUID": b"1.2.3 ", "SOPInstanceUID": b"1.2.4.5 "},
        # Other things that images bring
        "request": {"RequestAttributesSequence": REQUEST, "TimezoneOffsetFromUTC": b"+0530"},
        "request, malformed": {
            "RequestAttributesSequence": items({"RequestedProcedureID": b"R" * 40, "StudyInstanceUID": b""})
        },
        "two requests": {"RequestAttributesSequence": REQUEST + REQUEST},
        "de-identified": {"PatientIdentityRemoved": b"YES", "DeidentificationMethod": b"by hand"},
        "de-identified, somehow": {"PatientIdentityRemoved": b"YES"},
        "de-identified, in doubt": {"PatientIdentityRemoved": b"MAYBE", "DeidentificationMethod": b"by hand"},
        "no InstanceNumber": {"InstanceNumber": None},
        "InstanceNumber one": {"InstanceNumber": b"one"},
        "InstanceNumber -7": {"InstanceNumber": b"-7"},
        "patient study module": {
            "PatientAge": b"064Y",
            "PatientSize": b"1.75",
            "PatientWeight": b"80",
            "EthnicGroup": b"x",
        },
        "issuer": {"IssuerOfPatientID": b"HOSPITAL", "TypeOfPatientID": b"TEXT", "QualityControlSubject": b"NO"},
        "other patient ids": {
            "OtherPatientIDsSequence": items(
                {"PatientID": b"OLD", "IssuerOfPatientID": b"X", "TypeOfPatientID": b"TEXT"}
            )
        },
        "secondary capture": {"SOPClassUID": b"1.2.840.10008.5.1.4.1.1.7", "ConversionType": b"WSD"},
        "DX": {"SOPClassUID": b"1.2.840.10008.5.1.4.1.1.1.1", "Modality": b"DX"},
        "DX for processing": {"SOPClassUID": b"1.2.840.10008.5.1.4.1.1.1.1.1", "Modality": b"DX"},
        "lateral view of a child": {"ViewPosition": b"LL", "PatientAge": b"009Y"},
        "private attributes": {"00090010": b"ACME 1.1", "00091001": b"\1\2", "00090011": b"", "000B1001": b"orphan"},
        "retired attributes": {
            "OtherPatientIDs": b"OLD1\\OLD2",
            "StudyComments": b"old",
            "InsurancePlanIdentification": b"x",
        },
    }
)

FAILED: Mapping[str, tuple[Mapping[str, bytes | None], str]] = MappingProxyType(
    {
        "backslash in PatientID": ({"PatientID": b"a\\b"}, "PatientID"),
        "PatientID in an unknown charset": ({"SpecificCharacterSet": b"FOO", "PatientID": b"\xe9"}, "PatientID"),
        "PatientID in a misspelt charset": ({"SpecificCharacterSet": b"utf-8", "PatientID": "é".encode()}, "PatientID"),
        "PatientID not ASCII in ASCII": ({"SpecificCharacterSet": b"ISO_IR 6", "PatientID": b"\xe9"}, "PatientID"),
        "PatientID in Latin-9": ({"SpecificCharacterSet": b"ISO_IR 203", "PatientID": b"\xbduvre"}, "PatientID"),
        "PatientID in a padded charset": ({"SpecificCharacterSet": b" ISO_IR 100", "PatientID": b"\xe9"}, "PatientID"),
        "PatientID not UTF-8": ({"SpecificCharacterSet": b"ISO_IR 192", "PatientID": b"\xe9x"}, "PatientID"),
        "PatientID not Japanese": ({"SpecificCharacterSet": b"\\ISO 2022 IR 87", "PatientID": b"\xe9x"}, "PatientID"),
        "two SOPInstanceUIDs": ({"SOPInstanceUID": b"1.2\\1.3"}, "SOPInstanceUID"),
        "long StudyInstanceUID": ({"StudyInstanceUID": b"1." + b"2" * 70}, "StudyInstanceUID"),
        "StudyInstanceUID that is none": ({"StudyInstanceUID": b"study-7"}, "StudyInstanceUID"),
        "SeriesInstanceUID that is none": ({"SeriesInstanceUID": b"1.2-3"}, "SeriesInstanceUID"),
    }
)
"""Images on which no report can stand, with the attribute that the reason names."""

MISFILED: Mapping[str, Mapping[str, bytes | None]] = MappingProxyType(
    {
        "Cyrillic after ASCII": _charset(b"ISO 2022 IR 6\\ISO 2022 IR 144", "Иван".encode("iso8859-5")),
        "Latin-1 and Japanese": _charset(
            b"ISO 2022 IR 100\\ISO 2022 IR 87", "É".encode("latin-1") + b"\x1b$B;3ED\x1b(B"
        ),
    }
)
"""Images whose PatientID Orthanc 1.10 reads in another character set than they name."""

SKIPPED: Mapping[str, tuple[Mapping[str, bytes | None], str]] = MappingProxyType(
    {
        "no SOPClassUID": ({"SOPClassUID": None}, "SOPClassUID"),
        "hardcopy, retired": ({"SOPClassUID": b"1.2.840.10008.5.1.1.29"}, "SOPClassUID"),
        "ultrasound, retired": ({"SOPClassUID": b"1.2.840.10008.5.1.4.1.1.6"}, "SOPClassUID"),
        "angiography, retired": ({"SOPClassUID": b"1.2.840.10008.5.1.4.1.1.12.3", "Modality": b"DX"}, "SOPClassUID"),
        "private SOP class": ({"SOPClassUID": b"1.2.3.4"}, "SOPClassUID"),
        "no pixels": ({"PixelData": None}, "PixelData"),
        "colour": ({"SamplesPerPixel": struct.pack("<H", 3)}, "SamplesPerPixel"),
        "palette": ({"PhotometricInterpretation": b"PALETTE COLOR"}, "PhotometricInterpretation"),
        "frames": ({"NumberOfFrames": b"2"}, "NumberOfFrames"),
        "knee": ({"BodyPartExamined": b"Knee"}, "BodyPartExamined"),
        "knee, coded": (
            {"BodyPartExamined": b"", "AnatomicRegionSequence": code(b"72696002", b"SCT", b"Knee")},
            "AnatomicRegionSequence",
        ),
    }
)
"""Images that are not ours to classify, with the attribute that the reason names."""

REFUSED: Mapping[str, tuple[Mapping[str, bytes | None], str]] = MappingProxyType(
    {
        "no StudyInstanceUID": ({"StudyInstanceUID": None}, "Inexistent tag"),
        "no SOPInstanceUID": ({"SOPInstanceUID": None}, "Inexistent tag"),
        "empty StudyInstanceUID": ({"StudyInstanceUID": b""}, "Bad file format"),
        "empty SeriesInstanceUID": ({"SeriesInstanceUID": b""}, "Bad file format"),
    }
)
"""Images that Orthanc does not store, with its answer."""

SOURCES: Mapping[str, Mapping[str, bytes | None]] = MappingProxyType(
    {
        **VARIANTS,
        **MISFILED,
        **{name: changes for each in (FAILED, SKIPPED, REFUSED) for name, (changes, _) in each.items()},
    }
)
"""All of them."""


def source_file(name: str) -> bytes:
    """One of SOURCES as a DICOM file, in a study of its own unless it names one."""
    number = list(SOURCES).index(name)
    uids = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    own = {keyword: f"1.2.{arc}.{number}".encode() for arc, keyword in enumerate(uids, 4)}
    return dicom_file(**{**own, **SOURCES[name]})
