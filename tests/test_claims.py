"""Several Orthancs on one database: who does an image, and what the log shows late; with an archive that is made up."""

from __future__ import annotations

import json

import pytest

from plugin import claims, marks
from plugin.archive import Archive, Change, Conflict
from plugin.changelog import AGAIN, LATE, ChangeLog
from plugin.settings import Connection


class Metadata(Archive):
    """One instance's place for a mark, with its revision."""

    def __init__(self) -> None:
        self.text, self.revision = "", ""

    def marked(self, instance: str) -> tuple[str, str]:
        return self.text, self.revision

    def claim(self, instance: str, text: str, instead_of: str) -> None:
        if instead_of != self.revision:
            raise Conflict(instance)
        self.text, self.revision = text, f"{self.revision}+"


def claim(archive: Archive, server: str) -> None:
    claims.claim(archive, "i", server, 120)


def test_what_one_has_claimed_no_other_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    archive, now = Metadata(), 1000.0
    monkeypatch.setattr("time.time", lambda: now)
    claim(archive, "a")
    with pytest.raises(claims.Taken):
        claim(archive, "b")
    claim(archive, "a")  # which was killed and started again
    now += 120 + claims.SLACK + 1
    claim(archive, "b")
    with pytest.raises(claims.Taken):
        claim(archive, "a")


def test_of_two_who_claim_at_once_one_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Metadata()
    seen = archive.marked("i")
    claim(archive, "b")
    monkeypatch.setattr(archive, "marked", lambda _: seen)  # what a saw before b wrote
    with pytest.raises(claims.Taken):
        claim(archive, "a")
    assert json.loads(archive.text)["server"] == "b"


@pytest.mark.parametrize("state", ["done", "skipped", "failed"])
def test_what_bears_a_mark_is_finished(state: str) -> None:
    archive = Metadata()
    archive.text = marks.mark(state, "i")
    with pytest.raises(claims.Finished) as finished:
        claim(archive, "a")
    assert finished.value.state == state


def test_text_that_is_no_mark_is_written_over() -> None:
    archive = Metadata()
    archive.text, archive.revision = "null", "7"
    claim(archive, "a")
    assert json.loads(archive.text)["server"] == "a"


@pytest.mark.parametrize("text", ["{}", '{"until": "x"}', '{"until": NaN}', '{"server": 1, "until": [1]}'])
def test_what_is_no_claim_keeps_nobody_away(text: str) -> None:
    archive = Metadata()
    archive.text = json.dumps({"state": marks.CLAIMED} | json.loads(text))
    claim(archive, "a")


def test_a_claim_is_no_mark() -> None:
    archive = Metadata()
    claim(archive, "a")
    assert marks.mark_in({"chest-xray": archive.text}) is None


def test_servers_are_told_apart() -> None:
    names = {claims.name(Connection(f"http://127.0.0.1:{port}", "t")) for port in (1, 2)}
    assert len(names) == 2


class Log(Archive):
    """A change log whose entries appear when the test says so."""

    def __init__(self) -> None:
        self.entries: list[int] = []

    def changes(self, since: int, limit: int = 3) -> tuple[list[Change], int, bool]:
        found = sorted(seq for seq in self.entries if seq > since)
        page = [Change(seq, f"i{seq}") for seq in found[:limit]]
        return page, page[-1].seq if page else since, len(found) <= limit


def read(log: ChangeLog, now: float) -> list[int]:
    found: list[int] = []
    more = True
    while more:
        found += log.page(now).values()
        more = log.turn(now)
    return found


def test_an_orthanc_alone_reads_each_entry_once() -> None:
    orthanc = Log()
    log = ChangeLog(orthanc, 2, shared=False)
    orthanc.entries = [1, 2, 3, 4, 5, 6, 7]
    assert read(log, 0) == [3, 4, 5, 6, 7]
    assert (log.position, log.settled) == (7, 7)
    orthanc.entries += [8]
    assert read(log, 0) == [8]
    assert read(log, 1000) == []


def test_an_entry_that_appears_late_is_found_and_no_position_passes_it() -> None:
    orthanc = Log()
    log = ChangeLog(orthanc, 0, shared=True)
    orthanc.entries = [1, 2, 4, 5, 6]
    assert read(log, 0) == [1, 2, 4, 5, 6]
    assert (log.position, log.settled) == (6, 0)
    orthanc.entries += [3, 7]
    assert read(log, 1) == [7]
    assert read(log, AGAIN) == [3]
    assert log.settled == 0
    for now in (2 * AGAIN, LATE + AGAIN):
        assert read(log, now) == []
    assert log.settled == 7


def test_what_could_not_be_taken_is_read_again() -> None:
    orthanc = Log()
    log = ChangeLog(orthanc, 0, shared=True)
    orthanc.entries = [1, 2, 3, 4]
    for _ in range(2):  # something was raised while they were looked at
        assert log.page(0) == {"i1": 1, "i2": 2, "i3": 3}
    assert read(log, 0) == [1, 2, 3, 4]
