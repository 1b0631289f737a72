"""Which instances are ours to classify, what is said of the others, and what a reader is warned of."""

from __future__ import annotations

import struct
import subprocess
import sys
from datetime import UTC, datetime
from io import BytesIO

import pydicom
import pytest
from pydicom.sr.codedict import codes

from plugin import eligibility, marks, sr
from plugin.eligibility import why_not
from tests.sr_reports import report_on
from tests.sr_sources import code, dataset

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def us(number: int) -> bytes:
    """An unsigned short's bytes."""
    return struct.pack("<H", number)


@pytest.mark.parametrize("modality", ["CR", "DX", "dx", " CR "])
def test_cr_and_dx_series_are_ours(modality: str) -> None:
    assert marks.eligible_modality(modality)
    assert why_not(dataset(Modality=modality.encode())) is None


@pytest.mark.parametrize("modality", ["", "CT", "SR", "OT", "MG", "CRX", "DX\\CR"])
def test_other_series_are_not(modality: str) -> None:
    assert not marks.eligible_modality(modality)
    assert why_not(dataset(Modality=modality.encode())) is not None


@pytest.mark.parametrize(
    "sop_class",
    [
        "1.2.840.10008.5.1.4.1.1.1",
        "1.2.840.10008.5.1.4.1.1.1.1",
        "1.2.840.10008.5.1.4.1.1.1.1.1",
        "1.2.840.10008.5.1.4.1.1.7",
        "1.2.840.10008.5.1.4.1.1.7.2",
        "1.2.840.10008.5.1.4.1.1.7.3",
    ],
)
def test_every_kind_of_single_gray_radiograph_is_ours(sop_class: str) -> None:
    assert why_not(dataset(SOPClassUID=sop_class.encode(), NumberOfFrames=b"1")) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Modality": b"CT"}, "Modality is 'CT'; only CR and DX are classified."),
        ({"Modality": None}, "Modality is ''; only CR and DX are classified."),
        (
            {"SOPClassUID": b"1.2.840.10008.5.1.4.1.1.2"},
            "SOPClassUID is 1.2.840.10008.5.1.4.1.1.2 (CT Image Storage); only Computed Radiography, Digital X-Ray and "
            "Secondary Capture images are classified.",
        ),
        (
            {"SOPClassUID": b"1.2.3"},
            "SOPClassUID is 1.2.3; only Computed Radiography, Digital X-Ray and Secondary Capture images are "
            "classified.",
        ),
        (
            {"SOPClassUID": None},
            "SOPClassUID is missing; only Computed Radiography, Digital X-Ray and Secondary Capture images are "
            "classified.",
        ),
        ({"PixelData": None}, "There is no PixelData in this object."),
        ({"SamplesPerPixel": us(3)}, "SamplesPerPixel is 3: a colour image is not a radiograph."),
        (
            {"PhotometricInterpretation": b"PALETTE COLOR"},
            "PhotometricInterpretation is 'PALETTE COLOR'; only MONOCHROME1 and MONOCHROME2 are classified.",
        ),
        ({"NumberOfFrames": b"12"}, "NumberOfFrames is 12; only single images are classified."),
        ({"BodyPartExamined": b"Knee"}, "BodyPartExamined is 'Knee', which is not the chest."),
        ({"Manufacturer": b"orthanc-chest-xray"}, "This object was written by this plugin itself."),
    ],
)
def test_the_reason_names_the_attribute_and_its_value(changes: dict[str, bytes | None], reason: str) -> None:
    assert why_not(dataset(**changes)) == reason


def test_our_own_reports_are_recognised() -> None:
    source = dataset()
    document = sr.structured_report(source, report_on(source), datetime.now(UTC))
    reason = why_not(pydicom.dcmread(BytesIO(document.data)))
    assert reason == "This object was written by this plugin itself."


@pytest.mark.parametrize(
    "part",
    [
        "KNEE",
        "knee",
        "Knees",
        "L KNEE",
        "KNEE_LT",
        "C-SPINE",
        "c spine",
        "CSPINE",
        "Cervical Spine",
        "HAND",
        "hands",
        "SKULL",
        "ABDOMEN",
        "ABDOMAN",
        "Abdomen/Pelvis",
        "PELVIS",
        "SHOULDER",
        "SHOULER",
        "HIP",
        "FEET",
        "LSSPINE",
    ],
)
def test_what_is_certainly_not_the_chest_is_skipped(part: str) -> None:
    assert why_not(dataset(BodyPartExamined=part.encode())) == f"BodyPartExamined is '{part}', which is not the chest."


@pytest.mark.parametrize(
    "part",
    [
        "",
        "CHEST",
        "Chest",
        "chest ap",
        "THORAX",
        "LUNG",
        "CHEST/ABDOMEN",
        "CHESTABDOMEN",
        "CHEST, SHOULDER",
        "CHSET",
        "TSPINE",
        "RIB",
        "STERNUM",
        "CLAVICLE",
        "HEART",
        "Brust",
        "胸部",
        "1",
        "UNKNOWN",
        "PORT CHEST 1 VIEW",
    ],
)
def test_chests_and_what_is_empty_or_unknown_are_classified(part: str) -> None:
    assert why_not(dataset(SpecificCharacterSet=b"ISO_IR 192", BodyPartExamined=part.encode())) is None


def test_more_body_parts_can_be_named() -> None:
    image = dataset(BodyPartExamined=b"Ribs")
    assert why_not(image) is None
    for word in ("rib", "RIBS", "Ribs "):
        assert why_not(image, [word]) == "BodyPartExamined is 'Ribs', which is not the chest."
    assert why_not(dataset(BodyPartExamined=b"RIB"), ["ribs"]) is not None
    assert why_not(image, ["left rib"]) is None
    for word in ("", "1", "S"):  # without a letter that is left, it names nothing
        assert why_not(dataset(BodyPartExamined=b""), [word]) is None


