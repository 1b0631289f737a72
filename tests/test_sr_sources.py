"""Whatever an image brings, its report is valid and lands in its study, or a sentence names the attribute.

Each of the images in `sr_sources` is sent through a real Orthanc with the plugin.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pydicom
import pytest
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds

from plugin import sr
from plugin.inherited import ESCAPES, IDENTITY, OPTIONAL, TYPE_2
from tests import sr_sources, sr_validators
from tests.pacs import Pacs
from tests.sr_reports import NOON, REPORTS, report_on, written, written_bytes
from tests.sr_sources import FAILED, MISFILED, REFUSED, SKIPPED, SOURCES, VARIANTS, dataset, source_file

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

BROKEN_IDENTITY = {
    "long PatientID",
    "tab in PatientID",
    "lines in PatientID",
    "long name",
    "long AccessionNumber, StudyID",
    "five name components",
    "backslash in the name",
    "leading zeros in UIDs",
}
"""Where the image itself breaks what a report must repeat, since identity is never altered."""


class Sent(NamedTuple):
    """What became of an image: Orthanc's answer to it, the plugin's, and the report's file."""

    answer: dict[str, Any]
    result: dict[str, Any]
    report: bytes


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory, prepared_model: Path) -> Iterator[Pacs]:
    with Pacs(tmp_path_factory.mktemp("pacs"), MODEL_FOLDER=str(prepared_model.parent)) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def sent(pacs: Pacs) -> dict[str, Sent]:
    """All images, sent at once, as an archive's migration does."""
    answers = {name: pacs.session.post(f"{pacs.url}/instances", source_file(name), timeout=30) for name in SOURCES}
    found = {}
    for name, answer in answers.items():
        result = pacs.result(answer.json()["ID"]) if answer.ok else {}
        url = f"{pacs.url}/instances/{result.get('sr', {}).get('instance')}/file"
        report = pacs.session.get(url, timeout=30).content if result.get("state") == "done" else b""
        found[name] = Sent(answer.json(), result, report)
    with ThreadPoolExecutor() as pool:  # each is asked again by its own test, and remembered
        list(pool.map(sr_validators.complaints, (each.report for each in found.values() if each.report)))
    return found


@pytest.fixture(scope="module", autouse=True)
def pixelmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """PixelMed's slow validator, started before the other tests and asked after them."""
    folder = tmp_path_factory.mktemp("pixelmed")
    running = {}
    for number, (name, changes) in enumerate(REPORTS.items()):
        path = folder / f"{number}.dcm"
        path.write_bytes(written_bytes(**changes))
        running[name] = sr_validators.start_pixelmed(path)
    yield running
    for process in running.values():
        process.kill()


@pytest.mark.parametrize("name", VARIANTS)
def test_whatever_the_image_brings_a_valid_report_stands_in_its_study(
    name: str, sent: dict[str, Sent], pacs: Pacs
) -> None:
    answer, result, report = sent[name]
    assert result["state"] == "done", result
    assert pacs.get(f"/instances/{result['sr']['instance']}/study")["ID"] == answer["ParentStudy"]
    assert pacs.get(f"/instances/{result['sr']['instance']}/patient")["ID"] == answer["ParentPatient"]
    assert pacs.reports_beside(answer["ID"]) == [result["sr"]["instance"]]
    assert sr_validators.complaints(report) == []
    assert bool(sr_validators.broken_identity(report)) == (name in BROKEN_IDENTITY)
    image = in_utf_8(source_file(name)) if decoded_differently(name) else source_file(name)
    mended = sr_validators.MENDED_SEX if "Sex" in name else {}
    assert sr_validators.dcentvfy(image, report, mended) == []


def decoded_differently(name: str) -> bool:
    """Whether the image's characters are other bytes than the report's."""
    return any(not (value or b"").isascii() or b"\x1b" in (value or b"") for value in VARIANTS[name].values())


def in_utf_8(image: bytes) -> bytes:
    """The image with its text as the report has it: dcentvfy compares bytes."""
    ds = pydicom.dcmread(BytesIO(image))
    ds.decode()
    for keyword in ("PatientID", "PatientName"):
        setattr(ds, keyword, ESCAPES.sub("", str(ds[keyword].value)))
    ds.SpecificCharacterSet = "ISO_IR 192"
    file = BytesIO()
    ds.save_as(file)
    return file.getvalue()


