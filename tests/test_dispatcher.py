"""The dispatcher, tick by tick, with an archive and a pool that are made up."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest
from pebble import ProcessExpired

from plugin import changelog, dispatcher, query
from plugin.archive import Archive, ArchiveUnavailable, Change, Gone, Instance, Place, Series
from plugin.dispatcher import Dispatcher
from plugin.listing import Listing
from plugin.marks import read
from plugin.query import File, Query
from plugin.worker import Outcome
from plugin.worklist import Worklist

ENDED = ProcessExpired("Abnormal termination", -11)  # type: ignore[no-untyped-call]
"""A worker."""


class FakeArchive(Archive):
    """Instances by id, with their series' Modality, and a change log."""

    def __init__(self) -> None:
        self.modality: dict[str, str] = {}
        self.marks: dict[str, dict[str, Any]] = {}
        self.guests: set[str] = set()
        self.beside: dict[str, str] = {}
        self.uids: dict[str, str] = {}
        self.subjects: dict[str, str] = {}  # of documents; SOPInstanceUIDs are ids here, and each has its own study
        self.log: list[str] = []
        self.asked: list[str] = []
        self.down = False
        self.page = 2  # entries of the log in one answer

    def add(self, instance: str, modality: str = "CR") -> None:
        self.modality[instance] = modality
        self.log.append(instance)

    def changes(self, since: int, limit: int = 0) -> tuple[list[Change], int, bool]:
        if self.down:
            raise ArchiveUnavailable("Orthanc does not answer")
        limit = limit or self.page
        seqs = range(since + 1, min(since + limit, len(self.log)) + 1)
        found = [
            Change(seq, self.log[seq - 1]) for seq in seqs if self.log[seq - 1]
        ]  # '' for one that is not there yet
        return found, max([*seqs, since]), since + limit >= len(self.log)

    def instances(self, ids: Collection[str]) -> list[Instance]:
        found = sorted((one for one in ids if one in self.modality), reverse=True)  # in no order that means anything
        return [
            Instance(
                one,
                f"series of {one}",
                self.marks.get(one),
                "",
                self.uids.get(one, ""),
                guest=one in self.guests,
                beside=self.beside.get(one, ""),
            )
            for one in found
        ]

    def series(self, ids: Collection[str]) -> list[Series]:
        instances = {one.removeprefix("series of ") for one in ids} & self.modality.keys()
        return [self._series_of(one) for one in instances]

    def series_in(self, study: str) -> list[Series]:
        return [self._series_of(one) for one in self.modality if self._study_of(one) == study]

    def _study_of(self, instance: str) -> str:
        return f"study of {instance.replace('of ', '')}"

    def _series_of(self, instance: str) -> Series:
        modality = self.modality[instance]
        return Series(
            f"series of {instance}", self._study_of(instance), [instance], modality in ("CR", "DX"), modality == "SR"
        )

    def places(self, series: Collection[str]) -> dict[str, Place]:
        there = {one: one.removeprefix("series of ") for one in series}
        return {
            one: Place(self._study_of(instance), "patient", "P", "Doe^Jane", "20260102", self.modality[instance])
            for one, instance in there.items()
            if instance in self.modality
        }

    def radiographs(self, study_dates: str = "") -> list[str]:
        self.asked.append(study_dates)
        return [f"series of {one}" for one, modality in self.modality.items() if modality in ("CR", "DX")]

    def documents(self) -> list[str]:
        return [f"series of {one}" for one, modality in self.modality.items() if modality == "SR"]

    def file(self, instance: str) -> bytes:
        return instance.encode()

    def find(self, sop_instance_uid: str) -> list[Instance]:
        return self.instances([sop_instance_uid])

    def put_beside(self, guest: str, image: str) -> None:
        self.beside[guest] = image
        self.log.append(guest)

    def delete(self, instance: str) -> None:
        del self.modality[instance]

    def mark(self, instance: str, result: str) -> None:
        if instance not in self.modality:
            raise Gone(instance)
        self.marks[instance] = read(result) or {}
        self.log.append(instance)  # Orthanc logs UpdatedMetadata


