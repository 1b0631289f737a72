"""The same identifiers with other pixels, the same pixels again, and reports that Orthanc files elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from demo.phantoms import to_bytes
from tests.faults import within
from tests.faults.conftest import Start
from tests.faults.counting import expect_one_report_each, wait_until_idle
from tests.faults.images import image, images
from tests.faults.within import Hold
from tests.pacs import Pacs, wait_for
from tests.sr_sources import MISFILED, source_file

OVERWRITING = {"OverwriteInstances": True, "ChestXRay": {"TimeLimit": 5, "Attempts": 1}}


def with_other_pixels(**changes: Any) -> bytes:
    ds = image(0)
    ds.PixelData = bytes(len(ds.PixelData) // 2) + ds.PixelData[len(ds.PixelData) // 2 :]
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return to_bytes(ds)


@pytest.mark.parametrize("overwrite", [False, True])
def test_the_same_file_again_and_again(start: Start, overwrite: bool) -> None:
    with start({"OverwriteInstances": overwrite}) as pacs:
        pacs.wait_until_ready()
        for _ in range(5):
            for data in images(3):
                pacs.upload(data)
        expect_one_report_each(pacs, 3)


def test_without_overwriting_the_first_pixels_and_their_report_stay(start: Start) -> None:
    with start() as pacs:
        pacs.wait_until_ready()
        first = pacs.result(pacs.upload(to_bytes(image(0))))
        assert pacs.result(pacs.upload(with_other_pixels())) == first
        expect_one_report_each(pacs, 1)


ENDS: dict[str, dict[str, Any]] = {
    "done": {},
    "skipped": {"BodyPartExamined": "HAND"},
    "failed": {"PixelData": b"too little"},
    "given up": {"PatientName": "HANG"},
}


@pytest.mark.parametrize("end", ENDS)
def test_a_report_goes_with_the_pixels_that_it_describes(start: Start, end: str) -> None:
    with start(OVERWRITING, **within.environ("poison")) as pacs:
        pacs.wait_until_ready()
        before = pacs.result(pacs.upload(to_bytes(image(0))))
        pacs.upload(with_other_pixels(**ENDS[end]))

        def changed() -> dict[str, Any] | None:
            now: dict[str, Any] = pacs.get(f"/instances/{before['instance']}/chest-xray")
            return now if now["state"] != "pending" and now["created"] != before["created"] else None

        after = wait_for(changed, 60, pacs.log)
        assert after["state"] == end.replace("given up", "failed")
        expected = [after["sr"]["instance"]] if end == "done" else []
        assert pacs.reports_beside(before["instance"]) == expected
        assert before["sr"]["instance"] not in expected


def test_pixels_that_change_while_they_are_classified(start: Start, tmp_path: Path) -> None:
    hold = Hold(tmp_path, "store")
    with start(OVERWRITING, **hold.environ) as pacs:
        pacs.wait_until_ready()
        with hold:
            instance = pacs.upload(to_bytes(image(0)))
            hold.wait_until_reached(pacs)
            pacs.upload(with_other_pixels())
        result = wait_for(lambda: settled(pacs, instance), 60, pacs.log)
        (report,) = pacs.reports_beside(instance)
        assert result["sr"]["instance"] == report
        pacs.session.post(f"{pacs.url}/instances/{instance}/chest-xray", timeout=10)
        assert pacs.result(instance)["scores"] == result["scores"]  # those of the pixels that are there


def settled(pacs: Pacs, instance: str) -> dict[str, Any] | None:
    wait_until_idle(pacs, 1)
    result: dict[str, Any] = pacs.get(f"/instances/{instance}/chest-xray")
    return result if result["state"] == "done" else None


def test_a_misfiled_report_is_removed_after_a_crash_too(start: Start, tmp_path: Path) -> None:
    """Orthanc reads this PatientID otherwise than its SpecificCharacterSet says, so the report lands elsewhere."""
    data = source_file(next(iter(MISFILED)))
    hold = Hold(tmp_path, "delete")
    with start(**hold.environ) as pacs:
        pacs.wait_until_ready()
        with hold:
            instance = pacs.upload(data)
            hold.wait_until_reached(pacs)
            assert len(pacs.get("/studies")) == 2
            pacs.kill()
        pacs.start()
        assert pacs.result(instance)["state"] == "failed"
        assert len(pacs.get("/studies")) == 1
        assert pacs.reports_beside(instance) == []
