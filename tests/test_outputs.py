"""What is written beside the SR: the picture and the page say what the report says, of the right image."""

from __future__ import annotations

import json
import re
import subprocess
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from jsonschema import Draft202012Validator
from selenium.webdriver.common.by import By

from demo.phantoms import radiograph, to_bytes
from demo.serve import ROOT
from plugin import analysis, eligibility, outputs, pixels, sr, summary_image, summary_pdf
from plugin.activation import ActivationMaps
from plugin.classifier import Classifier
from plugin.inherited import CannotReport
from plugin.pixels import Pixels
from plugin.settings import BadSetting, Settings
from tests import sr_validators
from tests.browser import Pages, chromium
from tests.pacs import Pacs
from tests.sr_reports import NOON, SCORES, STAND_IN, report_on
from tests.sr_sources import VARIANTS, dataset

# pydicom warns of what is wrong with the images that these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

KINDS = ("secondary-capture", "pdf")
RECOGNISED = dict.fromkeys(("SCImage", "EncapsulatedPDF"), "the name of what it recognised")


def black(rows: int, columns: int) -> Pixels:
    return Pixels(np.zeros((rows, columns), np.uint16), 12, False, ())


def spot(row: int, column: int, rows: int, columns: int) -> ActivationMaps:
    """For every finding, one of the 49 parts of the crop."""
    maps = np.full((18, 7, 7), -1, np.float32)
    maps[:, row, column] = 3
    return ActivationMaps(maps, rows, columns, pixels.center_crop(rows, columns))


def documents(source: pydicom.Dataset, kinds: tuple[str, ...] = KINDS, **report: Any) -> dict[str, sr.Document]:
    maps = spot(3, 3, 40, 30)
    return outputs.documents(kinds, source, report_on(source, **report), black(40, 30), maps, NOON)


def complaints(data: bytes, folder: Path) -> list[str]:
    """What dciodvfy finds that is not allowed for in reports either."""
    path = folder / "output.dcm"
    path.write_bytes(data)
    said = subprocess.run(
        ["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace", check=False
    )
    lines = re.split(
        r"\n(?=Error - |Warning - |SCImage|EncapsulatedPDF|$)", said.stderr.strip()
    )  # values may hold breaks
    assert set(lines) & set(RECOGNISED), lines
    return sr_validators._not_in(lines, sr_validators.DCIODVFY, sr_validators.IDENTITY, RECOGNISED)


@pytest.mark.parametrize("shape", [(300, 420), (420, 300), (300, 300)])
@pytest.mark.parametrize("part", [(0, 0), (6, 0), (2, 5), (3, 3)])
def test_the_map_lights_up_where_the_evidence_lies(shape: tuple[int, int], part: tuple[int, int]) -> None:
    row, column, size = pixels.center_crop(*shape)
    nothing = ActivationMaps(np.full((18, 7, 7), -1, np.float32), *shape, (row, column, size))
    picture, dashes = (
        np.asarray(summary_image.overlaid(black(*shape), maps, 0, 768), np.float32).sum(2)
        for maps in (spot(*part, *shape), nothing)
    )
    picture[dashes > 0] = 0
    scale = picture.shape[0] / shape[0]
    expected = [scale * (first + size * (index + 0.5) / 7) for first, index in zip((row, column), part, strict=True)]
    weights = picture / picture.sum()
    found = [float((weights.sum(1 - axis) * (np.arange(len(weights.sum(1 - axis))) + 0.5)).sum()) for axis in (0, 1)]
    assert found == pytest.approx(expected, abs=scale * size / 7 / 3)
    outside = np.ones_like(picture, bool)
    top, left, edge_length = (round(value * scale) for value in (row, column, size))
    outside[top : top + edge_length, left : left + edge_length] = False
    assert not picture[outside].any() and not dashes[outside].any()  # the model did not see it
    edge = np.zeros_like(outside)
    edge[top : top + edge_length, left : left + edge_length] = True
    edge[top + 1 : top + edge_length - 1, left + 1 : left + edge_length - 1] = False
    assert 0.45 < (dashes[edge] > 0).mean() < 0.6 and not dashes[~edge].any()


def test_bone_is_bright_and_a_map_without_evidence_changes_nothing() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    maps = ActivationMaps(np.full((18, 7, 7), -1, np.float32), 256, 256, (0, 0, 256))
    plain, inverted = (
        np.asarray(summary_image.overlaid(Pixels(ramp, 8, mono1, ()), maps, 0, 128)) for mono1 in (False, True)
    )
    gap = summary_image.DASH  # the row of the first one in the dashed edge
    assert plain[gap, 0].max() == 0 and plain[gap, -1].min() == 255
    assert inverted[gap, 0].min() == 255 and inverted[gap, -1].max() == 0
    assert (plain[..., 0] == plain[..., 2]).all()


@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (3, 5)])
def test_an_image_of_any_shape_has_its_picture(shape: tuple[int, int]) -> None:
    assert max(summary_image.overlaid(black(*shape), spot(3, 3, *shape), 0, 768).size) == 768


