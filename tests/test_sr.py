"""What a report says, how it is identified, and what viewers are known to stumble over."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from highdicom.sr import srread
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sr.coding import Code

from plugin import sr
from plugin.codes import FINDINGS, PRIVATE_SCHEME
from plugin.content import Blanks, content, encode, settings_of
from plugin.report import DISCLAIMER
from plugin.sr_reader import read
from tests import sr_validators
from tests.sr_reports import MODEL, NOON, REPORTS, SCORES, STAND_IN, report_on, written
from tests.sr_sources import dataset, dicom_file

# pydicom warns while it reads what these images bring.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def test_the_moment_is_told_in_the_images_time_zone() -> None:
    assert (written().ContentDate, written().ContentTime) == ("20260304", "120000.000005")
    ds = written(dataset(TimezoneOffsetFromUTC=b"-1330"))
    assert (ds.ContentDate, ds.ContentTime, ds.TimezoneOffsetFromUTC) == ("20260303", "223000.000005", "-1330")


def test_the_form() -> None:
    ds = written()
    assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.34"
    assert (ds.CompletionFlag, ds.VerificationFlag, ds.PreliminaryFlag) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert (ds.Modality, ds.SeriesDescription) == ("SR", "Chest X-ray AI scores (not for diagnosis)")
    outline = list(lines(ds, 0))
    assert outline[:10] == [
        "CODE 121049 DCM = en RFC5646 [HAS CONCEPT MOD]",
        "CODE 121005 DCM = 121007 DCM [HAS OBS CONTEXT]",
        "UIDREF 121012 DCM [HAS OBS CONTEXT]",
        *(f"TEXT 12101{digit} DCM [HAS OBS CONTEXT]" for digit in "3456"),
        "CODE 121058 DCM = 363679005 SCT [HAS CONCEPT MOD]",
        "CONTAINER 111028 DCM [CONTAINS]",
        "  CONTAINER 126200 DCM [CONTAINS]",
    ]
    assert outline[10:12] == ["    IMAGE None [CONTAINS]", "CONTAINER 126010 DCM [CONTAINS]"]
    assert outline[12:27] == [
        "  CONTAINER 125007 DCM [CONTAINS]",
        "    TEXT 112039 DCM [HAS OBS CONTEXT]",
        "    UIDREF 112040 DCM [HAS OBS CONTEXT]",
        "    CODE 121071 DCM = 46621007 SCT [CONTAINS]",
        "    CODE 363698007 SCT = 39607008 SCT [HAS CONCEPT MOD]",
        "    TEXT 111001 DCM [HAS CONCEPT MOD]",
        "    TEXT 111003 DCM [HAS CONCEPT MOD]",
        *["    TEXT 111002 DCM [HAS CONCEPT MOD]"] * 3,
        "    NUM 111012 DCM [CONTAINS]",
        "      IMAGE 121112 DCM [INFERRED FROM]",
        "    CODE 46621007 SCT = 272519000 SCT [CONTAINS]",
        "    IMAGE 121112 DCM [CONTAINS]",
        "  CONTAINER 125007 DCM [CONTAINS]",
    ]
    assert outline[-1] == "TEXT 121106 DCM [CONTAINS]"
    assert len(outline) == 12 + 18 * 14 + 1


def lines(item: Dataset, level: int) -> Iterator[str]:
    """A content tree's outline."""
    for child in item.get("ContentSequence", []):
        named = (f"{one.CodeValue} {one.CodingSchemeDesignator}" for one in child.get("ConceptNameCodeSequence", []))
        value = [f"= {one.CodeValue} {one.CodingSchemeDesignator}" for one in child.get("ConceptCodeSequence", [])]
        words = [child.ValueType, next(named, "None"), *value, f"[{child.RelationshipType}]"]
        yield "  " * level + " ".join(words)
        yield from lines(child, level + 1)


@pytest.mark.parametrize("changes", REPORTS.values(), ids=[*REPORTS])
def test_filling_in_the_blanks_gives_what_building_the_whole_tree_gives(changes: Mapping[str, Any]) -> None:
    source = dataset(SOPInstanceUID=b"1.2.3.45", SpecificCharacterSet=b"ISO_IR 192")
    report = report_on(source, **changes)
    naive = content(report.model, settings_of(report), Blanks.of(source, report))
    again = pydicom.dcmread(BytesIO(encode(naive)), force=True)
    filled = written(source, **changes)
    assert filled.ContentSequence == again.ContentSequence
    assert len(filled.ContentSequence) == 11


def test_a_setting_that_is_true_and_one_that_is_1_are_told_apart() -> None:
    said = [read(written(settings={"flag": value}))["model"]["flag"] for value in (True, 1, 1.0, "1")]
    assert [str(value) for value in said] == ["True", "1", "1.0", "1"]


