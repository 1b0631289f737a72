"""Reports as they stand in a real Orthanc: read by people and programs, and written once whatever happens."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.valuerep import format_number_as_ds
from selenium import webdriver
from selenium.webdriver.common.by import By

from demo.phantoms import radiograph, to_bytes
from demo.serve import ROOT
from plugin import pixels, sr
from plugin.codes import finding_and_site
from plugin.report import DISCLAIMER
from tests.pacs import Pacs, wait_for

OPTIONS = {"OverwriteInstances": True, "ChestXRay": {"BodyParts": ["Ribs"]}}
# pydicom warns of the body parts that these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

CREATION = ("ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime")


@pytest.fixture(scope="module")
def model_folder(prepared_model: Path) -> str:
    return str(prepared_model.parent)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory, model_folder: str) -> Iterator[Pacs]:
    with Pacs(tmp_path_factory.mktemp("pacs"), OPTIONS, MODEL_FOLDER=model_folder) as running:
        running.wait_until_ready()
        yield running


def small(seed: int, **changes: Any) -> Dataset:
    """A radiograph that is quickly drawn."""
    return radiograph(seed, rows=pixels.SIZE, columns=pixels.SIZE, **changes)


def report_file(pacs: Pacs, result: dict[str, Any]) -> bytes:
    """The SR that a result names, byte for byte."""
    return pacs.session.get(f"{pacs.url}/instances/{result['sr']['instance']}/file", timeout=30).content


@pytest.fixture(scope="module")
def child(pacs: Pacs, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """The result of a lateral view of a child, and its report as a file."""
    result = pacs.result(pacs.upload(to_bytes(small(1, view="LL", PatientAge="009Y"))))
    path = tmp_path_factory.mktemp("report") / "report.dcm"
    path.write_bytes(report_file(pacs, result))
    return result, path


@pytest.fixture(scope="module")
def page(child: tuple[dict[str, Any], Path]) -> Iterator[webdriver.Chrome]:
    """dsr2html's page of that report, in a browser."""
    path = child[1].with_suffix(".html")
    subprocess.run(["dsr2html", str(child[1]), str(path)], check=True)
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    driver.get(path.as_uri())
    yield driver
    driver.quit()


def test_the_page_reads_like_a_report(child: tuple[dict[str, Any], Path], page: webdriver.Chrome) -> None:
    result, _ = child
    text = page.find_element(By.TAG_NAME, "body").text
    head, *groups = re.split(r"^Measurement Group$", text, flags=re.MULTILINE)
    for line in (
        "SEED1 PHANTOM (male, *1970-01-01, #PHANTOM-1)",
        "TEST ONLY: meaningless scores of stand-in weights",
        "Language of Content Item and Descendants = English",
        "Observer Type = Device",
        'Device Observer Name = "Chest X-ray classifier"',
        'Device Observer Manufacturer = "orthanc-chest-xray"',
        'Device Observer Model Name = "TorchXRayVision densenet121-res224-all"',
        f"#{result['model']['weights_sha256']}",
        "Procedure reported = Imaging procedure",
        "DX image",
    ):
        assert line in head
    for group, (label, score) in zip(groups, result["scores"].items(), strict=True):
        finding, site = finding_and_site(label)
        present = "Present" if label in result["findings"] else "Absent"
        for line in (
            f'Tracking Identifier = "{label}"',
            f"Finding:\n{finding.meaning} ({finding.value}, {finding.scheme_designator})",
            f"Finding Site = {site.meaning} ({site.value}, SCT)",
            'Algorithm Name = "TorchXRayVision densenet121-res224-all"',
            f'Algorithm Version = "{result["model"]["version"]}"',
            'Algorithm Parameters = "weights: stand-in"',
            f"Certainty of Finding:\n{format_number_as_ds(score * 100)} %",
            f"{finding.meaning}:\n{present} (",
            "Source of Measurement:\nDX image",
        ):
            assert line in group
    comment = groups[-1].split("Comment:")[1]
    for sentence in (DISCLAIMER, "A lateral view", "PatientAge is 009Y, a child"):
        assert sentence.lower() in comment.lower()


def test_the_page_links_to_the_image(child: tuple[dict[str, Any], Path], page: webdriver.Chrome) -> None:
    image = child[0]["image"]
    links = {link.get_attribute("href") or "" for link in page.find_elements(By.LINK_TEXT, "DX image")}
    assert len(links) == 1
    assert links.pop().endswith(f"image={image['SOPClassUID']}+{image['SOPInstanceUID']}")


def test_the_command_reads_the_report_back(child: tuple[dict[str, Any], Path]) -> None:
    result, path = child
    command = [sys.executable, "-m", "plugin.sr", str(path)]
    said = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    assert said["scores"] == pytest.approx(result["scores"], rel=1e-10)
    assert said["findings"] == result["findings"]
    assert said["image"]["SOPInstanceUID"] == result["image"]["SOPInstanceUID"]
    assert said["SOPInstanceUID"] == result["sr"]["SOPInstanceUID"]
    assert said["comment"][-len(result["warnings"]) :] == result["warnings"]
    assert [tuple(codes["finding"]) for codes in said["codes"].values()] == [
        finding_and_site(label)[0][:3] for label in result["scores"]
    ]


