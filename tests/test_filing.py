"""What is done about guests at the moments that a real Orthanc cannot be held at, with an archive that is made up."""

from __future__ import annotations

import pytest

from plugin import filing, provenance
from plugin.archive import Archive
from plugin.filing import TooEarly
from plugin.provenance import Provenance
from tests.test_dispatcher import FakeArchive


class Copying(FakeArchive):
    """One that may be copying studies just now."""

    copying = True

    def is_copying(self) -> bool:
        return self.copying

    def unmark(self, instance: str) -> None:
        del self.marks[instance]


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Copying:
    """It holds the image `a`, done, and a copy of its report, `of a`."""
    said = Provenance("sr", "a", "2.25.1", unchanged=False)
    monkeypatch.setattr(provenance, "read", lambda data, changed_here: said if data == b"of a" else None)
    made = Copying()
    made.add("a")
    made.add("of a", "SR")
    made.guests.add("of a")
    made.marks["a"] = {"state": "done"}
    return made


def clear(archive: Archive) -> None:
    """As it is done when `a` has been classified."""
    filing._clear(archive, archive.series_in("study of a"), "a", "2.25.2", ())


def test_nothing_is_removed_while_orthanc_copies(archive: Copying) -> None:
    with pytest.raises(TooEarly):
        filing.tidy(archive, "study of a", "of a")
    assert "of a" in archive.modality
    archive.copying = False
    assert filing.tidy(archive, "study of a", "of a")
    assert "of a" not in archive.modality


def test_what_cannot_be_removed_when_its_image_is_done_comes_into_the_log_again(archive: Copying) -> None:
    archive.log.clear()
    clear(archive)
    assert (archive.log, archive.beside) == (["of a"], {"of a": ""})
    archive.copying = False
    clear(archive)
    assert "of a" not in archive.modality


def test_one_that_came_as_an_image_is_done_again(archive: Copying) -> None:
    archive.marks["of a"] = {"state": "skipped"}
    clear(archive)
    assert (archive.beside, list(archive.marks)) == ({}, ["a"])


def test_a_guest_whose_image_is_still_to_do_is_left_until_then(archive: Copying) -> None:
    del archive.marks["a"]
    assert not filing.tidy(archive, "study of a", "of a")
    assert archive.beside == {}


def test_what_stays_beside_an_image_is_remembered_once(archive: Copying, monkeypatch: pytest.MonkeyPatch) -> None:
    said = Provenance("sr", "a", "2.25.1", unchanged=True)
    monkeypatch.setattr(provenance, "read", lambda *_: said)
    for _ in range(2):
        archive.log.clear()
        assert not filing.tidy(archive, "study of a", "of a")
    assert (archive.beside, archive.log) == ({"of a": "a"}, [])
