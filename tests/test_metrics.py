"""A reason, which may quote anything, becomes one of few words."""

from __future__ import annotations

import pytest

from plugin.metrics import kind


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        ("", ""),
        ("BodyPartExamined is 'HAND\"} 1', which is not the chest.", "BodyPartExamined"),
        ("Modality is 'CT'; only CR and DX are classified.", "Modality"),
        ("SOPClassUID is missing; only Computed Radiography", "SOPClassUID"),
        ("NumberOfFrames is 2; only single images are classified.", "NumberOfFrames"),
        ("PixelData has 1000 bytes where 2000 rows need more.", "PixelData"),
        ("There is no PixelData in this object.", "PixelData"),
        ("The pixel data cannot be decoded: bad marker 'X'.", "PixelData"),
        ("Given up after 3 tries: it took longer than the time limit", "given up"),
        ("This object was written by this plugin itself.", "other"),
        ("Orthanc did not keep the report: its answer was FilteredOut", "other"),
    ],
)
def test_a_reason_is_one_of_few_words(reason: str, word: str) -> None:
    assert kind(reason) == word
