"""A disk that is full when the report comes, and images that are deleted while somebody works on them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path

import pytest

from demo.phantoms import to_bytes
from tests.faults.conftest import Start
from tests.faults.counting import expect_one_report_each, wait_until_idle
from tests.faults.images import image, images
from tests.faults.within import Hold
from tests.pacs import Pacs, wait_for

SMALL_DISK = 512 << 10


def waited(pacs: Pacs) -> list[int] | None:
    """The pauses after which a report was sent again, in seconds, once there were three."""
    pauses = re.findall(r"is tried again in (\d+) s: (.*)", pacs.log())
    assert all("POST /instances" in reason for _, reason in pauses), pauses
    return [int(pause) for pause, _ in pauses] if len(pauses) >= 3 else None


def expect_to_wait_until(pacs: Pacs, instance: str, make_room: Callable[[], None]) -> None:
    assert wait_for(lambda: waited(pacs), 60, pacs.log)[:3] == [1, 2, 4]
    assert pacs.get(f"/instances/{instance}/chest-xray")["state"] == "pending"
    assert pacs.get("/chest-xray/status")["pending"] == 1
    assert pacs.reports_beside(instance) == []
    make_room()
    assert pacs.result(instance, 30)["state"] == "done"
    expect_one_report_each(pacs, 1)
    print([line for line in pacs.log().splitlines() if "tried again" in line])


def not_ours(number: int, side: int) -> bytes:
    """To fill a disk with."""
    ds = image(number, rows=side, columns=side)
    ds.Modality = "OT"
    return to_bytes(ds)


def test_a_full_disk_is_waited_for_with_growing_pauses(start: Start) -> None:
    """A file system with room for the images, but not for a report of 44 KB."""
    with start(disk=SMALL_DISK) as pacs:
        pacs.wait_until_ready()
        filler = pacs.upload(not_ours(1, 490))
        instance = pacs.upload(to_bytes(image(0, rows=64, columns=64)))
        expect_to_wait_until(pacs, instance, lambda: delete(pacs, [filler]))


def test_a_quota_that_is_used_up_is_waited_for_with_growing_pauses(start: Start, tmp_path: Path) -> None:
    """Orthanc 1.13 answers 507. 1.10 answers 500, and only for patients that it may not delete to make room."""
    hold = Hold(tmp_path, "store")
    with start({"MaximumStorageSize": 1, "MaximumStorageMode": "Reject"}, **hold.environ) as pacs:
        pacs.wait_until_ready()
        with hold:
            instance = pacs.upload(to_bytes(image(0)))
            hold.wait_until_reached(pacs)
            fillers, numbers = [], count(1)
            for side in (256, 64):  # 130 KB, then 10
                while pacs.session.post(f"{pacs.url}/instances", data=not_ours(next(numbers), side), timeout=10).ok:
                    fillers = [one for one in pacs.get("/instances") if one != instance]
                    for patient in pacs.get("/patients"):
                        pacs.session.put(f"{pacs.url}/patients/{patient}/protected", data="1", timeout=10)
        expect_to_wait_until(pacs, instance, lambda: delete(pacs, fillers))
        assert "The file storage is full" in pacs.log()


def delete(pacs: Pacs, instances: Iterable[str]) -> None:
    for instance in instances:
        pacs.session.delete(f"{pacs.url}/instances/{instance}", timeout=10)


@pytest.mark.parametrize("method", ["version", "file", "store", "documents", "mark"])
def test_an_image_that_is_deleted_meanwhile_leaves_no_trace(start: Start, tmp_path: Path, method: str) -> None:
    hold = Hold(tmp_path, method)
    with start({"ChestXRay": {"Workers": 1}}, **hold.environ) as pacs:
        pacs.wait_until_ready()
        with hold:
            deleted = [pacs.upload(data) for data in images(3)]  # one in work, and two that wait
            hold.wait_until_reached(pacs)
            delete(pacs, deleted)
        (data,) = images(1, first=3)
        kept = pacs.upload(data)
        result = pacs.result(kept)
        assert result["state"] == "done", (result, pacs.log()[-3000:])
        wait_until_idle(pacs, 1)
        expect_one_report_each(pacs, 1)
        assert "tried again" not in pacs.log()
        assert "Traceback" not in pacs.log()
        status = pacs.get("/chest-xray/status")
        assert (status["done"], status["failed"], status["pending"]) == (1, 0, 0)