class FakePool:
    """Two workers whose tasks end when the test says so."""

    workers = 2
    in_flight = 1
    time_limit = 120.0

    def __init__(self) -> None:
        self.trouble = ""
        self.tasks: dict[str, Future[list[Outcome]]] = {}
        self.groups: list[list[str]] = []
        self.on_all_cores: list[str] = []
        self.given_up: dict[str, str] = {}
        self.unused: dict[str, str] = {}

    def problem(self) -> str:
        return self.trouble

    def remarks(self) -> dict[str, str]:
        return self.unused

    @property
    def given(self) -> list[str]:
        """All in their order, those of a group too."""
        return [instance for group in self.groups for instance in group]

    def classify(self, images: Sequence[tuple[str, str]], all_cores: bool) -> Future[list[Outcome]]:
        assert all(study == f"study of {instance}" for instance, study in images)
        self.groups.append([instance for instance, _ in images])
        self.on_all_cores += [instance for instance, _ in images if all_cores]
        future: Future[list[Outcome]] = Future()
        self.tasks |= dict.fromkeys(self.groups[-1], future)
        return future

    def tidy(self, guest: str, study: str) -> Future[list[Outcome]]:
        return self.classify([(guest, study)], all_cores=False)

    def give_up(self, instance: str, study: str, reason: str) -> Future[list[Outcome]]:
        assert study == f"study of {instance}"
        self.given_up[instance] = reason
        self.tasks[instance] = Future()
        return self.tasks[instance]


class Settling(Listing):
    """A listing without its thread."""

    def settle(self, now: float) -> None:
        """All that it would do now."""
        if not self.archive.down:
            while self._listen(0) and self.tick(now):
                continue

    @property
    def archive(self) -> FakeArchive:
        """The one that it was given."""
        assert isinstance(self._archive, FakeArchive)
        return self._archive


class World:
    """A dispatcher with everything around it."""

    def __init__(self, since: int = 0) -> None:
        self.archive, self.pool = FakeArchive(), FakePool()
        self.said: dict[str, Any] = {}
        self.log: list[str] = []
        self.now = 0.0
        self.worklist = Worklist()
        self.start(since)

    def start(self, since: int) -> None:
        self.listing = Settling(self.archive, self.worklist, self._hear)
        self.dispatcher = Dispatcher(self.archive, self.pool, since, 3, self._hear, self.listing)

    def _hear(self, what: str, value: Any) -> None:
        if what in ("info", "warning"):
            self.log.append(value)
        self.said[what] = value

    def tick(self, seconds: float = 0.0) -> float:
        """Ticks until there is nothing to do at once."""
        self.now += seconds
        while not (pause := self.dispatcher.tick(self.now)):
            continue
        self.listing.settle(self.now)
        return pause

    def finish(self, instance: str, outcome: Outcome | BaseException) -> None:
        """As a worker does it: the mark first, then the answer."""
        if isinstance(outcome, BaseException):
            self.pool.tasks[instance].set_exception(outcome)
            return
        if outcome.state in ("done", "skipped", "failed"):
            self.archive.mark(instance, f'{{"state": "{outcome.state}"}}')
        self.pool.tasks[instance].set_result([outcome])

    def counts(self) -> tuple[int, int, int, int]:
        """What is to do now, and what the worklist says of the whole archive."""
        with query.reading(File(*self.said["worklist"])) as db:
            listed = query.counts(db)
        return self.said["status"]["pending"], listed["done"], listed["skipped"], listed["failed"]


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.worklist.close()


def test_radiographs_are_classified_in_their_order_and_nothing_else_is(world: World) -> None:
    for instance, modality in (("a", "CR"), ("ct", "CT"), ("b", "DX"), ("report", "SR")):
        world.archive.add(instance, modality)
    world.tick()
    assert world.pool.given == ["a", "b"]
    assert world.counts() == (2, 0, 0, 0)
    world.finish("a", Outcome("done"))
    world.finish("b", Outcome("skipped", "it is a hand", took=12))
    world.tick()
    world.tick()
    assert world.pool.given == ["a", "b"]
    assert world.counts() == (0, 1, 1, 0)
    assert world.said["position"] == len(world.archive.log)
    assert "Instance b: skipped in 12 ms, it is a hand" in world.log


def test_a_mark_is_listed_even_before_its_worker_ends(world: World) -> None:
    world.archive.add("a")
    world.tick()
    world.archive.mark("a", '{"state": "done"}')
    world.tick()
    assert world.counts() == (1, 1, 0, 0)
    world.pool.tasks["a"].set_result([Outcome("done")])
    world.tick()
    assert world.counts() == (0, 1, 0, 0)