@pytest.mark.parametrize("name", VARIANTS)
def test_the_report_says_what_the_image_says_or_that_it_does_not(name: str, sent: dict[str, Sent]) -> None:
    _, result, data = sent[name]
    image, report = pydicom.dcmread(BytesIO(source_file(name))), pydicom.dcmread(BytesIO(data))
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    (instance,) = series.ReferencedSOPSequence
    assert report.StudyInstanceUID == evidence.StudyInstanceUID == image.StudyInstanceUID
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    assert (instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID) == (
        image.SOPClassUID,
        image.SOPInstanceUID,
    )
    said = sr.read(report)
    for keyword in ("PatientID", *IDENTITY, *TYPE_2, *OPTIONAL):
        if plain(image, keyword) != plain(report, keyword):
            (warning,) = (each for each in result["warnings"] if each.startswith(f"{keyword} "))
            assert warning in said["comment"]
    assert said["comment"][-len(result["warnings"]) :] == result["warnings"] or not result["warnings"]
    assert said["scores"] == {label: as_ds(score) for label, score in result["scores"].items()}
    assert said["findings"] == result["findings"]


def plain(ds: Dataset, keyword: str) -> str:
    """An attribute's text without what does not count: padding, and escapes between character sets."""
    value = ds.get(keyword)
    values = value if isinstance(value, pydicom.multival.MultiValue) else [value]
    text = "\\".join("" if one is None else str(one) for one in values)
    return ESCAPES.sub("", text).strip(" \0")


def as_ds(score: float) -> float:
    """A score after its way through 16 characters of percent."""
    return float(Decimal(format_number_as_ds(score * 100)).scaleb(-2))


@pytest.mark.parametrize("name", [*FAILED, *SKIPPED])
def test_where_no_report_can_stand_the_reason_names_the_attribute(name: str, sent: dict[str, Sent], pacs: Pacs) -> None:
    answer, result, _ = sent[name]
    _, keyword = {**FAILED, **SKIPPED}[name]
    assert result["state"] == ("failed" if name in FAILED else "skipped")
    assert keyword in result["reason"]
    assert result["reason"].endswith(".")
    assert pacs.reports_beside(answer["ID"]) == []


@pytest.mark.parametrize("name", MISFILED)
def test_what_orthanc_would_file_under_another_patient_is_undone(name: str, sent: dict[str, Sent], pacs: Pacs) -> None:
    answer, result, _ = sent[name]
    assert result["state"] == "failed"
    assert "PatientID in the image's SpecificCharacterSet" in result["reason"]
    assert "removed again" in result["reason"]
    assert pacs.reports_beside(answer["ID"]) == []


@pytest.mark.parametrize("name", REFUSED)
def test_what_orthanc_does_not_store_it_says(name: str, sent: dict[str, Sent]) -> None:
    _, message = REFUSED[name]
    assert sent[name].answer["Message"] == message


def test_no_patient_and_no_study_was_made_up(sent: dict[str, Sent], pacs: Pacs) -> None:
    stored = [each.answer for each in sent.values() if "ID" in each.answer]
    assert set(pacs.get("/studies")) == {answer["ParentStudy"] for answer in stored}
    assert set(pacs.get("/patients")) == {answer["ParentPatient"] for answer in stored}


def test_nothing_raised(sent: dict[str, Sent], pacs: Pacs) -> None:
    assert len(sent) == len(SOURCES) > 130
    assert "Traceback" not in pacs.log()
    assert not re.search("tried again|Given up", pacs.log())


@pytest.mark.parametrize("name", FAILED)
def test_the_writer_alone_says_the_same(name: str) -> None:
    changes, keyword = FAILED[name]
    source = dataset(**changes)
    with pytest.raises(sr.CannotReport, match=rf"^{keyword} .*\.$"):
        sr.structured_report(source, report_on(source), NOON)


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_what_a_report_must_refer_to_must_be_there(keyword: str) -> None:
    source = dataset(**{keyword: None})
    with pytest.raises(sr.CannotReport, match=rf"^{keyword} is missing or empty"):
        sr.structured_report(source, report_on(source), NOON)