def test_the_command_ends_quietly_when_nobody_reads_on(child: tuple[dict[str, Any], Path]) -> None:
    command = [sys.executable, "-m", "plugin.sr", str(child[1])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout and running.stderr
        running.stdout.close()  # as `head` does
        assert running.stderr.read() == b""


def test_a_pa_and_a_lateral_get_two_reports_in_one_series(pacs: Pacs) -> None:
    images = [small(2), small(2, view="LL")]
    results = [pacs.result(pacs.upload(to_bytes(ds))) for ds in images]
    assert images[0].StudyInstanceUID == images[1].StudyInstanceUID
    assert len({result["sr"]["SeriesInstanceUID"] for result in results}) == 1
    assert len({result["sr"]["SOPInstanceUID"] for result in results}) == 2
    beside = pacs.reports_beside(results[0]["instance"])
    assert sorted(beside) == sorted(result["sr"]["instance"] for result in results)
    for ds, result in zip(images, results, strict=True):
        said = sr.read(pacs.report(result))
        assert said["image"]["SOPInstanceUID"] == ds.SOPInstanceUID
        assert said["image"]["SeriesInstanceUID"] == ds.SeriesInstanceUID
    assert [len(result["warnings"]) for result in results] == [0, 1]
    assert results[1]["warnings"][0].startswith("ViewPosition is 'LL', a lateral view")


@pytest.mark.parametrize(
    ("part", "state"),
    [("Ribs", "skipped"), ("RIB", "skipped"), ("Abdoman", "skipped"), ("", "done"), ("Brust", "done")],
)
def test_body_parts_are_skipped_if_they_are_certainly_not_the_chest(pacs: Pacs, part: str, state: str) -> None:
    result = pacs.result(pacs.upload(to_bytes(small(3, patient_id=f"PART-{part}", BodyPartExamined=part))))
    assert result["state"] == state
    if state == "skipped":
        assert result["reason"] == f"BodyPartExamined is '{part}', which is not the chest."
    else:
        assert len(result["warnings"]) == bool(part)


def test_two_orthancs_write_the_same_report_and_keep_one_copy(pacs: Pacs, tmp_path: Path, model_folder: str) -> None:
    image = to_bytes(small(4))
    mine = report_file(pacs, pacs.result(pacs.upload(image)))
    with Pacs(tmp_path, MODEL_FOLDER=model_folder) as other:
        result = other.result(other.upload(image), 180)
        theirs = report_file(other, result)
        assert without_moment(mine) == without_moment(theirs)
        answer = other.session.post(f"{other.url}/instances", mine, timeout=30).json()
        assert (answer["Status"], answer["ID"]) == ("AlreadyStored", result["sr"]["instance"])
        assert other.reports_beside(result["instance"]) == [result["sr"]["instance"]]
        assert report_file(other, result) == theirs


def without_moment(report: bytes) -> bytes:
    """The file, with the moment of its creation blotted out."""
    ds = pydicom.dcmread(pydicom.filebase.DicomBytesIO(report))
    for keyword in CREATION:
        report = report.replace(str(ds[keyword].value).encode(), b"?")
    return report


def test_changed_pixels_under_the_same_uid_give_another_report(pacs: Pacs) -> None:
    ds, repainted = small(5), small(5)
    repainted.PixelData = bytes(reversed(ds.PixelData))
    instance = pacs.upload(to_bytes(ds))
    first = pacs.result(instance)
    assert pacs.upload(to_bytes(repainted)) == instance

    def again() -> dict[str, Any] | None:
        now = pacs.get(f"/instances/{instance}/chest-xray")
        return now if now["state"] == "done" and now["created"] != first["created"] else None

    second = wait_for(again, 30, pacs.log)
    assert second["image"]["pixels_sha256"] != first["image"]["pixels_sha256"]
    assert second["sr"]["SOPInstanceUID"] != first["sr"]["SOPInstanceUID"]
    assert second["sr"]["SeriesInstanceUID"] == first["sr"]["SeriesInstanceUID"]
    assert sr.read(pacs.report(second))["scores"] == pytest.approx(second["scores"], rel=1e-10)
    assert pacs.reports_beside(instance) == [second["sr"]["instance"]]  # none is left of pixels that are gone


def test_an_image_that_is_overwritten_while_it_is_classified_ends_with_its_last_report(pacs: Pacs) -> None:
    ds = radiograph(6, rows=512, columns=512)
    for number in range(12):
        ds.PixelData = ds.PixelData[: -512 * number or None] + bytes(512 * number)
        instance = pacs.upload(to_bytes(ds))

    def settled() -> bool | None:
        now = pacs.get(f"/instances/{instance}/chest-xray")
        if now["state"] != "done" or now["image"]["pixels_sha256"] != pixels.fingerprint(ds):
            return None
        return pacs.reports_beside(instance) == [now["sr"]["instance"]] or None

    wait_for(settled, 30, pacs.log)
