"""Studies that Orthanc copies with our reports in them, and reports from another Orthanc: no echo, and no loop."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from demo.phantoms import to_bytes
from tests.faults.conftest import Start
from tests.faults.counting import wait_until_idle
from tests.faults.images import image, images
from tests.pacs import Pacs, wait_for

COPIES: dict[str, dict[str, Any]] = {
    "anonymize": {},
    "modify": {"Replace": {"StudyDescription": "Another one"}},
}


def contents(pacs: Pacs) -> dict[str, Counter[str]]:
    """How many images and reports each study holds."""
    found: dict[str, Counter[str]] = {study: Counter() for study in pacs.get("/studies")}
    for series in pacs.get("/series?expand"):
        kind = "report" if series["MainDicomTags"]["Modality"] == "SR" else "image"
        found[series["ParentStudy"]][kind] += len(series["Instances"])
    return found


def expect_as_many_reports_as_images(pacs: Pacs, images_each: list[int]) -> None:
    wait_until_idle(pacs, sum(images_each))

    def settled() -> bool | None:
        each = list(contents(pacs).values())
        return (
            sorted(one["image"] for one in each) == images_each and all(one["image"] == one["report"] for one in each)
        ) or None

    wait_for(settled, 20, lambda: f"{contents(pacs)}\n{pacs.log()[-3000:]}")

    def quiet() -> bool | None:
        """Nothing is written for a second; a loop would never let that happen."""
        position = pacs.get("/changes?last")["Last"]
        time.sleep(1)
        return pacs.get("/changes?last")["Last"] == position or None

    wait_for(quiet, 20, pacs.log)
    assert settled()


def ask(pacs: Pacs, path: str, body: dict[str, Any]) -> None:
    answer = pacs.session.post(pacs.url + path, json=body, timeout=60)
    assert answer.ok, answer.text


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_study_has_one_report_for_each_image(start: Start, how: str) -> None:
    with start() as pacs:
        pacs.wait_until_ready()
        for number in range(3):
            ds = image(number)
            ds.PatientID, ds.StudyInstanceUID = "TOGETHER", image(0).StudyInstanceUID
            instance = pacs.upload(to_bytes(ds))
            assert pacs.result(instance)["state"] == "done"
        study = pacs.get(f"/instances/{instance}/study")["ID"]
        ask(pacs, f"/studies/{study}/{how}", COPIES[how])
        expect_as_many_reports_as_images(pacs, [3, 3])


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
