"""Studies that Orthanc copies with our reports in them, and reports from another Orthanc: no echo, and no loop."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from bench.whole_system import WITHOUT_US
from demo.phantoms import to_bytes
from plugin import stand_in, weights
from plugin.dispatcher import MOVING
from plugin.provenance import ORTHANCS_ROOT
from tests.faults.conftest import Start
from tests.faults.counting import wait_until_idle
from tests.faults.images import image, images
from tests.faults.test_model_file import has_torch
from tests.faults.test_overwriting import with_other_pixels
from tests.faults.within import Hold
from tests.pacs import Pacs, wait_for

KEPT = {"Keep": ["SOPInstanceUID"], "Force": True}

COPIES: dict[str, tuple[str, dict[str, Any]]] = {
    "anonymized": ("anonymize", {}),
    "anonymized with its SOPInstanceUIDs": ("anonymize", KEPT),
    "modified": ("modify", {"Replace": {"StudyDescription": "Another one"}}),
    "modified with its SOPInstanceUIDs": ("modify", KEPT | {"Replace": {"StudyDescription": "Another one"}}),
    "of another maker": ("modify", {"Replace": {"Manufacturer": "Another one"}}),
    "anonymized and of another maker": ("anonymize", {"Replace": {"Manufacturer": "Another one"}}),
    "anonymized and of another modality": ("anonymize", {"Replace": {"Modality": "CR"}, "Force": True}),
}

ALL = "sr,secondary-capture,pdf"
KINDS = {"SR": "report", "OT": "picture", "DOC": "page"}


def contents(pacs: Pacs) -> dict[str, Counter[str]]:
    """How many images and reports each study holds, and pictures and pages, if any."""
    found: dict[str, Counter[str]] = {study: Counter() for study in pacs.get("/studies")}
    for series in pacs.get("/series?expand"):
        kind = KINDS.get(series["MainDicomTags"]["Modality"], "image")
        found[series["ParentStudy"]][kind] += len(series["Instances"])
    return found


def expect_as_many_reports_as_images(pacs: Pacs, images_each: list[int]) -> None:
    wait_until_idle(pacs, sum(images_each))

    def settled() -> bool | None:
        each = list(contents(pacs).values())
        return (
            sorted(one["image"] for one in each) == images_each
            and all("report" in one and set(one.values()) == {one["image"]} for one in each)
        ) or None

    wait_for(settled, 20, lambda: state_of(pacs))
    expect_quiet(pacs)
    assert settled()


def state_of(pacs: Pacs) -> str:
    return f"{contents(pacs)}\n{pacs.log()[-3000:]}"


def expect_quiet(pacs: Pacs) -> None:
    def quiet() -> bool | None:
        """Nothing is written for longer than documents are left alone; a loop would never let that happen."""
        position = pacs.get("/changes?last")["Last"]
        time.sleep(MOVING + 1)
        return pacs.get("/changes?last")["Last"] == position or None

    wait_for(quiet, 20, pacs.log)


def ask(pacs: Pacs, path: str, body: dict[str, Any]) -> None:
    answer = pacs.session.post(pacs.url + path, json=body, timeout=60)
    assert answer.ok, answer.text


def three_in_one_study(pacs: Pacs) -> str:
    pacs.wait_until_ready()
    for number in range(3):
        ds = image(number)
        ds.PatientID, ds.StudyInstanceUID = "TOGETHER", image(0).StudyInstanceUID
        instance = pacs.upload(to_bytes(ds))
        assert pacs.result(instance)["state"] == "done"
    study: str = pacs.get(f"/instances/{instance}/study")["ID"]
    return study


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_study_has_one_report_for_each_image(start: Start, how: str) -> None:
    with start(OUTPUTS=ALL) as pacs:
        study = three_in_one_study(pacs)
        request, body = COPIES[how]
        ask(pacs, f"/studies/{study}/{request}", body)
        expect_as_many_reports_as_images(pacs, [3, 3])


def test_what_is_modified_in_its_place_has_one_report_for_each_image(start: Start) -> None:
    with start({"OverwriteInstances": True}, OUTPUTS=ALL) as pacs:
        study = three_in_one_study(pacs)
        kept = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
        ask(pacs, f"/studies/{study}/modify", {"Replace": {"StudyDescription": "New"}, "Keep": kept, "Force": True})
        expect_as_many_reports_as_images(pacs, [3])


def test_nothing_of_ours_stays_on_an_image_that_is_skipped_now(start: Start) -> None:
    with start(OUTPUTS=ALL) as pacs:
        pacs.wait_until_ready()
        instance = pacs.upload(to_bytes(image(0)))
        assert pacs.result(instance)["state"] == "done"
        study = pacs.get(f"/instances/{instance}/study")["ID"]
        changes = {"PatientName": "NEW^N", "BodyPartExamined": "HAND"}
        ask(pacs, f"/studies/{study}/modify", {"Replace": changes, "Force": True, "KeepSource": False})
        wait_for(lambda: list(contents(pacs).values()) == [{"image": 1}] or None, 20, lambda: state_of(pacs))
        expect_quiet(pacs)
        assert list(contents(pacs).values()) == [{"image": 1}]


ALONE: dict[str, tuple[str, dict[str, Any]]] = {
    "split": ("split", {"KeepSource": True}),
    "split away": ("split", {"KeepSource": False}),
    "anonymized": ("anonymize", {"KeepSource": True}),
    "modified": ("modify", {"KeepSource": True, "Replace": {"SeriesDescription": "New"}}),
    "modified away": ("modify", {"KeepSource": False, "Replace": {"SeriesDescription": "New"}}),
}
"""Not what is anonymised away: nothing in it tells any more where it came from."""


@pytest.mark.parametrize("how", ALONE)
def test_a_document_that_leaves_its_image_does_not_stay(start: Start, how: str) -> None:
    """And where it was moved, its image has another one."""
    with start(OUTPUTS=ALL) as pacs:
        pacs.wait_until_ready()
        instance = pacs.upload(to_bytes(image(0)))
        assert pacs.result(instance)["state"] == "done"
        study = pacs.get(f"/instances/{instance}/study")["ID"]
        ours = [one["ID"] for one in pacs.get(f"/studies/{study}/series") if instance not in one["Instances"]]
        assert len(ours) == 3
        request, body = ALONE[how]
        if request == "split":
            ask(pacs, f"/studies/{study}/split", body | {"Series": ours})
        else:
            for one in ours:
                ask(pacs, f"/series/{one}/{request}", body)
        expect_as_many_reports_as_images(pacs, [1])
        assert pacs.result(instance)["state"] == "done"


def test_merged_and_split_studies_have_one_report_for_each_image(start: Start) -> None:
    with start() as pacs:
        pacs.wait_until_ready()
        one, other = (pacs.result(pacs.upload(data))["instance"] for data in images(2))
        studies = [pacs.get(f"/instances/{instance}/study")["ID"] for instance in (one, other)]
        ask(pacs, f"/studies/{studies[0]}/merge", {"Resources": [studies[1]], "KeepSource": False})
        expect_as_many_reports_as_images(pacs, [2])
        series = pacs.get(f"/studies/{studies[0]}/series")
        (old,) = [each["ID"] for each in series if one in each["Instances"]]
        ask(pacs, f"/studies/{studies[0]}/split", {"Series": [old], "KeepSource": True})
        expect_as_many_reports_as_images(pacs, [1, 2])


@pytest.mark.parametrize("report_first", [True, False])
def test_a_report_from_another_orthanc_is_the_same_report(start: Start, report_first: bool) -> None:
    (data,) = images(1)
    with start(name="there") as there:
        there.wait_until_ready()
        report = there.result(there.upload(data))["sr"]["instance"]
        sent = [data, there.session.get(f"{there.url}/instances/{report}/file", timeout=10).content]
    with start(name="here") as here:
        here.wait_until_ready()
        for file in sent[:: -1 if report_first else 1]:
            here.upload(file)
        expect_as_many_reports_as_images(here, [1])
        here.upload(sent[1])
        expect_as_many_reports_as_images(here, [1])


def copy_of(data: bytes) -> bytes:
    """The same under another SOPInstanceUID, as Orthanc gives them."""
    ds = pydicom.dcmread(BytesIO(data))
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(ORTHANCS_ROOT)
    return to_bytes(ds)


def test_a_copy_of_a_report_that_comes_afterwards_does_not_stay(start: Start) -> None:
    with start() as pacs:
        pacs.wait_until_ready()
        files = (to_bytes(image(0)), to_bytes(image(1, rows=100)))
        one, other = (pacs.result(pacs.upload(data)) for data in files)
        report = pacs.file(one["sr"]["instance"])
        for _ in range(3):
            pacs.upload(copy_of(report))
        wait_for(lambda: pacs.reports_beside(one["instance"]) == [one["sr"]["instance"]] or None, 20, pacs.log)
        ds = pydicom.dcmread(BytesIO(copy_of(report)))
        study = pydicom.dcmread(BytesIO(pacs.file(other["instance"])))
        ds.PatientID, ds.StudyInstanceUID = study.PatientID, study.StudyInstanceUID
        ds.SeriesInstanceUID = generate_uid()
        pacs.upload(to_bytes(ds))
        wait_for(lambda: pacs.reports_beside(other["instance"]) == [other["sr"]["instance"]] or None, 20, pacs.log)
        expect_quiet(pacs)
        assert len(pacs.reports_beside(one["instance"])) == 1
        assert [pacs.result(each["instance"]) for each in (one, other)] == [one, other]  # nothing was done again


def another_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setattr(stand_in, "SEED", 7)
    file = folder / "another.pt"
    return {"WEIGHTS": str(file), "WEIGHTS_SHA256": weights.write_stand_in(file)}


def report_from_elsewhere(start: Start, data: bytes, **model: str) -> bytes:
    with start(name="there", **model) as there:
        there.wait_until_ready()
        return there.file(there.result(there.upload(data))["sr"]["instance"])


@pytest.mark.parametrize("report_first", [True, pytest.param(False, marks=has_torch)])
def test_a_report_from_another_orthanc_goes_with_its_image(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, report_first: bool
) -> None:
    """One that stood there before ours, and one by another model that came afterwards."""
    data, model = to_bytes(image(0)), {}
    if not report_first:
        model = another_model(tmp_path, monkeypatch)
    report = report_from_elsewhere(start, data, **model)
    with start(name="here") as here:
        here.wait_until_ready()
        for file in (report, data) if report_first else (data, report):
            instance = here.upload(file)
            if file is data:
                here.result(instance)
        expect_quiet(here)
        (found,) = contents(here).values()
        assert found == {"image": 1, "report": 1 if report_first else 2}
        here.session.delete(f"{here.url}/instances/{here.upload(data)}", timeout=10)
        wait_for(lambda: not here.get("/instances") or None, 20, lambda: state_of(here))


@has_torch
def test_a_report_by_another_model_goes_with_an_image_that_is_deleted_without_the_plugin(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = to_bytes(image(0))
    report = report_from_elsewhere(start, data, **another_model(tmp_path, monkeypatch))
    with start(name="here") as here:
        here.wait_until_ready()
        instance = here.upload(data)
        here.result(instance)
        here.upload(report)
        expect_quiet(here)
        assert len(here.reports_beside(instance)) == 2
    with start(WITHOUT_US, name="here") as here:
        here.session.delete(f"{here.url}/instances/{instance}", timeout=10)
        assert len(here.get("/instances")) == 2
    with start(name="here") as here:
        wait_for(lambda: not here.get("/instances") or None, 30, lambda: state_of(here))


@pytest.mark.parametrize("running", [True, False])
def test_a_report_from_another_orthanc_goes_with_an_image_that_is_skipped_here(start: Start, running: bool) -> None:
    ds = image(0)
    ds.BodyPartExamined = "SHOULDERGIRDLE"
    report, here_only = report_from_elsewhere(start, to_bytes(ds)), {"ChestXRay": {"BodyParts": [ds.BodyPartExamined]}}
    with start(here_only, name="here") as here:
        here.wait_until_ready()
        instance = here.upload(to_bytes(ds))
        assert here.result(instance)["state"] == "skipped"
        here.upload(report)
        expect_quiet(here)
        assert len(here.reports_beside(instance)) == 1
        if running:
            here.session.delete(f"{here.url}/instances/{instance}", timeout=10)
            wait_for(lambda: not here.get("/instances") or None, 30, lambda: state_of(here))
    if not running:
        with start(WITHOUT_US, name="here") as here:
            here.session.delete(f"{here.url}/instances/{instance}", timeout=10)
        with start(here_only, name="here") as here:
            wait_for(lambda: not here.get("/instances") or None, 30, lambda: state_of(here))


def test_a_copy_of_a_report_under_another_modality_waits_for_no_image(start: Start) -> None:
    """Its image was there before the plugin; when that is classified, the copy goes."""
    data = to_bytes(image(0))
    ds = pydicom.dcmread(BytesIO(copy_of(report_from_elsewhere(start, data))))
    ds.Modality, ds.SeriesInstanceUID = "CR", generate_uid()
    with start(WITHOUT_US, name="here") as here:
        instance = here.upload(data)
    with start(name="here") as here:
        here.wait_until_ready()
        copy = here.upload(to_bytes(ds))
        assert here.result(copy)["state"] == "skipped"
        here.session.post(f"{here.url}/instances/{instance}/chest-xray", timeout=10)
        assert here.result(instance)["state"] == "done"
        expect_as_many_reports_as_images(here, [1])


def test_a_forged_mark_takes_no_other_image_s_report_along(start: Start) -> None:
    with start() as pacs:
        pacs.wait_until_ready()
        ds, other = image(0), image(1)
        other.PatientID, other.StudyInstanceUID = ds.PatientID, ds.StudyInstanceUID
        forged, kept = (pacs.result(pacs.upload(to_bytes(one))) for one in (ds, other))
        mark = json.dumps({**forged, "sr": kept["sr"]})
        pacs.session.put(f"{pacs.url}/instances/{forged['instance']}/metadata/4750", data=mark, timeout=10)
        expect_quiet(pacs)
        pacs.session.delete(f"{pacs.url}/instances/{forged['instance']}", timeout=10)
        expect_as_many_reports_as_images(pacs, [1])
        assert pacs.reports_beside(kept["instance"]) == [kept["sr"]["instance"]]


def test_a_report_that_is_split_away_from_an_image_which_is_deleted_at_once_goes(start: Start) -> None:
    with start() as pacs:
        pacs.wait_until_ready()
        result = pacs.result(pacs.upload(to_bytes(image(0))))
        study = pacs.get(f"/instances/{result['instance']}/study")["ID"]
        series = pacs.get(f"/instances/{result['sr']['instance']}/series")["ID"]
        ask(pacs, f"/studies/{study}/split", {"Series": [series], "Replace": {"PatientID": "ELSEWHERE"}})
        pacs.session.delete(f"{pacs.url}/instances/{result['instance']}", timeout=10)
        wait_for(lambda: not pacs.get("/instances") or None, 20, lambda: state_of(pacs))


def test_what_a_person_verified_stays_whatever_its_metadata_say(start: Start) -> None:
    with start() as pacs:
        pacs.wait_until_ready()
        result = pacs.result(pacs.upload(to_bytes(image(0))))
        theirs = pacs.upload(to_bytes(verified(pacs.report(result))))
        pacs.session.put(f"{pacs.url}/instances/{theirs}/metadata/4753", data="garbage", timeout=10)
        expect_quiet(pacs)
    with start() as pacs:
        pacs.wait_until_ready()
        expect_quiet(pacs)
        assert theirs in pacs.get("/instances")


@pytest.mark.parametrize("how", ["split", "delete"])
def test_a_report_goes_with_its_image(start: Start, how: str) -> None:
    with start() as pacs:
        pacs.wait_until_ready()
        ds, kept = image(0), image(1)
        kept.PatientID, kept.StudyInstanceUID = ds.PatientID, ds.StudyInstanceUID
        goes, stays = (pacs.result(pacs.upload(to_bytes(one))) for one in (ds, kept))
        series = pacs.get(f"/instances/{goes['instance']}/series")["ID"]
        wait_until_idle(pacs, 2)
        if how == "split":
            study = pacs.get(f"/instances/{goes['instance']}/study")["ID"]
            ask(pacs, f"/studies/{study}/split", {"Series": [series], "KeepSource": False})
            expect_as_many_reports_as_images(pacs, [1, 1])
        else:
            pacs.session.delete(f"{pacs.url}/series/{series}", timeout=10)
            expect_as_many_reports_as_images(pacs, [1])
        assert pacs.reports_beside(stays["instance"]) == [stays["sr"]["instance"]]


def test_a_report_goes_with_its_image_when_that_is_deleted_without_the_plugin(start: Start) -> None:
    ds, kept = image(0), image(1)
    kept.PatientID, kept.StudyInstanceUID = ds.PatientID, ds.StudyInstanceUID
    with start(OUTPUTS=ALL) as pacs:
        pacs.wait_until_ready()
        goes, stays = (pacs.result(pacs.upload(to_bytes(one))) for one in (ds, kept))
    with start(WITHOUT_US) as pacs:
        pacs.session.delete(f"{pacs.url}/instances/{goes['instance']}", timeout=10)
        assert len(pacs.reports_beside(stays["instance"])) == 2
    with start(OUTPUTS=ALL) as pacs:
        expect_as_many_reports_as_images(pacs, [1])
        assert pacs.reports_beside(stays["instance"]) == [stays["sr"]["instance"]]


def of_somebody(ds: Dataset) -> Dataset:
    ds.SeriesInstanceUID = generate_uid()
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    return ds


def annotated(ds: Dataset) -> Dataset:
    return of_somebody(ds)


def verified(ds: Dataset) -> Dataset:
    ds.VerificationFlag, ds.VerifyingObserverSequence = "VERIFIED", [Dataset()]
    return of_somebody(ds)


def another_product(ds: Dataset) -> Dataset:
    ds.Manufacturer, ds.ManufacturerModelName = "ACME", "TorchXRayVision wrapper of our hospital"
    del ds.ContributingEquipmentSequence
    return of_somebody(ds)


@pytest.mark.parametrize("made", [annotated, verified, another_product])
def test_what_people_and_other_products_made_stays(start: Start, made: Callable[[Dataset], Dataset]) -> None:
    with start(OUTPUTS=ALL) as pacs:
        pacs.wait_until_ready()
        result = pacs.result(pacs.upload(to_bytes(image(0))))
        documents = [result["sr"], *result["outputs"]] if made is not verified else [result["sr"]]
        theirs = [to_bytes(made(pydicom.dcmread(BytesIO(pacs.file(one["instance"]))))) for one in documents]
        stored = {pacs.upload(data) for data in theirs}
        expect_quiet(pacs)
        assert stored <= set(pacs.get("/instances"))
        if made is annotated:
            return  # what Orthanc makes of such a one is told from a copy of ours by nothing that stands in it
        study = pacs.get(f"/instances/{result['instance']}/study")["ID"]
        ask(pacs, f"/studies/{study}/modify", {"Replace": {"StudyDescription": "Another one"}})
        wait_until_idle(pacs, 2)
        expect_quiet(pacs)
        assert stored <= set(pacs.get("/instances"))
        assert len(pacs.get("/instances")) == 2 * (4 + len(theirs))


@pytest.mark.parametrize("moment", ["unmark", "delete"])
def test_a_document_that_was_moved_comes_back_even_if_orthanc_ends_meanwhile(
    start: Start, tmp_path: Path, moment: str
) -> None:
    hold = Hold(tmp_path, moment)
    with start(**hold.environ) as pacs:
        pacs.wait_until_ready()
        result = pacs.result(pacs.upload(to_bytes(image(0))))
        study = pacs.get(f"/instances/{result['instance']}/study")["ID"]
        series = pacs.get(f"/instances/{result['sr']['instance']}/series")["ID"]
        with hold:
            ask(pacs, f"/studies/{study}/split", {"Series": [series], "KeepSource": False})
            hold.wait_until_reached(pacs)
            pacs.kill()
        pacs.start()
        pacs.wait_until_ready()
        expect_as_many_reports_as_images(pacs, [1])


def test_a_report_on_pixels_that_are_gone_does_not_come_back(start: Start) -> None:
    with start({"OverwriteInstances": True}, OUTPUTS=ALL) as pacs:
        pacs.wait_until_ready()
        before = pacs.result(pacs.upload(to_bytes(image(0))))
        files = [pacs.file(one["instance"]) for one in (before["sr"], *before["outputs"])]
        pacs.upload(with_other_pixels())
        wait_for(lambda: before["sr"]["instance"] not in pacs.reports_beside(before["instance"]) or None, 60, pacs.log)
        for data in files:
            pacs.upload(data)
        expect_as_many_reports_as_images(pacs, [1])
        assert before["sr"]["instance"] not in pacs.reports_beside(before["instance"])


def test_what_becomes_something_else_loses_its_report(start: Start) -> None:
    with start({"OverwriteInstances": True}, OUTPUTS=ALL) as pacs:
        pacs.wait_until_ready()
        pacs.result(pacs.upload(to_bytes(image(0))))
        pacs.upload(with_other_pixels(Modality="XA"))
        wait_for(lambda: list(contents(pacs).values()) == [{"image": 1}] or None, 20, lambda: state_of(pacs))


def test_what_was_deleted_by_hand_stays_deleted(start: Start) -> None:
    with start(OUTPUTS=ALL) as pacs:
        pacs.wait_until_ready()
        result = pacs.result(pacs.upload(to_bytes(image(0))))
        page = result["outputs"][-1]["instance"]
        pacs.session.delete(f"{pacs.url}/instances/{page}", timeout=10)
        pacs.upload(copy_of(pacs.file(result["sr"]["instance"])))
        expect_quiet(pacs)
        assert list(contents(pacs).values()) == [{"image": 1, "report": 1, "picture": 1}]


def elsewhere(data: bytes) -> bytes:
    ds = pydicom.dcmread(BytesIO(data))
    ds.PatientID, ds.StudyInstanceUID = "ELSEWHERE", generate_uid()
    return to_bytes(of_somebody(ds))


@pytest.mark.parametrize("accounts", [True, False])
@pytest.mark.parametrize("change", [bytes, elsewhere])
def test_documents_without_their_image_stay(start: Start, accounts: bool, change: Callable[[bytes], bytes]) -> None:
    with start(name="there", OUTPUTS=ALL) as there:
        there.wait_until_ready()
        result = there.result(there.upload(to_bytes(image(0))))
        files = [there.file(one["instance"]) for one in (result["sr"], *result["outputs"])]
    sent: set[str] = set()
    for _ in range(2):  # after a restart, too
        with start({"AuthenticationEnabled": accounts}, name="here") as here:
            here.wait_until_ready()
            here.session.auth = here.session.auth if accounts else None
            sent.update(here.upload(change(data)) for data in files)
            expect_quiet(here)
            assert set(here.get("/instances")) == sent


def test_a_document_about_no_possible_image_harms_nobody(start: Start) -> None:
    with start(OUTPUTS=ALL) as pacs:
        pacs.wait_until_ready()
        ds, second = image(0), image(1)
        second.PatientID, second.StudyInstanceUID = ds.PatientID, ds.StudyInstanceUID
        result = pacs.result(pacs.upload(to_bytes(ds)))
        odd = pydicom.dcmread(BytesIO(copy_of(pacs.file(result["outputs"][-1]["instance"]))))
        odd.SourceInstanceSequence[0].ReferencedSOPInstanceUID = "*"
        pacs.upload(to_bytes(odd))
        assert pacs.result(pacs.upload(to_bytes(second)))["state"] == "done"
        expect_quiet(pacs)


def test_what_stays_has_its_report_when_another_image_is_split_away_with_it(start: Start) -> None:
    with start() as pacs:
        pacs.wait_until_ready()
        ds, second = image(0), image(1)
        second.PatientID, second.StudyInstanceUID = ds.PatientID, ds.StudyInstanceUID
        stays, goes = (pacs.result(pacs.upload(to_bytes(one)))["instance"] for one in (ds, second))
        study = pacs.get(f"/instances/{goes}/study")["ID"]
        series = [one["ID"] for one in pacs.get(f"/studies/{study}/series") if stays not in one["Instances"]]
        ask(pacs, f"/studies/{study}/split", {"Series": series, "KeepSource": False})
        expect_as_many_reports_as_images(pacs, [1, 1])