def test_the_position_waits_for_what_is_unfinished_so_that_a_crash_loses_nothing(world: World) -> None:
    for instance in "abc":
        world.archive.add(instance)
    world.tick()
    assert world.said["position"] == 0
    world.finish("b", Outcome("done"))
    world.tick()
    position = world.said["position"]
    assert position == 0  # "a" is not done
    world.pool = FakePool()
    world.start(position)
    world.tick()
    assert world.pool.given == ["a", "c"]


def test_only_as_many_tasks_are_given_out_as_keep_the_workers_busy(world: World) -> None:
    for number in range(10):
        world.archive.add(f"i{number}")
    world.tick()
    assert len(world.pool.given) == 4
    world.finish("i0", Outcome("done"))
    world.tick()
    assert len(world.pool.given) == 5


def test_an_image_has_all_cores_only_while_nothing_else_is_to_do(world: World) -> None:
    world.archive.add("alone")
    world.tick()
    world.archive.add("meanwhile")
    world.tick()
    for instance in world.pool.given:
        world.finish(instance, Outcome("done"))
    for instance in ("one", "another"):
        world.archive.add(instance)
    world.tick()
    for instance in world.pool.given[2:]:
        world.finish(instance, Outcome("done"))
    world.archive.add("alone again")
    world.tick()
    assert len(world.pool.given) == 5
    assert world.pool.on_all_cores == ["alone", "alone again"]


def test_without_a_model_everything_stays_pending_and_is_done_afterwards(world: World) -> None:
    world.pool.trouble = "The model file is missing"
    world.archive.add("a")
    world.tick()
    assert world.pool.given == []
    assert world.said["status"]["ready"] is False
    assert world.said["status"]["reason"] == "The model file is missing"
    assert world.counts() == (1, 0, 0, 0)
    world.pool.trouble = ""
    world.tick()
    assert world.pool.given == ["a"]


def test_of_each_inference_server_that_is_not_used_it_is_said_once(world: World) -> None:
    def said() -> list[str]:
        world.log.clear()
        world.tick()
        return world.log

    server, local = {"grpc://a:1": "The inference server grpc://a:1 is not used"}, {"": "This machine does it"}
    world.pool.unused = server
    assert said()[-1:] == [*server.values()]
    world.pool.unused = {"grpc://a:1": "The inference server grpc://a:1 is not used, for another reason"}
    assert said() == []
    assert world.said["status"]["remarks"] == [*world.pool.unused.values()]
    world.pool.unused = server | local
    assert said() == [*local.values()]
    world.pool.unused = {}
    assert said() == ["The inference server grpc://a:1 is used again"]
    assert world.said["status"]["remarks"] == []
    assert world.said["status"]["ready"]


def test_what_is_not_the_images_fault_is_tried_with_growing_pauses_without_end(world: World) -> None:
    world.archive.add("a")
    world.tick()
    for pause in (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300):
        world.finish("a", Outcome("later", "Orthanc answered 507: the storage is full"))
        tries = len(world.pool.given)
        world.tick()
        world.tick(pause - 0.5)
        assert len(world.pool.given) == tries
        world.tick(0.5)
        assert len(world.pool.given) == tries + 1
    assert world.counts() == (1, 0, 0, 0)
    assert any("tried again in 4 s: Orthanc answered 507" in line for line in world.log)


@pytest.mark.parametrize("problem", [TimeoutError(), ENDED, MemoryError()])
def test_an_image_that_ends_its_worker_is_given_up_and_the_others_go_on(world: World, problem: Exception) -> None:
    world.archive.add("poison")
    world.archive.add("good")
    world.tick()
    world.finish("good", Outcome("done"))
    for _ in range(3):
        world.finish("poison", problem)
        world.tick()
        world.tick(100)
    assert world.pool.given.count("poison") == 3
    assert world.pool.given_up["poison"].startswith("Given up after 3 tries: ")
    world.finish("poison", Outcome("failed", world.pool.given_up["poison"]))
    world.tick()
    assert world.archive.marks["poison"]["state"] == "failed"
    assert world.counts() == (0, 1, 0, 1)


