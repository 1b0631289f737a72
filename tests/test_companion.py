"""The process beside Orthanc, with small real processes in its place."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil
import pytest

from plugin import companion
from plugin.__main__ import _hear, _listen
from plugin.companion import Companion

ECHO = """
import json, os, sys
print(json.dumps({"pid": os.getpid()}), flush=True)
for line in sys.stdin:
    print(json.dumps({"heard": json.loads(line)}), flush=True)
"""


class Ear:
    """Remembers what was said."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def __call__(self, what: str, value: Any) -> None:
        self.heard.append((what, value))

    def wait_for(self, condition: Callable[[list[tuple[str, Any]]], bool]) -> None:
        end = time.monotonic() + 10
        while not condition(self.heard):
            assert time.monotonic() < end, self.heard
            time.sleep(0.01)


def start(code: str, ear: Ear) -> Companion:
    return Companion([sys.executable, "-c", code], Path.cwd(), lambda: {"first": 1}, ear)


def test_there_is_room_for_a_patient_with_thousands_of_images() -> None:
    ear = Ear()
    child = start("import sys, time; print('{}', flush=True); time.sleep(1)\n" + ECHO, ear)
    ear.wait_for(lambda _: child._process is not None)
    for number in range(10_000):
        child.tell({"deleted": f"{number:044}"})
    ear.wait_for(lambda heard: ("heard", {"deleted": f"{9999:044}"}) in heard[-3:])
    assert len(ear.heard) == 10_002
    child.stop()


def test_messages_go_both_ways_and_it_ends_when_its_input_does() -> None:
    ear = Ear()
    child = start(ECHO, ear)
    ear.wait_for(lambda heard: ("heard", {"first": 1}) in heard)
    child.tell()
    child.tell({"deleted": "a"})
    ear.wait_for(lambda heard: ("heard", {"deleted": "a"}) in heard)
    assert ("heard", {}) in ear.heard
    pid = dict(ear.heard)["pid"]
    child.stop()
    assert not psutil.pid_exists(pid)
    assert "ended" not in dict(ear.heard)


def test_it_is_started_again_when_it_dies() -> None:
    ear = Ear()
    child = start(ECHO, ear)
    ear.wait_for(lambda heard: "pid" in dict(heard))
    psutil.Process(dict(ear.heard)["pid"]).kill()
    ear.wait_for(lambda heard: sum(what == "pid" for what, _ in heard) == 2)
    assert ("ended", 1.0) in ear.heard
    child.stop()


class Deaf(Ear):
    """Cannot do some of what it is told, as Orthanc on a full disk."""

    def __call__(self, what: str, value: Any) -> None:
        super().__call__(what, value)
        if what == "unheard":
            raise RuntimeError("Orthanc's own")


@pytest.mark.parametrize("line", ["half a li", "[1]", '{"unheard": 1}'])
def test_a_message_that_cannot_be_used_is_lost_and_nothing_else_is(line: str) -> None:
    ear = Deaf()
    child = start(f"print({line!r})\n{ECHO}", ear)
    ear.wait_for(lambda heard: ("heard", {"first": 1}) in heard)
    child.stop()
    (warning,) = [value for what, value in ear.heard if what == "warning"]
    assert warning.startswith("A message of the classifying process was lost")
    assert "ended" not in dict(ear.heard)


def test_a_first_message_that_orthanc_cannot_give_is_asked_for_again() -> None:
    ear, times = Ear(), iter([RuntimeError("Orthanc's own")])

    def first() -> dict[str, Any]:
        for problem in times:
            raise problem
        return {"first": 1}

    child = Companion([sys.executable, "-c", ECHO], Path.cwd(), first, ear)
    ear.wait_for(lambda heard: ("heard", {"first": 1}) in heard)
    child.stop()
    assert ("warning", "The classifying process cannot be started (RuntimeError)") in ear.heard


def test_one_that_cannot_start_is_tried_with_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    ear = Ear()
    monkeypatch.setattr(companion, "LONGEST_PAUSE", 0.01)
    child = Companion(["/nowhere/python"], Path.cwd(), dict, ear)
    ear.wait_for(lambda heard: len(heard) >= 4)
    child.stop()
    assert ear.heard[0] == ("warning", "/nowhere/python could not be run: No such file or directory")
    assert ear.heard[1][0] == "ended"


def test_a_process_that_does_not_listen_blocks_nobody() -> None:
    ear = Ear()
    child = start('import json, time; print(json.dumps({"up": 1}), flush=True); time.sleep(60)', ear)
    ear.wait_for(lambda heard: ("up", 1) in heard)
    began = time.monotonic()
    for _ in range(50_000):  # more than a pipe holds
        child.tell()
    assert time.monotonic() - began < 5
    child._process.kill()  # type: ignore[union-attr]
    child.stop()


def test_of_many_bells_one_is_passed_on_and_of_other_messages_all() -> None:
    news: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
    _listen([[b"{}"] * 100, [b'{"deleted": "a"}', b"{}", b'{"deleted": "a"}'], [b"{}"], []], news, lambda: True)
    passed_on = [news.get_nowait() for _ in range(news.qsize())]
    assert passed_on == [{}, {"deleted": "a"}, {"deleted": "a"}, {}, {}, None]


def test_lines_are_heard_whole() -> None:
    end, beginning = os.pipe()
    heard = _hear(end)
    os.write(beginning, b'{"a": 1}\n{}\n{"b"')
    assert next(heard) == [b'{"a": 1}', b"{}"]
    os.write(beginning, b": 2}\n")
    assert next(heard) == [b'{"b": 2}']
    os.close(beginning)
    assert list(heard) == []
    os.close(end)
