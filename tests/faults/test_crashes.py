"""`kill -9`, of everything that we run and at every moment: nothing is lost by it, and nothing is done twice."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import FULL, Start
from tests.faults.counting import expect_one_report_each, wait_until_idle
from tests.faults.images import images
from tests.faults.within import Hold
from tests.pacs import Pacs, wait_for

ROUNDS = 20 if FULL else 3
EACH = 8  # images uploaded in one round


def a_worker(pacs: Pacs) -> None:
    wait_for(lambda: pacs.workers() or None, 30, pacs.log)[0].kill()  # the last one may be still to be replaced


def all_workers(pacs: Pacs) -> None:
    for worker in pacs.workers():
        worker.kill()


def the_companion(pacs: Pacs) -> None:
    pacs.companion().kill()


def orthanc(pacs: Pacs) -> None:
    pacs.kill()
    pacs.start()


@pytest.mark.parametrize("kill", [a_worker, all_workers, the_companion, orthanc])
def test_kills_at_random_moments_lose_and_double_nothing(start: Start, kill: Callable[[Pacs], None]) -> None:
    """An image whose worker is killed three times would be given up, so each round waits for its own."""
    moments = random.Random(kill.__name__)
    with start() as pacs:
        pacs.wait_until_ready()
        for turn in range(ROUNDS):
            for data in images(EACH, first=turn * EACH):
                pacs.upload(data)
            time.sleep(moments.uniform(0, 1))
            kill(pacs)
            wait_until_idle(pacs, (turn + 1) * EACH)
        expect_one_report_each(pacs, ROUNDS * EACH)
        assert pacs.get("/chest-xray/status")["failed"] == 0


def test_the_power_goes_again_and_again_before_anything_is_finished(start: Start) -> None:
    moments = random.Random("again")
    with start() as pacs:
        for turn in range(ROUNDS):
            for data in images(EACH, first=turn * EACH):
                pacs.upload(data)
            time.sleep(moments.uniform(0, 3))
            orthanc(pacs)
        expect_one_report_each(pacs, ROUNDS * EACH)


def test_the_power_goes_while_50_images_are_pending(start: Start, tmp_path: Path) -> None:
    missing = str(tmp_path / "not there yet")
    nothing_ready = {"WEIGHTS": missing, "WEIGHTS_SHA256": "0" * 64}
    pacs = start(**nothing_ready)
    pacs.start()
    for data in images(50):
        pacs.upload(data)
    wait_for(lambda: pacs.get("/chest-xray/status")["pending"] == 50 or None, 30, pacs.log)
    pacs.kill()
    with start() as pacs:
        expect_one_report_each(pacs, 50)


def test_the_power_goes_between_the_report_and_the_mark(start: Start, tmp_path: Path) -> None:
    hold = Hold(tmp_path, "mark")
    pacs = start(**hold.environ)
    with pacs:
        pacs.wait_until_ready()
        (data,) = images(1)
        with hold:
            instance = pacs.upload(data)
            hold.wait_until_reached(pacs)
            pacs.kill()
        pacs.start()
        (report,) = pacs.reports_beside(instance)  # stored before, and not marked
        assert pacs.result(instance)["sr"]["instance"] == report
        expect_one_report_each(pacs, 1)


def test_a_worker_that_was_killed_is_replaced_at_once(start: Start) -> None:
    """Idle or busy; the pool as a whole has to be started again in the former case."""
    with start({"ChestXRay": {"Workers": 1}}) as pacs:
        pacs.wait_until_ready()
        took: dict[str, float] = {}
        for number, moment in enumerate(("idle", "busy")):
            (data,) = images(1, first=number)
            if moment == "idle":
                all_workers(pacs)
            began = time.monotonic()
            instance = pacs.upload(data)
            if moment == "busy":
                time.sleep(0.02)
                all_workers(pacs)
            assert pacs.result(instance)["state"] == "done"
            took[moment] = time.monotonic() - began
        print("from the arrival to the result, with a kill -9 between:", took)
        assert max(took.values()) < 15
        wait_until_idle(pacs, 2)


def told_twice(log: str) -> list[str]:
    """Lines of the log that look like a fault of ours."""
    return [line for line in log.splitlines() if "Traceback" in line]


def test_kills_leave_no_traceback_in_the_log(start: Start) -> None:
    with start() as pacs:
        pacs.wait_until_ready()
        all_workers(pacs)
        (data,) = images(1)
        result: dict[str, Any] = pacs.result(pacs.upload(data))
        assert result["state"] == "done"
        assert told_twice(pacs.log()) == []
