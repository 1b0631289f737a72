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
from pydicom import Dataset

from demo.serve import ROOT
from plugin import sr
from plugin.codes import FINDINGS, PRIVATE_SCHEME
from plugin.content import Blanks, content, encode, settings_of
from plugin.sr_reader import read
from tests.sr_reports import MODEL, NOON, REPORTS, SCORES, STAND_IN, report_on, written
from tests.sr_sources import dataset

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


def test_stand_in_weights_are_called_so_wherever_one_looks() -> None:
    ds = written(model=STAND_IN)
    assert "stand-in" in ds.SeriesDescription
    assert "stand-in" in read(ds)["comment"][0]
    assert read(ds)["model"]["weights"] == "stand-in"
    assert "stand-in" not in json.dumps(read(written())) + written().SeriesDescription


def test_a_label_outside_the_table_gets_a_private_code() -> None:
    codes = read(written(**REPORTS["fewer and unknown labels"]))["codes"]
    assert codes["Support Devices"]["finding"] == ["SUPPORT_DEVICES", PRIVATE_SCHEME, "Support Devices"]


def test_the_contributing_equipment_names_the_algorithm_and_its_weights() -> None:
    (equipment,), (other,) = (written(model=model).ContributingEquipmentSequence for model in (MODEL, STAND_IN))
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert equipment.Manufacturer == "orthanc-chest-xray"
    assert equipment.ManufacturerModelName == "TorchXRayVision densenet121-res224-all"
    assert equipment.SoftwareVersions == "1.5.7"
    assert equipment.DeviceUID != other.DeviceUID


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


def test_the_page_on_ihe_names_tests_that_exist() -> None:
    page = (ROOT / "docs/ihe-ai-results.md").read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_sr*.py"))
    named = set(re.findall(r"`(test_\w+)`", page))
    assert len(named) > 5
    assert {name for name in named if f"def {name}(" not in tests} == set()