def test_where_not_even_giving_up_succeeds_it_is_tried_again_with_growing_pauses(world: World) -> None:
    world.archive.add("poison")
    world.tick()
    for _ in range(3):
        world.finish("poison", TimeoutError())
        world.tick()
        world.tick(100)
    world.log.clear()
    for pause in (4, 8, 16):
        world.finish("poison", ENDED)
        world.tick()
        assert f"tried again in {pause} s" in world.log.pop()
        assert world.pool.tasks["poison"].done()
        world.tick(pause)
        assert not world.pool.tasks["poison"].done()
    assert world.pool.given.count("poison") == 3
    world.finish("poison", Outcome("failed", world.pool.given_up["poison"]))
    world.tick()
    assert world.counts() == (0, 0, 0, 1)


@pytest.fixture
def waiting(world: World) -> World:
    """One whose workers have up to four images under way, since they wait for servers."""
    world.pool.in_flight, world.archive.page = 4, 100
    return world


def arrive(world: World, instances: str) -> None:
    for instance in instances:
        world.archive.add(instance)
    world.tick()


def test_what_is_ready_is_shared_out_among_idle_workers(waiting: World) -> None:
    arrive(waiting, "abc")
    assert waiting.pool.groups == [["a", "b"], ["c"]]
    arrive(waiting, "def")
    assert len(waiting.pool.groups) == 2  # all workers have something to do, and four may come together yet
    waiting.finish("c", Outcome("done"))
    waiting.tick()
    assert waiting.pool.groups[2:] == [["d", "e", "f"]]


def test_workers_have_a_full_group_ahead_of_them(waiting: World) -> None:
    arrive(waiting, "abcdefghijklmnopqrs")
    assert ["".join(group) for group in waiting.pool.groups] == ["abcd", "efgh", "ijkl", "mnop"]


def test_of_a_group_each_image_is_accounted_for(waiting: World) -> None:
    waiting.pool.workers = 1
    arrive(waiting, "abcd")
    for instance, state in (("a", "done"), ("b", "skipped")):
        waiting.archive.mark(instance, f'{{"state": "{state}"}}')
    del waiting.archive.modality["c"]
    outcomes = [Outcome("done", took=7), Outcome("skipped", "a hand"), Outcome("gone"), Outcome("later", "507")]
    waiting.pool.tasks["a"].set_result(outcomes)
    waiting.tick()
    waiting.tick(1)
    assert waiting.pool.groups == [["a", "b", "c", "d"], ["d"]]
    assert waiting.counts()[1:] == (1, 1, 0)
    assert waiting.said["metrics"]['chest_xray_images_total{state="done",reason=""}'] == 1
    assert "Instance a: done in 7 ms" in waiting.log


@pytest.mark.parametrize("problem", [TimeoutError(), ENDED, MemoryError()])
def test_what_ends_a_worker_with_several_is_charged_to_none_until_it_does_so_alone(
    waiting: World, problem: Exception
) -> None:
    waiting.pool.workers = 1
    arrive(waiting, "abcp")
    waiting.finish("p", problem)
    waiting.tick()
    for good in "abc":
        waiting.finish(good, Outcome("done"))
        waiting.tick()
    for _ in range(3):
        waiting.finish("p", problem)
        waiting.tick()
        waiting.tick(100)
    waiting.finish("p", Outcome("failed", "crashed"))
    waiting.tick()
    assert list(waiting.pool.given_up) == ["p"]
    assert waiting.pool.given_up["p"].startswith("Given up after 3 tries: ")
    assert waiting.pool.groups[0] == ["a", "b", "c", "p"]
    assert waiting.pool.groups[1:] == [[one] for one in "abcppp"]
    assert waiting.counts() == (0, 3, 0, 1)
    restarts = 0 if isinstance(problem, MemoryError) else 4  # at which Python only raises something
    assert waiting.said["metrics"]["chest_xray_worker_restarts_total"] == restarts


def test_what_fails_in_company_is_tried_alone(waiting: World) -> None:
    waiting.pool.workers = 1
    arrive(waiting, "ab")
    waiting.archive.mark("a", '{"state": "done"}')
    waiting.pool.tasks["a"].set_result([Outcome("done"), Outcome("later", "cannot be decoded", alone=True)])
    arrive(waiting, "c")
    assert waiting.pool.groups == [["a", "b"], ["b"]]
    assert "Instance b is tried again alone: cannot be decoded" in waiting.log
    waiting.finish("b", Outcome("failed", "cannot be decoded"))
    waiting.tick()
    assert waiting.pool.groups[2:] == [["c"]]
    assert waiting.counts() == (1, 1, 0, 1)