def test_codes_are_those_of_the_table_and_none_that_mean_something_else() -> None:
    codes = read(written())["codes"]
    assert list(codes) == list(FINDINGS)
    assert codes["Nodule"]["finding"] == ["786838002", "SCT", "Nodule of lung"]
    assert codes["Infiltration"]["finding"] == ["112121", "DCM", "Infiltrate"]
    assert codes["Pleural_Thickening"]["finding"][1] == PRIVATE_SCHEME
    assert codes["Hernia"]["site"] == ["5798000", "SCT", "Diaphragm"]
    wrong = {"47693006", "300999006", "46866001", "287272002", "267038008", "79654002"}
    assert not wrong & {value["finding"][0] for value in codes.values()}


def test_the_table_holds_every_label_of_torchxrayvisions_models() -> None:
    package = find_spec("torchxrayvision")  # read and not imported, since that takes seconds
    assert package and package.origin
    lists = re.findall(r'"labels": (\[.*\])', Path(package.origin).with_name("models.py").read_text())
    assert {label for labels in lists for label in ast.literal_eval(labels) if label} == set(FINDINGS)


def test_dicoms_own_code_meanings_are_dicoms() -> None:
    from pydicom.sr.codedict import codes

    for code, site in FINDINGS.values():
        if code.scheme_designator == "DCM":
            assert code.meaning in {codes.DCM.Infiltrate.meaning, codes.DCM.Opacity.meaning}
        assert site.meaning == getattr(codes.SCT, site.meaning).meaning
        assert site.value == getattr(codes.SCT, site.meaning).value


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


def test_stand_in_weights_are_called_so_wherever_one_looks() -> None:
    ds = written(model=STAND_IN)
    assert "stand-in" in ds.SeriesDescription
    assert "stand-in" in read(ds)["comment"][0]
    assert read(ds)["model"]["weights"] == "stand-in"
    assert "stand-in" not in json.dumps(read(written())) + written().SeriesDescription


def test_a_label_outside_the_table_gets_a_private_code_that_validators_accept(tmp_path: Path) -> None:
    document = written(**REPORTS["fewer and unknown labels"])
    document.save_as(tmp_path / "report.dcm")
    assert read(document)["codes"]["Support Devices"]["finding"] == [
        "SUPPORT_DEVICES",
        PRIVATE_SCHEME,
        "Support Devices",
    ]
    assert sr_validators.dciodvfy(tmp_path / "report.dcm") == []
    assert sr_validators.dcmtk(tmp_path / "report.dcm") == []


def uids(source: Dataset | None = None, created: datetime = NOON, **changes: Any) -> tuple[str, str]:
    """Instance and series of a report."""
    source = source or dataset()
    document = sr.structured_report(source, report_on(source, **changes), created)
    return document.SOPInstanceUID, document.SeriesInstanceUID


def test_the_same_image_model_and_settings_give_the_same_report_but_for_the_moment() -> None:
    one, other = (sr.structured_report(dataset(), report_on(dataset()), at) for at in (NOON, datetime.now(UTC)))
    assert (one.SOPInstanceUID, one.SeriesInstanceUID) == (other.SOPInstanceUID, other.SeriesInstanceUID)
    first, second = (pydicom.dcmread(BytesIO(document.data)) for document in (one, other))
    differing = {element.keyword for element in first if element != second[element.tag]}
    assert differing == {"ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime"}


def test_reports_that_say_different_things_have_different_uids() -> None:
    pixels = dataclasses.replace(report_on(dataset()).image, pixels_sha256="cd" * 32)
    others = [
        uids(),
        uids(image=pixels),
        uids(model=STAND_IN),
        uids(settings={"crop": "none"}),
        uids(warnings=("A lateral view.",)),
        uids(dataset(PatientName=b"Roe^Jane")),
        uids(dataset(SOPInstanceUID=b"1.2.3.4")),
        uids(dataset(StudyInstanceUID=b"1.2.3.5")),
    ]
    assert len({instance for instance, _ in others}) == len(others)
    assert all(re.fullmatch(r"2\.25\.[1-9]\d{30,38}", uid) for pair in others for uid in pair)


def test_one_series_for_each_study_and_model() -> None:
    assert uids()[1] == uids(dataset(SOPInstanceUID=b"1.2.3.4"), warnings=("A lateral view.",))[1]
    assert uids()[1] != uids(dataset(StudyInstanceUID=b"1.2.3.5"))[1]
    assert uids()[1] != uids(model=STAND_IN)[1]


def test_a_rounding_difference_between_machines_is_no_second_report() -> None:
    assert uids() == uids(scores={label: score + 1e-9 for label, score in SCORES.items()})


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
