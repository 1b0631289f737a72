"""Marks, which anybody with an account can write."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from plugin import marks

REPORT = {"instance": "a", "SeriesInstanceUID": "2.25.1"}
PAGE = {"kind": "pdf", "instance": "b", "SeriesInstanceUID": "2.25.2"}


DEEP = '{"state": "done", "x": ' + "[" * 900 + "]" * 900 + "}"


@pytest.mark.parametrize("text", ["", "[", "null", "[]", "{}", "[" * 3000, '{"state":' * 3000, "\x00", DEEP])
def test_what_is_no_mark(text: str) -> None:
    assert marks.mark_in({"chest-xray": text}) is None


SOUND = {
    "state": "done",
    "scores": {"Mass": 0.5},
    "findings": ["Mass"],
    "image": {"PatientID": "1"},
    "model": {"name": "a"},
    "sr": {"instance": "b"},
    "warnings": [],
}


@pytest.mark.parametrize("mark", [SOUND, {"state": "skipped", "reason": "A hand"}, {"state": "failed"}])
def test_what_is_a_mark(mark: dict[str, Any]) -> None:
    assert marks.mark_in({"4750": json.dumps(mark)}) == mark


@pytest.mark.parametrize(
    "change",
    [
        {"state": ["done"]},
        {"state": "perfect"},
        {"state": "pending"},
        {"scores": [1]},
        {"scores": {"Mass": "high"}},
        {"scores": {"Mass": math.nan}},
        {"scores": {"\ud800": 0.5}},
        {"scores": None},
        {"image": "x"},
        {"image": {"ViewPosition": {}}},
        {"sr": {"instance": None}},
        {"model": None},
        {"activation": []},
        {"findings": None},
        {"findings": [1]},
        {"warnings": [1]},
        {"created": 3},
        {"instance": None},
        {"state": "failed", "reason": {"no": "text"}},
    ],
)
def test_metadata_that_somebody_else_wrote_is_no_result(change: dict[str, Any]) -> None:
    found = marks.mark_in({"chest-xray": json.dumps(SOUND | change)})
    assert found == {"state": "failed", "reason": "Its metadata is no result of this plugin"}


@pytest.mark.parametrize("missing", ["scores", "image", "model", "sr"])
def test_a_result_has_all_that_pages_show(missing: str) -> None:
    found = marks.mark_in({"chest-xray": json.dumps({key: value for key, value in SOUND.items() if key != missing})})
    assert found and found["state"] == "failed"


def test_the_documents_of_a_mark() -> None:
    found = marks.documents({"sr": REPORT, "outputs": [PAGE]})
    assert found == {"sr": {"kind": "sr", **REPORT}, "pdf": PAGE}


@pytest.mark.parametrize(
    "mark",
    [None, {}, {"sr": None}, {"sr": 3, "outputs": 3}, {"sr": {}, "outputs": [3, {}, {"kind": ["pdf"]}]}, {"sr": "a"}],
)
def test_what_names_no_document(mark: dict[str, Any] | None) -> None:
    assert marks.documents(mark) == {}
