"""The pool of worker processes, where something keeps it from starting."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from plugin import pool
from plugin.pool import WorkerPool
from plugin.settings import Connection, Settings
from tests.pacs import wait_for


@pytest.fixture
def started(prepared_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    """One that cannot start a process at first."""
    run, problems = subprocess.run, [BlockingIOError(11, "Resource temporarily unavailable"), MemoryError("no memory")]

    def short_of_everything(*arguments: Any, **named: Any) -> Any:
        if problems:
            raise problems.pop()
        return run(*arguments, **named)

    monkeypatch.setattr(subprocess, "run", short_of_everything)
    monkeypatch.setattr(pool, "LONGEST_PAUSE", 1.5)
    settings = Settings.read(
        {"Workers": 1, "Weights": "stand-in", "ModelFolder": str(prepared_model.parent)}, environ={}
    )
    made = WorkerPool(Connection("http://127.0.0.1:1", "nobody"), settings, lambda: None)
    yield made
    made.stop()


def test_it_goes_on_trying_where_no_process_can_be_started(started: WorkerPool) -> None:
    def said(problem: str) -> None:
        wait_for(lambda: problem in started.problem() or None, 20, started.problem)

    said("The worker processes cannot be started (MemoryError: no memory)")
    said("The worker processes cannot be started (BlockingIOError: [Errno 11] Resource temporarily unavailable)")
    wait_for(lambda: not started.problem() or None, 60, started.problem)


@pytest.mark.parametrize(
    ("took", "expected"),
    [(0.2, [2, 4, 8, 15, 15]), (2, [2, 4, 8, 16, 32, 40, 40]), (5, [2, 4, 8, 16, 32, 60, 60])],
)
def test_a_try_that_is_cheap_comes_again_sooner(took: float, expected: list[float]) -> None:
    pauses = accumulate(expected, lambda pause, _: pool.longer(pause, took), initial=1.0)
    assert list(pauses)[1:] == expected
