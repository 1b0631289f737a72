"""A disk that is full when the report comes, and images that are deleted while somebody works on them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from demo.phantoms import to_bytes
from tests.faults.conftest import Start
from tests.faults.counting import expect_one_report_each, wait_until_idle
from tests.faults.images import image, images
from tests.faults.within import Hold
from tests.pacs import wait_for

SMALL_DISK = 512 << 10


def test_a_full_disk_is_waited_for_with_growing_pauses(start: Start, tmp_path: Path) -> None:
    """A file system with room for the images, but not for a report of 44 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o size={SMALL_DISK} none "$0" && exec "$@"'
    within = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(disk)]
    with start({"StorageDirectory": str(disk)}, within=within) as pacs:
        pacs.wait_until_ready()
        other = image(1, rows=490, columns=490)  # nothing of ours, and large
        other.Modality = "OT"
        filler = pacs.upload(to_bytes(other))
        instance = pacs.upload(to_bytes(image(0, rows=64, columns=64)))

        def waited() -> list[int] | None:
            pauses = re.findall(r"is tried again in (\d+) s: (.*)", pacs.log())
            assert all("POST /instances" in reason for _, reason in pauses), pauses
            return [int(pause) for pause, _ in pauses] if len(pauses) >= 3 else None

        assert wait_for(waited, 60, pacs.log)[:3] == [1, 2, 4]
        assert pacs.get(f"/instances/{instance}/chest-xray")["state"] == "pending"
        assert pacs.get("/chest-xray/status")["pending"] == 1
        assert pacs.reports_beside(instance) == []
        pacs.session.delete(f"{pacs.url}/instances/{filler}", timeout=10)
        assert pacs.result(instance, 30)["state"] == "done"
        expect_one_report_each(pacs, 1)
        print([line for line in pacs.log().splitlines() if "tried again" in line])


@pytest.mark.parametrize("method", ["version", "file", "store", "documents", "mark"])
def test_an_image_that_is_deleted_meanwhile_leaves_no_trace(start: Start, tmp_path: Path, method: str) -> None:
    hold = Hold(tmp_path, method)
    with start({"ChestXRay": {"Workers": 1}}, **hold.environ) as pacs:
        pacs.wait_until_ready()
        with hold:
            deleted = [pacs.upload(data) for data in images(3)]  # one in work, and two that wait
            hold.wait_until_reached(pacs)
            for instance in deleted:
                pacs.session.delete(f"{pacs.url}/instances/{instance}", timeout=10)
        (data,) = images(1, first=3)
        kept = pacs.upload(data)
        assert pacs.result(kept)["state"] == "done"
        wait_until_idle(pacs, 1)
        expect_one_report_each(pacs, 1)
        assert "tried again" not in pacs.log()
        assert "Traceback" not in pacs.log()
        status = pacs.get("/chest-xray/status")
        assert (status["done"], status["failed"], status["pending"]) == (1, 0, 0)
