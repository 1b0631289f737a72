"""What stands in an archive in the end: every image with exactly one report, or with the reason why it has none."""

from __future__ import annotations

import time
from collections import Counter

from tests.pacs import Pacs, wait_for


def reports_by_study(pacs: Pacs) -> Counter[str]:
    """How many SR instances each study holds; 0 for a study that has none."""
    found = Counter(dict.fromkeys(pacs.get("/studies"), 0))
    for series in pacs.get("/series?expand"):
        if series["MainDicomTags"]["Modality"] == "SR":
            found[series["ParentStudy"]] += len(series["Instances"])
    return found


def wait_until_idle(pacs: Pacs, done: int, seconds: float = 300) -> None:
    """Until nothing is pending and so many images are done."""

    def idle() -> bool | None:
        time.sleep(0.2)  # Python plugin 4.0 loses a kilobyte at each request to a plugin's route
        status = pacs.get("/chest-xray/status")
        return (status["ready"] and not status["pending"] and status["done"] >= done) or None

    wait_for(idle, seconds, lambda: f"{pacs.get('/chest-xray/status')}\n{pacs.log()[-5000:]}")


def expect_one_report_each(pacs: Pacs, studies: int) -> None:
    """So many studies of one image each, and one report in every one: 0 lost, 0 doubled."""
    wait_until_idle(pacs, studies)
    reports = reports_by_study(pacs)
    assert len(reports) == studies
    assert Counter(reports.values()) == {1: studies}, {study: n for study, n in reports.items() if n != 1}