def test_a_document_that_others_brought_is_in_no_group(waiting: World) -> None:
    waiting.pool.workers = 1
    waiting.archive.guests.add("guest")
    waiting.archive.add("guest", "SR")
    arrive(waiting, "a")
    waiting.archive.log.append("")
    waiting.tick(dispatcher.MOVING)
    waiting.finish("a", Outcome("done"))
    arrive(waiting, "bcde")
    assert waiting.pool.groups == [["a"], ["guest"], ["b", "c", "d", "e"]]


def test_a_pool_that_broke_is_no_fault_of_the_image(world: World) -> None:
    world.archive.add("a")
    world.tick()
    for _ in range(5):
        world.finish("a", BrokenProcessPool("All workers expired"))
        world.tick()
    world.finish("a", Outcome("done"))
    world.tick()
    assert world.counts() == (0, 1, 0, 0)


def test_a_task_that_the_pool_has_lost_is_noticed(world: World) -> None:
    world.archive.add("a")
    world.tick()
    assert not world.dispatcher.stuck(world.now + 2 * 150)
    assert world.dispatcher.stuck(world.now + 2 * 150 + 1)
    world.finish("a", Outcome("done"))
    world.tick()
    assert not world.dispatcher.stuck(world.now + 1000)


def test_the_position_waits_for_an_image_before_a_guest_that_came_with_it(world: World) -> None:
    world.archive.add("first")
    world.tick()
    world.archive.add("a")
    world.archive.add("b", "SR")
    world.archive.guests.add("b")
    world.tick()
    assert world.pool.given == ["first", "a"]
    assert world.tick() <= dispatcher.MOVING
    world.tick(dispatcher.MOVING)
    assert world.pool.given == ["first", "a", "b"]
    world.pool.tasks["first"].set_result([Outcome("gone")])
    world.tick()
    assert world.said["position"] == 1


def test_metrics_count_what_became_of_images_and_workers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for instance in "abc":
        world.archive.add(instance)
    monkeypatch.setattr("time.time", lambda: 1000.0)
    world.tick()
    monkeypatch.setattr("time.time", lambda: 1007.0)
    world.finish("a", Outcome("done", milliseconds={"model": 40.0, "store": 2.5}))
    world.finish("b", ENDED)
    world.tick()
    told = world.said["metrics"]
    assert told["chest_xray_pending"] == 2
    assert told["chest_xray_oldest_pending_seconds"] == 7
    assert told["chest_xray_worker_restarts_total"] == 1
    assert told['chest_xray_images_total{state="done",reason=""}'] == 1
    assert told['chest_xray_step_seconds_total{step="model"}'] == 0.04
    world.tick(2)
    world.finish("b", Outcome("skipped", "BodyPartExamined is 'HAND', which is not the chest."))
    world.finish("c", Outcome("done"))
    world.tick()
    told = world.said["metrics"]
    assert told["chest_xray_oldest_pending_seconds"] == 0
    assert told['chest_xray_images_total{state="skipped",reason="BodyPartExamined"}'] == 1


def test_what_is_to_be_done_again_is_not_pending_since_it_came(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "moment", lambda _: 1000.0)  # its ReceptionDate
    monkeypatch.setattr("time.time", lambda: 5000.0)
    world.archive.add("a")
    world.tick()
    assert world.said["metrics"]["chest_xray_oldest_pending_seconds"] == 4000
    world.finish("a", Outcome("done"))
    world.tick()
    monkeypatch.setattr("time.time", lambda: 6000.0)
    world.tick(dispatcher.LONGEST)
    monkeypatch.setattr("time.time", lambda: 6005.0)
    del world.archive.marks["a"]
    world.archive.log.append("a")
    world.tick()
    assert world.pool.given == ["a", "a"]
    assert world.said["metrics"]["chest_xray_oldest_pending_seconds"] == 5


