"""The content tree of a report (TID 1500, PS3.16), built and encoded once per model.

Nearly everything in it is the same for all images of a model. So the tree is built with a placeholder wherever
images differ (`Blanks`), and each report is those bytes with the placeholders filled in: `encoded_content` gives the
bytes that encoding `content` gives, in a hundredth of the time. Pure.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import struct
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Final

from highdicom.sr import (
    CodeContentItem,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    ImageContentItem,
    NumContentItem,
    RelationshipTypeValues,
    TextContentItem,
    UIDRefContentItem,
)
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.valuerep import DSfloat, format_number_as_ds

from plugin.codes import ABSENT, PRESENT, finding_and_site
from plugin.inherited import required_uid
from plugin.marks import MANUFACTURER
from plugin.report import DISCLAIMER, OPERATING_POINT, Model, Report

UID_NAMESPACE: Final = uuid.UUID("2b6a0b52-5a94-4a53-a5f5-9a8d4e6a1f0e")

LIBRARY: Final = "TorchXRayVision"
DEVICE_NAME: Final = "Chest X-ray classifier"
STAND_IN_WARNING: Final = (
    "TEST ONLY: these scores were made with stand-in weights instead of trained ones and mean nothing."
)

CONTAINS: Final = RelationshipTypeValues.CONTAINS
HAS_CONCEPT_MOD: Final = RelationshipTypeValues.HAS_CONCEPT_MOD
HAS_OBS_CONTEXT: Final = RelationshipTypeValues.HAS_OBS_CONTEXT
INFERRED_FROM: Final = RelationshipTypeValues.INFERRED_FROM

Settings = tuple[tuple[str, str], ...]
"""Names and values, the latter as text: as a cache's key, True and 1 would be the same."""


def derived_uid(*parts: str) -> str:
    """A UID (2.25 and a UUID, PS3.5 B.2) that the same parts always give."""
    return f"2.25.{uuid.uuid5(UID_NAMESPACE, json.dumps(parts)).int}"


def report_uid(image: Sequence[str], content: Sequence[str]) -> str:
    """A UID of the same kind (RFC 9562, version 8) whose first 48 bits tell which image it is about."""
    first, second = (hashlib.sha256(json.dumps(parts).encode()).digest() for parts in (image, content))
    number = int.from_bytes(first[:6] + second[:10]) & ~(0xF << 76 | 3 << 62) | 8 << 76 | 2 << 62
    return f"2.25.{number}"


def on_same_image(uid: str, other: str) -> bool:
    """Whether two UIDs made by `report_uid` are about the same image."""
    numbers = [part.removeprefix("2.25.") for part in (uid, other)]
    return all(map(str.isdecimal, numbers)) and len({int(number) >> 80 for number in numbers}) == 1


def series_uid(study: str, identity: Sequence[str], kind: str = "") -> str:
    """One for each study, model (its name, version and weights' hash) and kind of document, '' for the reports."""
    return derived_uid("series", *([kind] if kind else []), study, *identity)


def device_uid(model: Model) -> str:
    """Another one for every version and all weights of a model, as IHE AI Results asks."""
    return derived_uid("device", model.name, model.version, model.weights_sha256)


def model_name(model: Model) -> str:
    """What a reader calls the model."""
    return f"{LIBRARY} {model.name}"


def encoded_content(source: Dataset, report: Report) -> bytes:
    """The element ContentSequence (0040,A730) of the report on `source`, in Explicit VR Little Endian and UTF-8.

    :raises CannotReport: if the image's UIDs cannot be referred to.
    """
    pieces, placeholders = _template(report.model, settings_of(report))
    values = dict(zip(placeholders, Blanks.of(source, report).encoded(), strict=True))
    return b"".join([values.get(piece, piece) for piece in pieces])


def settings_of(report: Report) -> Settings:
    """What determined the scores beside the model."""
    return tuple((name, _readable(value)) for name, value in report.settings.items())


def _readable(value: str | int | float | bool) -> str:
    """A word as it is, and all else as JSON, so that a number's text and the number can be told apart."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return value
    return json.dumps(value)


def encode(ds: Dataset) -> bytes:
    """A Dataset's elements in Explicit VR Little Endian."""
    buffer = DicomBytesIO()
    buffer.is_little_endian = True
    buffer.is_implicit_VR = False
    write_dataset(buffer, ds, "ISO_IR 192")
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Finding:
    """What differs between images in one finding's measurement group.

    `percent` is score x 100 as a decimal string (DS), `present` the value and the meaning of PRESENT or ABSENT.
    """

    tracking_uid: str
    percent: str
    present: str
    present_meaning: str