@pytest.mark.parametrize(
    ("keyword", "given", "kept"),
    [
        ("PatientID", b"  ID-1   ", "  ID-1"),
        ("PatientID", b"X" * 70, "X" * 70),
        ("StudyInstanceUID", b"1.2.03.4", "1.2.03.4"),
        ("PatientName", b"N" * 80, "N" * 80),
        ("AccessionNumber", b"A" * 30, "A" * 30),
        ("StudyDate", b"20240131", "20240131"),
        ("StudyDate", b"2024-01-15", ""),
        ("StudyDate", b"20241301", ""),
        ("StudyTime", b"25:61", ""),
        ("StudyTime", b"1015", "1015"),
        ("PatientSex", b"MALE", "M"),
        ("PatientSex", b"m", "M"),
        ("PatientSex", b"U", ""),
        ("PatientAge", b"062Y", "062Y"),
        ("PatientAge", b"62", None),
        ("StudyDescription", b"Chest\\PA", None),
        ("PatientComments", b"one\r\ntwo", "one\r\ntwo"),
        ("TimezoneOffsetFromUTC", b"CET", None),
        ("PatientIdentityRemoved", b"YES", None),
    ],
)
def test_identity_is_kept_and_the_rest_is_kept_if_it_is_valid(keyword: str, given: bytes, kept: str | None) -> None:
    source = dataset(**{keyword: given})
    assert written(source).get(keyword) == kept
    assert bool(sr.repairs(source)) == (kept is None or kept.strip() != given.decode().strip())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"StudyDate": b"15.1.2024"}, "StudyDate is '15.1.2024', which is not valid and left out of the report."),
        ({"PatientSex": b"male"}, "PatientSex is 'male', which is not valid; the report says 'M'."),
        (
            {"PatientWeight": b"70\x01kg"},
            "PatientWeight is '70\ufffdkg', which is not valid and left out of the report.",
        ),
        (
            {"PatientName": b"D\xe9e"},
            "PatientName is not ASCII and there is no SpecificCharacterSet; the report may spell it differently.",
        ),
        (
            {"SpecificCharacterSet": b"FOO", "PatientName": b"D\xe9e"},
            "PatientName is not ASCII and SpecificCharacterSet 'FOO' does not say how to read it; the report may spell "
            "it differently.",
        ),
        (
            {"SpecificCharacterSet": b"\\ISO 2022 IR 87", "PatientName": b"\xff\xfe"},
            "PatientName cannot be decoded with the image's SpecificCharacterSet; the report has what could be read.",
        ),
        (
            {"RequestAttributesSequence": sr_sources.items({"StudyInstanceUID": b"none"})},
            "StudyInstanceUID is 'none', which is not valid; the report says '1.2.826.0.1.3680043.8.498.1'.",
        ),
    ],
)
def test_a_repair_is_said_in_words(changes: dict[str, bytes], sentence: str) -> None:
    assert sr.repairs(dataset(**changes)) == (sentence,)


def test_texts_are_decoded_and_written_as_utf_8() -> None:
    source = dataset(SpecificCharacterSet=b"\\ISO 2022 IR 87", PatientName=b"Yamada^Tarou=\x1b$B;3ED\x1b(B^")
    ds = written(source)
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    assert ds.PatientName.ideographic == "山田^"
    assert sr.repairs(source) == ()


def test_a_request_becomes_a_referenced_request() -> None:
    (request,) = written(dataset(RequestAttributesSequence=sr_sources.REQUEST)).ReferencedRequestSequence
    assert request.RequestedProcedureID == "RP1"
    assert request.AccessionNumber == "A1"
    assert request.StudyInstanceUID == dataset().StudyInstanceUID


@pytest.mark.parametrize("which", REPORTS)
def test_pixelmed_finds_the_templates_followed(which: str, pixelmed: dict[str, subprocess.Popen[str]]) -> None:
    assert sr_validators.pixelmed(pixelmed[which]) == []