def test_a_document_that_others_brought_is_looked_at_and_is_no_image(world: World) -> None:
    for instance in ("guest", "own"):
        world.archive.add(instance, "SR")
    world.archive.guests.add("guest")
    world.tick()
    world.tick(dispatcher.MOVING)
    assert world.pool.given == ["guest"]
    world.archive.log.append("guest")  # whatever was written to it
    world.tick()
    with query.reading(File(*world.said["worklist"])) as db:
        assert not query.rows(db, Query(limit=None))
    assert world.said["position"] == 0
    for _ in range(3):  # whatever it does to who reads it
        world.finish("guest", TimeoutError())
        world.tick()
        world.tick(100)
    world.tick(100)  # once more, since something was written to it
    world.archive.delete("guest")
    world.finish("guest", Outcome("gone"))
    world.tick()
    assert (world.pool.given_up, world.archive.marks) == ({}, {})
    assert world.counts() == (0, 0, 0, 0)
    assert world.said["position"] == 3


def test_a_guest_waits_until_orthanc_has_copied_all(world: World) -> None:
    world.archive.guests.add("guest")
    world.archive.add("guest", "SR")
    world.tick()
    for _ in range(20):
        world.tick(dispatcher.LONGEST_PAUSE)
        world.finish("guest", Outcome("later", "Orthanc is copying or moving studies"))
        world.tick()
    assert world.said["position"] == 0
    world.tick(dispatcher.LONGEST_PAUSE)
    world.archive.delete("guest")
    world.pool.tasks["guest"].set_result([Outcome("done", "removed")])
    world.tick()
    assert world.pool.given == ["guest"] * 21
    assert world.said["position"] == 1


def test_a_guest_that_stays_is_looked_at_again_when_that_is_asked_for(world: World) -> None:
    world.archive.guests.add("guest")
    world.archive.add("guest", "SR")
    world.tick()
    world.tick(dispatcher.MOVING)
    world.archive.put_beside("guest", "a")
    world.pool.tasks["guest"].set_result([Outcome("done")])
    world.tick()
    world.tick(100)
    assert world.pool.given == ["guest"]
    world.archive.put_beside("guest", "")
    world.tick()
    world.tick(dispatcher.MOVING)
    assert world.pool.given == ["guest", "guest"]
    world.archive.put_beside("guest", "")  # while that is done
    world.tick()
    world.pool.tasks["guest"].set_result([Outcome("done")])
    world.tick()
    world.tick(dispatcher.MOVING)
    assert world.pool.given == ["guest"] * 3


def test_work_begins_before_a_long_log_is_read(world: World) -> None:
    for number in range(7):
        world.archive.add(f"i{number}")
    assert world.dispatcher.tick(0.0) == 0
    assert (world.pool.given, world.said["position"]) == (["i0", "i1"], 0)
    world.archive.down = True
    assert world.dispatcher.tick(0.0) == 2
    world.archive.down = False
    world.tick(2)
    assert world.said["status"]["pending"] == 7


def test_it_goes_on_trying_for_years(world: World) -> None:
    world.archive.add("a")
    world.tick()
    (task,) = next(iter(world.dispatcher._running.values()))
    task.pauses = 100_000
    world.finish("a", Outcome("later", "Orthanc answered 507"))
    world.tick()
    world.tick(dispatcher.LONGEST_PAUSE)
    assert world.pool.given == ["a", "a"]


def test_a_deleted_image_leaves_no_trace(world: World) -> None:
    world.archive.add("a")
    world.tick()
    del world.archive.modality["a"]
    world.finish("a", Outcome("gone"))
    world.tick()
    assert world.counts() == (0, 0, 0, 0)
    assert world.said["position"] == 1


def test_an_image_that_comes_back_while_its_first_try_ends_is_classified(world: World) -> None:
    world.archive.add("a")
    world.tick()
    world.archive.log.append("a")  # deleted, and stored again before the worker noticed
    world.tick()
    world.finish("a", Outcome("gone"))
    world.tick()
    assert world.pool.given == ["a", "a"]


def test_removing_the_mark_classifies_again(world: World) -> None:
    world.archive.add("a")
    world.tick()
    world.finish("a", Outcome("done"))
    world.tick()
    del world.archive.marks["a"]
    world.archive.log.append("a")
    world.tick()
    assert world.pool.given == ["a", "a"]
    assert world.counts() == (1, 0, 0, 0)