@dataclass(frozen=True, slots=True)
class Blanks:
    """All that differs in the content between two images of one model; `findings` in the order of the labels."""

    sop_class_uid: str
    sop_instance_uid: str
    comment: str
    findings: tuple[Finding, ...]

    @classmethod
    def of(cls, source: Dataset, report: Report) -> Blanks:
        """What one image's report says."""
        digest = report.digest.hex()
        return cls(
            sop_class_uid=required_uid(source, "SOPClassUID"),
            sop_instance_uid=required_uid(source, "SOPInstanceUID"),
            comment=_comment(report),
            findings=tuple(_finding(report, label, digest) for label in report.scores),
        )

    @classmethod
    def placeholders(cls, count: int) -> Blanks:
        """All different, for `count` findings, and each valid as a UID, a decimal string, a code and a text."""
        unique = map("1.{}".format, itertools.count(10**13))
        findings = (Finding(next(unique), next(unique), next(unique), next(unique)) for _ in range(count))
        return cls(next(unique), next(unique), next(unique), tuple(findings))

    def encoded(self) -> list[bytes]:
        """Every value as it stands in the file behind its tag, in a fixed order."""
        values = [("UI", self.sop_class_uid), ("UI", self.sop_instance_uid), ("UT", self.comment)]
        for finding in self.findings:
            values += zip(("UI", "DS", "SH", "LO"), astuple(finding), strict=True)
        return [_value(vr, text) for vr, text in values]


def _finding(report: Report, label: str, digest: str) -> Finding:
    present = PRESENT if report.present(label) else ABSENT
    return Finding(
        tracking_uid=derived_uid("finding", digest, label),
        percent=format_number_as_ds(report.scores[label] * 100),
        present=present.value,
        present_meaning=present.meaning,
    )


def _comment(report: Report) -> str:
    """For people: what the scores are, and what is unusual about this image."""
    point = f"{OPERATING_POINT * 100:g} %"
    about = f"{DISCLAIMER} Scores stand here in percent: a finding whose score reaches {point} is called Present."
    return "\r\n".join((*(() if report.model.trained else (STAND_IN_WARNING,)), about, *report.warnings))


def content(model: Model, settings: Settings, blanks: Blanks) -> Dataset:
    """A Dataset whose ContentSequence is the report's content (TID 1500)."""
    labels = [label for label in model.labels if label]
    ds = Dataset()
    ds.ContentSequence = ContentSequence(
        [
            _code(codes.DCM.LanguageOfContentItemAndDescendants, Code("en", "RFC5646", "English"), HAS_CONCEPT_MOD),
            *_observer(model),
            _code(codes.DCM.ProcedureReported, codes.SCT.ImagingProcedure, HAS_CONCEPT_MOD),
            _image_library(blanks),
            container(
                codes.DCM.ImagingMeasurements,
                [
                    _measurement_group(label, finding, _algorithm(model, settings), blanks)
                    for label, finding in zip(labels, blanks.findings, strict=True)
                ],
            ),
            _text(codes.DCM.Comment, blanks.comment, CONTAINS),
        ]
    )
    return ds


def _observer(model: Model) -> list[ContentItem]:
    """The device that observed (TID 1002, 1004)."""
    return [
        _code(codes.DCM.ObserverType, codes.DCM.Device, HAS_OBS_CONTEXT),
        _uid(codes.DCM.DeviceObserverUID, device_uid(model), HAS_OBS_CONTEXT),
        _text(codes.DCM.DeviceObserverName, DEVICE_NAME, HAS_OBS_CONTEXT),
        _text(codes.DCM.DeviceObserverManufacturer, MANUFACTURER, HAS_OBS_CONTEXT),
        _text(codes.DCM.DeviceObserverModelName, model_name(model), HAS_OBS_CONTEXT),
        _text(codes.DCM.DeviceObserverSerialNumber, model.weights_sha256, HAS_OBS_CONTEXT),
    ]