KNEE = code(b"72696002", b"SCT", b"Knee")


@pytest.mark.parametrize(
    ("changes", "skipped"),
    [
        ({"BodyPartExamined": None, "AnatomicRegionSequence": KNEE}, True),
        ({"BodyPartExamined": b"", "AnatomicRegionSequence": code(b"T-D9200", b"SRT", b"Knie")}, True),
        ({"BodyPartExamined": b"", "AnatomicRegionSequence": code(b"1", b"99X", b"Right knee")}, True),
        ({"BodyPartExamined": b"", "AnatomicRegionSequence": code(b"51185008", b"SCT", b"Chest")}, False),
        ({"BodyPartExamined": b"CHEST", "AnatomicRegionSequence": KNEE}, False),
        ({"BodyPartExamined": b"", "AnatomicRegionSequence": b""}, False),
    ],
)
def test_the_anatomic_region_counts_where_the_body_part_does_not_say_chest(
    changes: dict[str, bytes | None], skipped: bool
) -> None:
    reason = why_not(dataset(**changes))
    assert (reason is not None) == skipped
    assert not skipped or "AnatomicRegionSequence" in str(reason)


def test_the_codes_are_those_of_the_standards_own_table() -> None:
    anatomy = {getattr(codes.cid4009, name) for name in codes.cid4009.dir()}
    skipped = {code.meaning for code in anatomy if code.value in eligibility.NOT_CHEST_REGIONS}
    assert {"Knee", "Hand", "Abdomen", "Cervical spine", "Skull"} <= skipped
    kept = {code.meaning for code in anatomy} - skipped
    assert {"Chest", "Heart", "Rib", "Thoracic spine", "Chest and Abdomen", "Clavicle", "Entire body"} <= kept
    views = {getattr(codes.cid4010, name) for name in codes.cid4010.dir()}
    lateral = {view.meaning for view in views if view.value in eligibility.LATERAL_CODES}
    assert {"lateral", "left lateral", "right lateral"} <= lateral
    assert not {"frontal", "antero-posterior", "postero-anterior"} & lateral


def test_a_frontal_chest_of_an_adult_gives_no_warning() -> None:
    assert eligibility.warnings(dataset(PatientAge=b"064Y")) == ()
    assert eligibility.warnings(dataset(ViewPosition=b"AP", PatientBirthDate=b"")) == ()
    assert eligibility.warnings(dataset(ViewPosition=None, BodyPartExamined=None, PatientAge=b"old")) == ()


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"ViewPosition": b"LL"}, "ViewPosition is 'LL', a lateral view"),
        ({"ViewPosition": b"Lateral"}, "ViewPosition is 'Lateral', a lateral view"),
        ({"ViewPosition": b"LAO"}, "ViewPosition is 'LAO', an oblique view"),
        ({"ViewPosition": b"LLD"}, "ViewPosition is 'LLD', a decubitus view"),
        (
            {"ViewPosition": b"", "ViewCodeSequence": code(b"399198007", b"SCT", b"right lateral")},
            "ViewCodeSequence is 'right lateral', a lateral view",
        ),
        (
            {"ViewPosition": None, "ViewCodeSequence": code(b"R-10236", b"SRT", b"left lateral")},
            "ViewCodeSequence is 'left lateral', a lateral view",
        ),
        ({"PatientAge": b"017Y"}, "PatientAge is 017Y, a child"),
        ({"PatientAge": b"006M"}, "PatientAge is 006M, a child"),
        ({"PatientAge": b"", "PatientBirthDate": b"20060201"}, "PatientBirthDate is 20060201, a child on 20240131"),
        ({"BodyPartExamined": b"TSPINE"}, "BodyPartExamined is 'TSPINE' and does not say chest"),
        ({"SOPClassUID": b"1.2.840.10008.5.1.4.1.1.1.1.1"}, "The image is FOR PROCESSING, raw detector values"),
        ({"PresentationIntentType": b"FOR PROCESSING"}, "The image is FOR PROCESSING, raw detector values"),
    ],
)
def test_what_differs_from_the_training_images_is_a_warning(changes: dict[str, bytes | None], warning: str) -> None:
    assert why_not(dataset(**changes)) is None
    (said,) = eligibility.warnings(dataset(**changes))
    assert said.startswith(warning)
    assert said.endswith(".")


@pytest.mark.parametrize(
    ("changes", "adult"),
    [
        ({"PatientBirthDate": b"20060131"}, True),
        ({"PatientBirthDate": b"20060201"}, False),
        ({"PatientAge": b"018Y"}, True),
        ({"PatientAge": b"216M"}, True),
        ({"PatientAge": b"215M"}, False),
    ],
)
def test_an_eighteenth_birthday_makes_an_adult(changes: dict[str, bytes], adult: bool) -> None:
    assert (eligibility.warnings(dataset(**changes)) == ()) == adult


def test_several_warnings_stand_together() -> None:
    assert len(eligibility.warnings(dataset(ViewPosition=b"LL", PatientAge=b"009Y", BodyPartExamined=b"RIB"))) == 3


@pytest.mark.parametrize("keyword", ["NumberOfFrames", "PatientAge", "ViewPosition", "BodyPartExamined"])
def test_malformed_attributes_raise_nothing(keyword: str) -> None:
    image = dataset(**{keyword: b"\xff\\\xfe"})
    why_not(image)
    eligibility.warnings(image)


def test_the_dispatcher_can_import_this_without_pydicom() -> None:
    program = "import sys, plugin.eligibility; sys.exit('pydicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