def test_a_mark_that_is_removed_before_its_worker_ends_is_made_again(world: World) -> None:
    world.archive.add("a")
    world.tick()
    world.archive.mark("a", '{"state": "done"}')
    del world.archive.marks["a"]
    world.archive.log.append("a")
    world.tick()
    world.archive.add("b")
    world.tick()
    world.pool.tasks["a"].set_result([Outcome("done")])
    world.tick()
    assert world.pool.given == ["a", "b", "a"]
    assert world.said["position"] == 2  # what was read after it will be read again, if it ends here


def test_a_restart_counts_what_was_done_before_and_forgets_what_is_deleted(world: World) -> None:
    world.archive.add("old")
    world.archive.marks["old"] = {"state": "done"}
    world.start(since=1)
    world.tick()
    assert world.counts() == (0, 1, 0, 0)
    del world.archive.modality["old"]
    world.dispatcher.forget("old")
    world.tick()
    assert world.counts() == (0, 0, 0, 0)
    assert world.pool.given == []


def test_an_archive_that_does_not_answer_is_asked_again(world: World) -> None:
    world.archive.add("a")
    world.archive.down = True
    assert world.tick() == 2.0
    assert any("Orthanc does not answer" in line for line in world.log)
    world.archive.down = False
    world.tick(2)
    assert world.pool.given == ["a"]


def archive_with_a_past(world: World) -> None:
    """Three images from before the first start, one of them with its mark, and nothing in the log since."""
    for instance in ("oldest", "marked", "latest"):
        world.archive.add(instance)
    world.archive.marks["marked"] = {"state": "done"}
    world.start(since=3)


def test_the_past_is_left_alone_until_somebody_asks(world: World) -> None:
    archive_with_a_past(world)
    world.tick()
    assert world.pool.given == []
    assert world.counts() == (0, 1, 0, 0)


def test_a_backfill_classifies_the_past_and_lets_arrivals_go_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "PAGE", 1)
    monkeypatch.setattr(dispatcher, "AHEAD", 0.5)  # one task at a time
    world.pool.workers = 2
    archive_with_a_past(world)
    world.dispatcher.backfill("20200101-")
    world.tick()
    assert "20200101-" in world.archive.asked
    assert world.pool.given == ["latest"]
    assert world.said["status"]["backfill"]["series"] == 3
    world.archive.add("new")
    world.tick()
    world.tick()
    world.finish("latest", Outcome("done"))
    world.tick()
    world.finish("new", Outcome("done"))
    world.tick()
    assert world.pool.given == ["latest", "new", "oldest"]
    world.finish("oldest", Outcome("done"))
    world.said["backfill"] = "unfinished"
    world.tick()
    world.tick()
    assert world.said["backfill"] is None
    assert world.counts() == (0, 4, 0, 0)


def test_a_backfill_does_not_hold_the_position_back(world: World) -> None:
    archive_with_a_past(world)
    world.dispatcher.backfill("")
    world.tick()
    assert len(world.pool.given) == 2
    assert world.said["position"] == 3


def test_a_backfill_can_be_stopped(world: World) -> None:
    archive_with_a_past(world)
    world.pool.trouble = "no model yet"
    world.dispatcher.backfill("")
    world.tick()
    assert world.counts()[0] == 2
    world.dispatcher.backfill(None)
    world.pool.trouble = ""
    world.tick()
    assert world.pool.given == []
    assert world.counts()[0] == 0


def test_what_another_server_works_on_is_looked_at_again_until_it_is_done(world: World) -> None:
    world.archive.add("a")
    world.tick()
    world.finish("a", Outcome("later", "another server works on it", elsewhere=True))
    assert world.tick() == pytest.approx(dispatcher.ELSEWHERE)
    assert world.counts()[0] == 1
    assert world.said["position"] == 0
    world.tick(dispatcher.ELSEWHERE)
    assert world.pool.given == ["a", "a"]
    world.finish("a", Outcome("done", "by another server"))
    world.tick()
    assert world.counts()[:2] == (0, 1)
    assert "tried again" not in str(world.log)


def test_an_arrival_that_the_log_shows_late_holds_the_position(world: World) -> None:
    world.dispatcher = Dispatcher(world.archive, world.pool, 0, 3, world._hear, world.listing, shared=True)
    for instance in ("late", "b", "c"):
        world.archive.add(instance)
    world.archive.log[0] = ""
    world.tick()
    world.archive.log[0] = "late"
    world.tick(changelog.AGAIN)
    assert list(world.dispatcher._arrivals.items()) == [("late", 1), ("b", 2), ("c", 3)]