def _algorithm(model: Model, settings: Settings) -> list[ContentItem]:
    """TID 4019. Family and manufacturer stay out: viewers take the one for a finding."""
    return [
        _text(codes.DCM.AlgorithmName, model_name(model), HAS_CONCEPT_MOD),
        _text(codes.DCM.AlgorithmVersion, model.version, HAS_CONCEPT_MOD),
        # One item each: dsr2html moves longer texts into an annex.
        *(
            _text(codes.DCM.AlgorithmParameters, f"{name}: {value}", HAS_CONCEPT_MOD)
            for name, value in (("weights", model.weights), *settings)
        ),
    ]


def _image_library(blanks: Blanks) -> ContentItem:
    """TID 1600; by hand, since highdicom's needs ImagerPixelSpacing."""
    image = _image(blanks, CONTAINS)
    group = container(codes.DCM.ImageLibraryGroup, [image])
    del image.ConceptNameCodeSequence  # TID 1601 gives its images no name, which highdicom's items need until here
    return container(codes.DCM.ImageLibrary, [group])


def _measurement_group(label: str, finding: Finding, algorithm: Iterable[ContentItem], blanks: Blanks) -> ContentItem:
    """TID 1501: one finding's score, and whether it counts as present."""
    code, site = finding_and_site(label)
    present = Code(finding.present, PRESENT.scheme_designator, finding.present_meaning)
    return container(
        codes.DCM.MeasurementGroup,
        [
            _text(codes.DCM.TrackingIdentifier, label, HAS_OBS_CONTEXT),
            _uid(codes.DCM.TrackingUniqueIdentifier, finding.tracking_uid, HAS_OBS_CONTEXT),
            _code(codes.DCM.Finding, code, CONTAINS),
            _code(codes.SCT.FindingSite, site, HAS_CONCEPT_MOD),
            *algorithm,
            _score(finding, blanks),
            _code(code, present, CONTAINS),
            _image(blanks, CONTAINS),
        ],
        template="1501",
    )


def _score(finding: Finding, blanks: Blanks) -> ContentItem:
    item = NumContentItem(codes.DCM.CertaintyOfFinding, 0, codes.UCUM.Percent, relationship_type=CONTAINS)
    item.MeasuredValueSequence[0].NumericValue = DSfloat(finding.percent)
    # OHIF's viewer destructures the content of every NUM and throws on one that has none.
    item.ContentSequence = ContentSequence([_image(blanks, INFERRED_FROM)])
    return item


def container(name: Code, children: Sequence[ContentItem] = (), template: str | None = None) -> ContentItem:
    """A CONTAINER with separate items; `template` is a TID."""
    item = ContainerContentItem(name, is_content_continuous=False, template_id=template, relationship_type=CONTAINS)
    if children:
        item.ContentSequence = ContentSequence(children)
    return item


def _code(name: Code, value: Code, relationship: RelationshipTypeValues) -> ContentItem:
    return CodeContentItem(name, value, relationship)


def _text(name: Code, value: str, relationship: RelationshipTypeValues) -> ContentItem:
    return TextContentItem(name, value, relationship)


def _uid(name: Code, value: str, relationship: RelationshipTypeValues) -> ContentItem:
    return UIDRefContentItem(name, value, relationship)


def _image(blanks: Blanks, relationship: RelationshipTypeValues) -> ContentItem:
    name, sop_class, instance = codes.DCM.SourceOfMeasurement, blanks.sop_class_uid, blanks.sop_instance_uid
    return ImageContentItem(name, sop_class, instance, relationship_type=relationship)


@lru_cache(maxsize=8)
def _template(model: Model, settings: Settings) -> tuple[list[bytes], list[bytes]]:
    """The encoded content, cut so that each placeholder is a piece of its own; and the placeholders."""
    blanks = Blanks.placeholders(sum(map(bool, model.labels)))
    ds = content(model, settings, blanks)
    _leave_lengths_undefined(ds)
    placeholders = blanks.encoded()
    return re.split(b"(" + b"|".join(map(re.escape, placeholders)) + b")", encode(ds)), placeholders


def _leave_lengths_undefined(ds: Dataset) -> None:
    """Let sequences and items end with delimiters (PS3.5 7.5), so that no length depends on what stands inside."""
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                _leave_lengths_undefined(item)


def _value(vr: str, text: str) -> bytes:
    """VR, length and value, as they follow the tag in Explicit VR Little Endian (PS3.5 7.1.2)."""
    value = text.encode()
    if len(value) % 2:
        value += b"\0" if vr == "UI" else b" "
    layout = "<2s2xI" if vr == "UT" else "<2sH"
    return struct.pack(layout, vr.encode(), len(value)) + value