def test_stand_in_weights_are_said_on_the_picture_and_in_the_series() -> None:
    trained, stand_in = documents(dataset()), documents(dataset(), model=STAND_IN)
    pictures = [
        summary_image.summary(black(40, 30), spot(3, 3, 40, 30), report_on(dataset(), **changes))
        for changes in ({}, {"model": STAND_IN})
    ]
    red = [(picture[..., 0].astype(int) - picture[..., 1] > 100)[800:].sum() for picture in pictures]
    assert red[0] == 0 and red[1] > 1000
    for kind in KINDS:
        (one, other) = (pydicom.dcmread(BytesIO(each[kind].data)) for each in (trained, stand_in))
        assert "not for diagnosis" in one.SeriesDescription
        assert "TEST ONLY" in other.SeriesDescription
        assert one.SeriesInstanceUID != other.SeriesInstanceUID


@pytest.mark.parametrize("variant", VARIANTS)
def test_whatever_the_image_gets_wrong_they_are_filed_with_it(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary_image, "summary", lambda *_: np.zeros((8, 8, 3), np.uint8))  # which takes time to draw
    source = dataset(**VARIANTS[variant])
    try:
        expected = pydicom.dcmread(BytesIO(sr.structured_report(source, report_on(source), NOON).data))
    except CannotReport:
        with pytest.raises(CannotReport):
            documents(source)
        return
    for kind, document in documents(source).items():
        ds = pydicom.dcmread(BytesIO(document.data))
        for keyword in (
            "PatientID",
            "PatientName",
            "StudyInstanceUID",
            "AccessionNumber",
            "StudyDate",
            "InstanceNumber",
        ):
            assert ds.get(keyword) == expected.get(keyword)
        assert complaints(document.data, tmp_path) == []
        assert ds.Modality == {"secondary-capture": "OT", "pdf": "DOC"}[kind]
        assert ds.BurnedInAnnotation == "YES"
        assert eligibility.why_not(ds) == "This object was written by this plugin itself."
        assert sr.on_same_image(ds.SOPInstanceUID, expected.SOPInstanceUID)


def test_they_belong_to_the_image_s_patient_and_study(tmp_path: Path) -> None:
    source = radiograph(1, rows=40, columns=30)
    for document in documents(source).values():
        assert sr_validators.dcentvfy(to_bytes(source), document.data) == []


def test_the_same_result_gives_the_same_uids_and_another_one_others() -> None:
    source = dataset()
    first, again = documents(source), documents(source)
    changed = documents(source, settings={"crop": "none"})
    report = sr.structured_report(source, report_on(source), NOON)
    seen = {report.SOPInstanceUID}
    series = {report.SeriesInstanceUID}
    for kind in KINDS:
        assert first[kind] == again[kind]  # byte for byte
        assert first[kind].SeriesInstanceUID == changed[kind].SeriesInstanceUID
        assert sr.on_same_image(first[kind].SOPInstanceUID, changed[kind].SOPInstanceUID)
        seen |= {first[kind].SOPInstanceUID, changed[kind].SOPInstanceUID}
        series.add(first[kind].SeriesInstanceUID)
    assert len(seen) == 5
    assert len(series) == 3


def test_only_what_is_wanted_is_made(classify: Classifier) -> None:
    data = to_bytes(radiograph(1, rows=40, columns=30))
    assert analysis.analyse(data, classify, NOON).outputs == {}
    assert analysis.analyse(data, classify, NOON, also=("sr",)).outputs == {}
    assert set(analysis.analyse(data, classify, NOON, also=("sr", "pdf")).outputs) == {"pdf"}


def test_the_page_names_the_patient_and_all_scores() -> None:
    source = dataset(PatientName="Müller^Jürgen=山田".encode(), SpecificCharacterSet=b"ISO_IR 192")
    ds = pydicom.dcmread(BytesIO(documents(source, ("pdf",))["pdf"].data))
    assert ds.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert ds.EncapsulatedDocument[:5] == b"%PDF-"
    said = text_in(ds.EncapsulatedDocument)
    for text in (
        "ID-1",
        "Müller Jürgen",
        "2024-01-31",
        "not for diagnosis",
        *(f"{score:.4f}" for score in SCORES.values()),
    ):
        assert text in said


