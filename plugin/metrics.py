"""What Prometheus is told, through Orthanc's own route /tools/metrics-prometheus.

Counters begin at 0 whenever Orthanc or the process beside it starts, as Prometheus expects of them. Pure.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

from plugin.worker import Outcome

KEYWORD = re.compile(r"(?:[A-Z][a-z]+|[A-Z]+(?=[A-Z])){2,}[A-Z]*|Modality")
"""A reason names the DICOM attribute that it is about as its keyword, at its beginning."""


class Metrics:
    """Counts what becomes of images and of workers."""

    def __init__(self) -> None:
        """Nothing has happened yet."""
        self._images: Counter[tuple[str, str]] = Counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._restarts = 0

    def finished(self, outcome: Outcome) -> None:
        """An image got its final state."""
        self._images[outcome.state, kind(outcome.reason)] += 1
        for step, milliseconds in outcome.milliseconds.items():
            self._seconds[step] += milliseconds / 1000

    def lost_worker(self) -> None:
        """A worker process ended and is started again."""
        self._restarts += 1

    def values(self, ready: bool, pending: int, oldest: float) -> dict[str, float]:
        """By name, with its labels.

        :param oldest: seconds for which an arrival, or what is to be done again, is pending at most.
        """
        return {
            "chest_xray_ready": float(ready),
            "chest_xray_pending": float(pending),
            "chest_xray_oldest_pending_seconds": round(oldest),
            "chest_xray_worker_restarts_total": float(self._restarts),
            **{
                f'chest_xray_images_total{{state="{state}",reason="{reason}"}}': float(number)
                for (state, reason), number in self._images.items()
            },
            **{
                f'chest_xray_step_seconds_total{{step="{step}"}}': round(seconds, 6)
                for step, seconds in self._seconds.items()
            },
        }


def kind(reason: str) -> str:
    """A word for a reason, one of few: a metric has no room for what stands in a file."""
    if not reason:
        return ""
    if reason.startswith("Given up"):
        return "given up"
    if found := KEYWORD.match(reason):
        return found[0]
    return "PixelData" if "pixel data" in reason.lower() or "PixelData" in reason else "other"
