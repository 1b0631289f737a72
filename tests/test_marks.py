"""Marks, which anybody with an account can write."""

from __future__ import annotations

from typing import Any

import pytest

from plugin import marks

REPORT = {"instance": "a", "SeriesInstanceUID": "2.25.1"}
PAGE = {"kind": "pdf", "instance": "b", "SeriesInstanceUID": "2.25.2"}


@pytest.mark.parametrize("text", ["", "[", "null", "[]", "{}", "[" * 3000, '{"state":' * 3000, "\x00"])
def test_what_is_no_mark(text: str) -> None:
    assert marks.mark_in({"chest-xray": text}) is None


def test_the_documents_of_a_mark() -> None:
    found = marks.documents({"sr": REPORT, "outputs": [PAGE]})
    assert found == {"sr": {"kind": "sr", **REPORT}, "pdf": PAGE}


@pytest.mark.parametrize(
    "mark",
    [None, {}, {"sr": None}, {"sr": 3, "outputs": 3}, {"sr": {}, "outputs": [3, {}, {"kind": ["pdf"]}]}, {"sr": "a"}],
)
def test_what_names_no_document(mark: dict[str, Any] | None) -> None:
    assert marks.documents(mark) == {}
