"""What programs read in a report: ours, highdicom, and the viewers, by what each is known to stumble over."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from highdicom.sr import srread
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sr.coding import Code

from demo.serve import ROOT
from plugin import sr
from plugin.codes import FINDINGS
from plugin.report import DISCLAIMER
from plugin.sr_reader import read
from tests.sr_reports import MODEL, SCORES, written
from tests.sr_sources import dataset, dicom_file

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def test_reading_gives_back_what_was_written() -> None:
    source = dataset()
    said = read(written(source, warnings=("One.", "Two.")))
    assert said["scores"] == pytest.approx(SCORES, rel=1e-14, abs=0)
    assert said["findings"] == [label for label, score in SCORES.items() if score >= 0.5]
    assert said["image"]["SOPInstanceUID"] == source.SOPInstanceUID
    assert said["image"]["SeriesInstanceUID"] == source.SeriesInstanceUID
    assert (said["PatientID"], said["StudyInstanceUID"]) == ("ID-1", source.StudyInstanceUID)
    assert said["model"] == {
        "name": "TorchXRayVision densenet121-res224-all",
        "version": "1.5.7",
        "weights_sha256": MODEL.weights_sha256,
        "weights": "trained",
        "crop": "center",
        "voi_lut": False,
    }
    assert said["comment"][0].startswith(DISCLAIMER)
    assert said["comment"][1:] == ["One.", "Two."]


@settings(max_examples=25, deadline=None)
@given(score=st.floats(0, 1))
def test_a_score_survives_to_the_precision_that_16_characters_allow(score: float) -> None:
    ds = written(scores=dict.fromkeys(FINDINGS, score))
    said = read(ds)
    assert all(len(str(value)) <= 16 for value in numeric_values(ds))
    assert list(said["scores"].values()) == pytest.approx([score] * 18, rel=1e-9, abs=1e-15)
    assert said["findings"] == (list(FINDINGS) if score >= 0.5 else [])


def numeric_values(ds: Dataset) -> list[Any]:
    """All NumericValues of a report."""
    found: list[Any] = []
    ds.walk(lambda _, element: found.append(element.value) if element.keyword == "NumericValue" else None)
    return found


def test_present_comes_from_the_unrounded_score() -> None:
    almost = 0.49999999999999994
    assert float(numeric_values(written(scores=dict.fromkeys(FINDINGS, almost)))[0]) == 50.0
    assert read(written(scores=dict.fromkeys(FINDINGS, almost)))["findings"] == []
    assert read(written(scores=dict.fromkeys(FINDINGS, 0.5)))["findings"] == list(FINDINGS)


def groups(ds: Dataset) -> list[Dataset]:
    """The measurement groups."""
    (measurements,) = (item for item in ds.ContentSequence if name(item) == "126010")
    return list(measurements.ContentSequence)


def name(item: Dataset) -> str:
    """A content item's concept."""
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def test_ohif_finds_the_containers_and_a_child_under_every_number() -> None:
    ds = written()
    (library,) = (item for item in ds.ContentSequence if name(item) == "111028")
    (group,) = library.ContentSequence
    assert name(group) == "126200"
    assert group.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID == dataset().SOPInstanceUID
    for group in groups(ds):
        items = group.ContentSequence
        assert name(group) == "125007"
        # It merges groups by this UID, and takes the first UIDREF that it meets for it.
        assert next(item for item in items if item.ValueType == "UIDREF").UID
        assert [len(item.ContentSequence) for item in items if item.ValueType == "NUM"] == [1]
    assert len({next(i for i in group.ContentSequence if i.ValueType == "UIDREF").UID for group in groups(ds)}) == 18


def test_stone_shows_every_item_with_a_name_and_a_value() -> None:
    def check(items: list[Dataset]) -> None:
        for item in items:
            if "ConceptNameCodeSequence" in item:  # it leaves out what has no name
                assert len(item.ConceptNameCodeSequence) == 1
                assert item.ConceptNameCodeSequence[0].CodeMeaning
            if item.ValueType == "NUM":
                (value,) = item.MeasuredValueSequence
                assert value.NumericValue is not None
                assert value.MeasurementUnitsCodeSequence[0].CodingSchemeDesignator == "UCUM"
            check(list(item.get("ContentSequence", [])))

    ds = written()
    assert ds.Modality == "SR"
    assert ds.ConceptNameCodeSequence[0].CodeMeaning == "Imaging Measurement Report"
    check(list(ds.ContentSequence))


def test_slicer_recognises_the_template_and_finds_the_image_in_the_evidence() -> None:
    ds = written()
    assert ds.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    (study,) = ds.CurrentRequestedProcedureEvidenceSequence
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == dataset().SeriesInstanceUID
    assert "SeriesDate" not in ds  # two reports of one series must not disagree on it


def test_highdicom_reads_the_groups_as_measurements(tmp_path: Path) -> None:
    written().save_as(tmp_path / "report.dcm")
    report: Any = srread(tmp_path / "report.dcm").content
    parsed = report.get_image_measurement_groups()
    assert [group.tracking_identifier for group in parsed] == list(FINDINGS)
    assert parsed[0].finding_type == Code("46621007", "SCT", "Atelectasis")
    assert parsed[0].get_measurements()[0].value == pytest.approx(SCORES["Atelectasis"] * 100)


def test_the_command_prints_a_report_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "report.dcm"
    written().save_as(path)
    assert sr.main([str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == read(written())


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_the_command_reads_standard_input(name: str, tmp_path: Path) -> None:
    """From a pipe, as `docker compose exec -T` has one."""
    written().save_as(tmp_path / "report.dcm")
    for data, status in ((tmp_path / "report.dcm").read_bytes(), 0), (b"hello", 1), (b"", 1):
        command = [sys.executable, "-m", "plugin.sr", name]
        done = subprocess.run(command, input=data, capture_output=True, cwd=ROOT, timeout=60, check=False)
        assert done.returncode == status, done.stderr
        assert done.stderr.count(b"\n") == status
        assert status or json.loads(done.stdout) == read(written())


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "image.dcm").write_bytes(dicom_file())
    (tmp_path / "text.txt").write_text("hello")
    for arguments, status in (
        ([], 2),
        (["absent"], 1),
        ([str(tmp_path / "image.dcm")], 1),
        ([str(tmp_path / "text.txt")], 1),
    ):
        assert sr.main(arguments) == status
        printed = capsys.readouterr()
        assert not printed.out
        assert printed.err.count("\n") == 1