def text_in(pdf: bytes) -> str:
    """The text of fpdf2's pages, which it writes in deflated streams as `(text) Tj`."""
    found = []
    for stream in re.findall(rb"stream\n(.*?)\nendstream", pdf, re.DOTALL):
        try:
            content = zlib.decompress(stream)
        except zlib.error:
            continue
        found += [text.decode("cp1252") for text in re.findall(rb"\(((?:[^()\\]|\\.)*)\) Tj", content)]
    return "\n".join(found)


@pytest.mark.parametrize("value", ["pdf", ["png"], [["pdf"]], None])
def test_a_wrong_setting_is_said(value: object) -> None:
    with pytest.raises(
        BadSetting, match=r"ChestXRay\.Outputs is .*; it must be a list with some of sr, secondary-capture, pdf"
    ):
        Settings.read({"Outputs": value}, {})


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory, prepared_model: Path) -> Iterator[Pacs]:
    environ = {"OUTPUTS": ",".join(("sr", *KINDS)), "MODEL_FOLDER": str(prepared_model.parent)}
    with Pacs(tmp_path_factory.mktemp("pacs"), {"OverwriteInstances": True}, **environ) as running:
        running.wait_until_ready()
        yield running


def test_in_orthanc_they_stand_beside_the_sr_once_whatever_happens(pacs: Pacs) -> None:
    source = radiograph(7, rows=64, columns=64)
    instance = pacs.upload(to_bytes(source))
    result = pacs.result(instance)
    schema = json.loads((ROOT / "results/schema.json").read_text())
    assert list(Draft202012Validator(schema).iter_errors(result)) == []
    assert [output["kind"] for output in result["outputs"]] == list(KINDS)
    study = pacs.get(f"/instances/{instance}/study")["ID"]

    def series() -> dict[str, list[str]]:
        return {one["MainDicomTags"]["Modality"]: one["Instances"] for one in pacs.get(f"/studies/{study}/series")}

    stored = {"SR": [result["sr"]["instance"]]}
    stored |= {
        modality: [output["instance"]] for modality, output in zip(("OT", "DOC"), result["outputs"], strict=True)
    }
    assert series() == {"DX": [instance], **stored} or series() == {"CR": [instance], **stored}
    for (written,) in stored.values():
        assert pacs.get(f"/instances/{written}/chest-xray")["state"] == "skipped"
    preview = pacs.session.get(f"{pacs.url}/instances/{stored['OT'][0]}/preview", timeout=30)
    assert preview.ok and preview.headers["Content-Type"] == "image/png"
    page = pacs.session.get(f"{pacs.url}/instances/{stored['DOC'][0]}/pdf", timeout=30)
    assert page.content.startswith(b"%PDF-")

    with chromium() as driver:
        report = Pages(driver, pacs)
        report.open(f"report?instance={instance}")
        report.says("nav", "Report to print (PDF)")
        links = {one.text: str(one.get_attribute("href")) for one in driver.find_elements(By.CSS_SELECTOR, "nav a")}
    for text, kind in (("Report as a picture (PNG)", "image/png"), ("Report to print (PDF)", "application/pdf")):
        assert pacs.session.get(links[text], timeout=30).headers["Content-Type"] == kind

    pacs.session.post(f"{pacs.url}/instances/{instance}/chest-xray", timeout=30)  # once more: nothing new
    assert pacs.result(instance)["outputs"] == result["outputs"]
    assert {modality: ids for modality, ids in series().items() if modality in stored} == stored

    source.PixelData = source.PixelData[::-1]  # other pixels under the same UIDs: the old outputs go
    assert pacs.upload(to_bytes(source)) == instance
    pacs.session.post(f"{pacs.url}/instances/{instance}/chest-xray", timeout=30)
    renewed = pacs.result(instance)
    assert renewed["sr"] != result["sr"]
    assert series()["OT"] == [renewed["outputs"][0]["instance"]] != stored["OT"]
    assert series()["DOC"] == [renewed["outputs"][1]["instance"]] != stored["DOC"]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Araújo^João", "Araújo João"),
        ("Yamada^Tarou=山田^太郎", "Yamada Tarou"),
        ("=山田^太郎", "not in Latin letters"),
        ("Dvořák^Łukasz", "not in Latin letters"),
    ],
)
def test_a_name_stands_on_the_page_whole_or_not_at_all(name: str, shown: str) -> None:
    assert summary_pdf._shown(name, in_groups=True).startswith(shown)
