"""What the worklist is told, tick by tick, with an archive that is made up."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from plugin import listing, provenance, query
from plugin.archive import Archive, ArchiveUnavailable, Instance, Place
from plugin.provenance import Provenance
from plugin.query import File, Query
from plugin.worklist import Worklist
from tests.pacs import wait_for
from tests.test_dispatcher import FakeArchive, Settling


class World:
    """An archive, its worklist and a clock."""

    def __init__(self) -> None:
        self.archive, self.worklist = FakeArchive(), Worklist()
        self.said: dict[str, Any] = {}
        self.listing = Settling(self.archive, self.worklist, self.said.__setitem__)
        self.now = 0.0

    def settle(self, seconds: float = 0.0) -> None:
        self.now += seconds
        self.listing.settle(self.now)

    def states(self) -> dict[str, str]:
        with query.reading(File(*self.said["worklist"])) as db:
            return {row["instance"]: row["state"] for row in query.rows(db, Query(limit=None))}

    def complete(self) -> bool:
        return File(*self.said["worklist"]).complete


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World()

    def read(file: bytes, _: bool) -> Provenance | None:
        subject = made.archive.subjects.get(file.decode())
        return None if subject is None else Provenance("sr", subject, "2.25.1", unchanged=True)

    monkeypatch.setattr(provenance, "read", read)
    yield made
    made.worklist.close()


VERIFIED = "of of of of of a"
"""A report of ours that a person took over."""


def named(document: str) -> dict[str, str]:
    return {"instance": document, "SeriesInstanceUID": "2.25.1"}


def mark(world: World, instance: str, state: str = "done") -> None:
    world.archive.marks[instance] = {"state": state}


def test_it_is_filled_a_page_at_a_time_latest_arrivals_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)
    for number in range(5):
        world.archive.add(f"i{number}")
    world.archive.add("ct", "CT")
    mark(world, "i1")
    assert world.listing.tick(0) is True
    assert (world.states(), world.complete()) == ({"i4": "pending", "i3": "pending"}, False)
    world.settle()
    assert world.states() == {f"i{number}": "done" if number == 1 else "pending" for number in range(5)}
    assert world.complete()


def test_it_follows_what_is_noted_and_looks_up_the_rest(world: World) -> None:
    for one in ("a", "b", "c"):
        world.archive.add(one)
    world.settle()
    mark(world, "a", "skipped")
    world.listing.note(Instance("b", "series of b", {"state": "done"}))
    world.listing.look_up("a")
    del world.archive.modality["c"]
    world.listing.look_up("c")
    world.settle()
    assert world.states() == {"a": "skipped", "b": "done"}


def test_reports_go_with_their_image_and_nothing_else_does(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in ("a", "b"):
        world.archive.add(one)
        world.archive.uids[one] = f"1.2.{one}"
        world.archive.marks[one] = {
            "state": "done",
            "sr": named(f"of of {one}"),
            "outputs": [named("of a") | {"kind": "pdf"}, named(VERIFIED) | {"kind": "x"}] if one == "a" else [],
        }
    brought = {"of of of a": "1.2.a", "of of of of a": "1.2.b"}  # both in a's study
    ours = {"of a": "1.2.a", "of of a": "1.2.a", "of of b": "1.2.b"}
    for document in (*ours, *brought, VERIFIED):
        world.archive.add(document, "SR")
        if document != "of a":
            world.archive.guests.add(document)  # what came first may be a mark's, too
    world.archive.subjects |= ours | brought
    world.settle()
    world.listing.look_up("a")
    world.listing.look_up("b")
    world.settle()
    assert ours.keys() | brought.keys() < world.archive.modality.keys()
    world.archive.delete("a")
    world.listing.look_up("a")
    world.settle()
    assert set(world.archive.modality) == {"b", "of of b", "of of of of a", VERIFIED}


@pytest.mark.parametrize("state", ["skipped", "failed", "pending"])
def test_what_others_brought_goes_with_an_image_that_has_no_report_of_ours(world: World, state: str) -> None:
    world.archive.add("a")
    world.archive.uids["a"] = "1.2.a"
    if state != "pending":
        mark(world, "a", state)
    world.archive.add("of a", "SR")
    world.archive.guests.add("of a")
    world.archive.subjects["of a"] = "1.2.a"
    world.settle()
    world.archive.delete("a")
    world.listing.look_up("a")
    world.settle()
    assert not world.archive.modality


def test_an_image_that_comes_back_while_its_report_is_removed_gets_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    unmarked: list[str] = []
    world.archive.add("a")
    world.archive.add("of a", "SR")
    world.archive.marks["a"] = {"state": "done", "sr": named("of a")}
    world.archive.uids["a"] = world.archive.subjects["of a"] = "1.2.a"
    world.settle()
    monkeypatch.setattr(world.archive, "delete", lambda _: world.archive.add("a"))
    monkeypatch.setattr(world.archive, "unmark", unmarked.append)
    del world.archive.modality["a"]
    world.listing.look_up("a")
    world.settle()
    assert unmarked == ["a"]


def test_reports_go_with_images_of_whose_deletion_nobody_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)
    for one in ("a", "b", "c"):
        world.archive.add(one)
    for report, subject in (("of a", "a"), ("of b", "b"), ("of gone", "gone"), ("odd", "")):
        world.archive.add(report, "SR")
        world.archive.subjects[report] = subject
    for guest, beside in (("brought", ""), ("left", "gone"), ("of of b", "whatever"), (VERIFIED, "gone")):
        world.archive.modality[guest] = "SR"
        world.archive.guests.add(guest)
        world.archive.beside[guest] = beside
    world.archive.subjects |= {"brought": "gone", "left": "gone", "of of b": "b"}
    world.archive.marks["a"] = {"state": "done", "sr": named("of a")}
    world.settle()
    assert set(world.archive.modality) == {"a", "b", "c", "of a", "of b", "brought", "of of b", VERIFIED, "odd"}
    world.archive.add("of gone", "SR")
    world.settle()
    assert "of gone" in world.archive.modality
    world.settle(listing.DAY)
    assert "of gone" not in world.archive.modality


def test_more_news_than_a_page_take_several_ticks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)
    world.settle()
    for number in range(5):
        world.archive.add(f"i{number}")
        world.listing.look_up(f"i{number}")
    assert world.listing._listen(0)
    assert world.listing.tick(1) is True
    assert len(world.states()) == 2
    world.settle()
    assert len(world.states()) == 5


def test_a_deletion_that_nobody_told_is_found_within_a_day(world: World) -> None:
    world.archive.add("a")
    world.settle()
    del world.archive.modality["a"]
    world.settle(listing.DAY - 1)
    assert list(world.states()) == ["a"]
    world.settle(1)
    assert list(world.states()) == []
    assert world.complete()


def test_nothing_is_lost_while_orthanc_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.archive.add("a")
    world.settle()
    mark(world, "a")
    world.listing.look_up("a")

    def no_answer(*_: Any) -> dict[str, Place]:
        raise ArchiveUnavailable("Orthanc does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(Archive, "places", no_answer)
        patch.setattr(FakeArchive, "places", no_answer)
        with pytest.raises(ArchiveUnavailable):
            world.settle(1)
    world.settle()
    assert world.states() == {"a": "done"}


@pytest.mark.parametrize("problem", [sqlite3.OperationalError("database or disk is full"), OSError("no folder")])
def test_a_full_disk_costs_the_list_alone_until_there_is_room(
    world: World, monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    world.archive.add("a")
    world.settle()

    def full(*_: Any) -> None:
        raise problem

    with monkeypatch.context() as patch:
        patch.setattr(Worklist, "learn" if isinstance(problem, sqlite3.Error) else "renew", full)
        world.listing._path = "there" if isinstance(problem, sqlite3.Error) else ""
        world.listing.look_up("a")
        world.settle(listing.DAY)
        assert not world.complete()
        assert str(problem) in world.said["warning"]
        said = world.said.pop("warning")
        world.settle(listing.IDLE - 1)
        assert "warning" not in world.said, said
    mark(world, "a")
    world.settle(1)
    assert (world.states(), world.complete()) == ({"a": "done"}, True)


def test_its_thread_follows_the_news_until_it_is_stopped(world: World) -> None:
    world.archive.add("a")
    thread = threading.Thread(target=world.listing.run, daemon=True)
    thread.start()
    wait_for(lambda: (world.said.get("worklist") and world.complete()) or None, 5, lambda: str(world.said))
    mark(world, "a")
    world.listing.look_up("a")
    wait_for(lambda: world.states() == {"a": "done"} or None, 5, lambda: str(world.states()))
    world.listing.stop()
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_it_says_up_to_where_in_the_log_it_knows_everything(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAGE", 1)
    world.settle()
    for one in ("a", "b"):
        world.archive.add(one)
        world.listing.look_up(one)
    world.listing.reached(2)
    assert world.listing._listen(0)
    world.listing.tick(0)
    assert query.position(File(*world.said["worklist"])) == 0
    world.settle()
    assert query.position(File(*world.said["worklist"])) == 2
