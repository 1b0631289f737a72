"""Whatever an image brings, its report passes every validator and lands in its study, or a sentence says why not."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from highdicom.sr import Comprehensive3DSR, srread

from plugin import sr
from tests import sr_sources, sr_validators
from tests.sr_reports import NOON, OTHER_REPORTS, report_on, variant, variant_report, written
from tests.sr_sources import UNWRITABLE, VARIANTS, dataset

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

# What the image itself breaks and a report must repeat, since identity is never altered.
INHERITED_ERRORS = {
    "long PatientID": r".*</PatientID.*Length invalid.*",
    "tab in PatientID": r".*</PatientID.*Character invalid.*",
    "long name": r".*</PatientName.*Length invalid.*",
    "long AccessionNumber, StudyID": r".*</(AccessionNumber|StudyID).*Length invalid.*",
    "five name components": r".*</PatientName.*Too many delimiters.*",
    "backslash in the name": r".*</PatientName.*Bad attribute Value Multiplicity.*",
    "leading zeros in UIDs": r".*Leading zeroes in embedded numeric component.*",
}
DCMTK_OPTIONS = {"leading zeros in UIDs": ("--invalid-item-value",)}
# dcentvfy compares bytes, so a text that was decoded and written as UTF-8 is another one to it.
OTHER_CHARSET = r"Error - (Different PatientID for same Study|String attribute .* - Element=<PatientName>).*"
MENDED = {
    "Sex": r"Error - String attribute has different value - Element=<PatientSex>.*",
    "": r"Warning - Attribute is empty \(zero length\) in one instance - OK only If Type 2 attribute in that IOD - .*",
}


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A plain Orthanc's address."""
    with sr_validators.plain_orthanc(tmp_path_factory.mktemp("orthanc")) as address:
        yield address


@pytest.fixture(scope="module", autouse=True)
def pixelmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """PixelMed's slow validator, started before the other tests and asked after them."""
    folder = tmp_path_factory.mktemp("pixelmed")
    running = {}
    for number, (name, changes) in enumerate(OTHER_REPORTS.items()):
        path = folder / f"{number}.dcm"
        path.write_bytes(sr.structured_report(dataset(), report_on(dataset(), **changes), NOON).data)
        running[name] = sr_validators.start_pixelmed(path)
    yield running
    for process in running.values():
        process.kill()


@pytest.mark.parametrize("name", VARIANTS)
def test_whatever_the_image_brings_the_report_is_valid(name: str, tmp_path: Path) -> None:
    image, report = tmp_path / "image.dcm", tmp_path / "report.dcm"
    image.write_bytes(variant(name))
    report.write_bytes(variant_report(name).data)
    mended = next(pattern for word, pattern in MENDED.items() if word in name)
    other_charset = "SpecificCharacterSet" in VARIANTS[name]
    assert sr_validators.dciodvfy(report, INHERITED_ERRORS.get(name, "(?!)")) == []
    assert sr_validators.dcentvfy(image, report, OTHER_CHARSET if other_charset else f"{mended}|{MENDED['']}") == []
    assert sr_validators.dcmtk(report, *DCMTK_OPTIONS.get(name, ())) == []
    assert isinstance(srread(report), Comprehensive3DSR)


@pytest.mark.parametrize("name", VARIANTS)
def test_orthanc_files_the_report_in_the_images_own_study(name: str, orthanc: str) -> None:
    image = requests.post(f"{orthanc}/instances", variant(name), timeout=10).json()
    report = requests.post(f"{orthanc}/instances", variant_report(name).data, timeout=10).json()
    assert image["Status"] == report["Status"] == "Success"
    assert report["ParentPatient"] == image["ParentPatient"]
    assert report["ParentStudy"] == image["ParentStudy"]
    assert report["ParentSeries"] != image["ParentSeries"]


@pytest.mark.parametrize("name", UNWRITABLE)
def test_where_no_report_can_stand_the_reason_names_the_attribute(name: str) -> None:
    changes, keyword = UNWRITABLE[name]
    source = dataset(**changes)
    with pytest.raises(sr.CannotReport, match=rf"^{keyword} .*\.$"):
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
    assert written(dataset(**{keyword: given})).get(keyword) == kept


def test_texts_are_decoded_and_written_as_utf_8() -> None:
    ds = written(dataset(SpecificCharacterSet=b"\\ISO 2022 IR 87", PatientName=b"Yamada^Tarou=\x1b$B;3ED\x1b(B^"))
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    assert ds.PatientName.ideographic == "山田^"


def test_a_request_becomes_a_referenced_request() -> None:
    (request,) = written(dataset(RequestAttributesSequence=sr_sources.REQUEST)).ReferencedRequestSequence
    assert request.RequestedProcedureID == "RP1"
    assert request.AccessionNumber == "A1"
    assert request.StudyInstanceUID == dataset().StudyInstanceUID


@pytest.mark.parametrize("which", OTHER_REPORTS)
def test_pixelmed_finds_the_templates_followed(which: str, pixelmed: dict[str, subprocess.Popen[str]]) -> None:
    assert sr_validators.pixelmed(pixelmed[which]) == []
