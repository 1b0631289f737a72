"""The worklist's file, and the questions to it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugin import query
from plugin.archive import Instance, Place
from plugin.query import BadQuery, File, Query
from plugin.worklist import PREFIX, Worklist


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


class Listed:
    """A worklist and the path of its file."""

    def __init__(self) -> None:
        self.worklist = Worklist()
        self.path = self.worklist.renew()

    def learn(
        self,
        instance: str,
        mark: dict[str, Any] | None = None,
        *,
        study: str = "study",
        patient: str = "P1",
        name: str = "Doe^Jane",
        date: str = "20260102",
        received: str = "20260101T000000",
    ) -> None:
        place = Place(study, f"patient {patient}", patient, name, date, "DX")
        self.worklist.learn([(Instance(instance, f"series of {instance}", mark, received), place)])

    def rows(self, **wish: str) -> list[dict[str, Any]]:
        with query.reading(File(self.path)) as db:
            asked = Query.read(wish)
            found = query.rows(db, asked)
            assert query.total(db, Query.read({**wish, "limit": "", "offset": ""})) >= len(found)
            return found

    def ids(self, **wish: str) -> list[str]:
        return [row["instance"] for row in self.rows(**wish)]

    def labels(self) -> list[str]:
        with query.reading(File(self.path)) as db:
            return query.labels(db)

    def counts(self) -> dict[str, int]:
        with query.reading(File(self.path)) as db:
            return query.counts(db)


@pytest.fixture
def listed() -> Iterator[Listed]:
    made = Listed()
    yield made
    made.worklist.close()


def done(created: str = "2026-01-02T03:04:05.678+00:00", **scores: float) -> dict[str, Any]:
    return {
        "state": "done",
        "created": created,
        "scores": scores,
        "findings": [label for label, score in scores.items() if score >= 0.5],
        "image": {"ViewPosition": "PA", "PatientID": "as the image says it"},
        "model": {"weights": "stand-in"},
        "warnings": ["One.", "Two."],
        "sr": {"instance": "report"},
    }


def test_a_row_says_what_the_page_shows(listed: Listed) -> None:
    listed.learn("a", done(Mass=0.75, Edema=0.25))
    listed.learn("b")
    assert listed.rows(state="done") == [
        {
            "instance": "a",
            "study": "study",
            "series": "series of a",
            "state": "done",
            "reason": "",
            "created": "2026-01-02T03:04:05.678+00:00",
            "PatientID": "P1",
            "PatientName": "Doe^Jane",
            "StudyDate": "20260102",
            "ViewPosition": "PA",
            "Modality": "DX",
            "scores": {"Mass": 0.75, "Edema": 0.25},
            "findings": ["Mass"],
            "weights": "stand-in",
            "warnings": 2,
            "sr": "report",
        }
    ]
    (pending,) = listed.rows(state="pending")
    assert (pending["instance"], pending["created"], pending["scores"], pending["sr"]) == ("b", "", {}, "")


def test_newest_first_whatever_the_time_zone_and_pending_ones_where_they_arrived(listed: Listed) -> None:
    listed.learn("first", done("2026-01-01T23:00:00.000+00:00"))
    listed.learn("third", done("2026-01-02T00:30:00.000-04:00"))
    listed.learn("second", done("2026-01-02T01:00:00.000+00:00"))
    listed.learn("waiting", received="20260102T023000")
    assert listed.ids() == ["third", "waiting", "second", "first"]
    assert listed.ids(limit="2", offset="1") == ["waiting", "second"]


def test_most_suspicious_first_by_any_finding_or_by_a_chosen_one(listed: Listed) -> None:
    listed.learn("mass", done(Mass=0.9, Edema=0.6))
    listed.learn("edema", done(Mass=0.1, Edema=0.8))
    listed.learn("nothing", done(Mass=0.2, Edema=0.3))
    listed.learn("failed", {"state": "failed", "reason": "It has no pixels", "created": "2026-01-03T00:00:00+00:00"})
    assert listed.ids(sort="suspicious") == ["mass", "edema", "nothing", "failed"]
    assert listed.ids(sort="suspicious", finding="Edema") == ["edema", "mass"]
    assert listed.ids(finding="Mass") == ["mass"]


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ({"state": "failed"}, ["b"]),
        ({"patient": "müller a"}, ["b"]),
        ({"patient": "MÜLLER^A"}, ["b"]),
        ({"patient": "m%C3%BCller+a"}, ["b"]),
        ({"patient": "m%C3%BCller%20a"}, ["b"]),
        ({"patient": "1+2%3"}, ["no date"]),
        ({"patient": "1%2B2%253"}, ["no date"]),
        ({"patient": "p1"}, ["a"]),
        ({"patient": "_"}, []),
        ({"from": "2026-02-01"}, ["b"]),
        ({"to": "2026-01-31"}, ["a"]),
        ({"from": "2026-01-02", "to": "2026-01-02"}, ["a"]),
        ({"to": "2030-01-01"}, ["b", "a"]),
        ({"study": "other"}, ["b"]),
        ({"series": "series of a"}, ["a"]),
        ({"study": "other", "state": "done"}, []),
        ({"state": "", "": ""}, ["b", "a", "no date"]),
        ({"patient": "Anna, Muller"}, ["b"]),
    ],
)
def test_filters(listed: Listed, wish: dict[str, str], expected: list[str]) -> None:
    listed.learn("no date", done("2025-01-01T00:00:00+00:00"), date="", patient="1+2%3")
    listed.learn("a", done())
    failed = {"state": "failed", "reason": "No pixels", "created": "2026-03-01T00:00:00+00:00"}
    listed.learn("b", failed, study="other", patient="P2", name="Müller^Anna", date="2026.03.01")
    assert listed.ids(**wish) == expected


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"state": "ready"}, "state is 'ready'; it must be one of pending, done, skipped, failed"),
        ({"sort": "worst"}, "sort is 'worst'; it must be one of newest, suspicious"),
        ({"from": "yesterday"}, "from is 'yesterday'; it must be a date, as 2026-01-31"),
        (
            {"fidning": "Mass"},
            "There is no parameter 'fidning'; there are state, finding, from, to, patient, study, series, sort, limit, "
            "offset, format",
        ),
        ({"limit": "501"}, "limit is '501'; it must be a whole number from 0 to 500"),
        ({"offset": "-1"}, "offset is '-1'"),
        ({"finding": "Flu"}, "finding is 'Flu'; it must be one of Mass"),
    ],
)
def test_a_bad_value_is_said_with_what_is_allowed(listed: Listed, wish: dict[str, str], sentence: str) -> None:
    listed.learn("a", done(Mass=0.9))
    with pytest.raises(BadQuery) as problem:
        listed.rows(**wish)
    assert str(problem.value).startswith(sentence)


def test_another_mark_takes_the_place_of_the_first_with_all_its_scores(listed: Listed) -> None:
    listed.learn("b", done(Mass=0.9))
    listed.learn("a", done(Mass=0.9))
    listed.learn("a", done(Edema=0.8))
    assert (listed.ids(finding="Mass"), listed.ids(finding="Edema")) == (["b"], ["a"])
    listed.learn("a", done(Mass=0.1))
    listed.learn("a")
    assert (listed.ids(finding="Mass"), listed.ids(state="pending")) == (["b"], ["a"])
    assert listed.counts() == {"pending": 1, "done": 1, "skipped": 0, "failed": 0}


def test_labels_go_with_the_last_result_that_has_them(listed: Listed) -> None:
    listed.learn("a", done(Mass=0.9, Edema=0.1))
    listed.learn("b", done(Mass=0.9, Flu=0.8))
    assert listed.labels() == ["Mass", "Edema", "Flu"]
    listed.learn("a", done(Mass=0.9))
    assert listed.labels() == ["Mass", "Flu"]
    listed.worklist.forget(["b"])
    assert listed.labels() == ["Mass"]
    with pytest.raises(BadQuery, match="finding is 'Flu'; it must be one of Mass"):
        listed.rows(finding="Flu")
    listed.learn("c", done(Mass=0.9, Edema=0.1))
    assert listed.labels() == ["Mass", "Edema"]


def test_what_is_forgotten_leaves_nothing(listed: Listed) -> None:
    listed.learn("a", done(Mass=0.9))
    listed.worklist.forget(["a", "never seen"])
    with query.reading(File(listed.path)) as db:
        for table in ("images", "marks", "scores"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_a_walk_forgets_what_it_did_not_meet(listed: Listed) -> None:
    listed.worklist.begin_walk()
    for one in ("there", "gone", "arrives"):
        listed.learn(one, done(Mass=0.9))
    listed.worklist.begin_walk()
    listed.learn("there", done(Mass=0.9))
    listed.learn("arrives")
    listed.worklist.end_walk()
    assert set(listed.ids()) == {"there", "arrives"}


def test_half_a_surrogate_does_no_harm(listed: Listed) -> None:
    listed.learn("a", {"state": "failed", "reason": "\ud800"})
    assert listed.rows()[0]["reason"] == "?"


def test_priors_are_the_patients_other_results_oldest_first(listed: Listed) -> None:
    listed.learn("now", done(Mass=0.1), date="20260102")
    listed.learn("older", done(Mass=0.2), date="20240102", study="before")
    listed.learn("newer", done(Mass=0.3), date="20260202", study="after")
    listed.learn("waiting", study="after")
    listed.learn("somebody else's", done(Mass=0.4), patient="P2")
    with query.reading(File(listed.path)) as db:
        assert [row["instance"] for row in query.prior(db, "now", "patient P1")] == ["older", "newer"]


def test_images_without_a_patient_id_are_not_of_one_patient(listed: Listed) -> None:
    for one, study in (("now", "study"), ("lateral", "study"), ("somebody else's", "other")):
        listed.learn(one, done(Mass=0.1), study=study, patient=" ")
    with query.reading(File(listed.path)) as db:
        assert [row["instance"] for row in query.prior(db, "now", "patient  ")] == ["lateral"]


def test_before_there_is_a_file_the_worklist_is_empty() -> None:
    with query.reading(File()) as db:
        assert (query.rows(db, Query()), query.total(db, Query(finding="Mass")), query.labels(db)) == ([], 0, [])


def test_what_is_read_does_not_change_while_it_is_read(listed: Listed) -> None:
    listed.learn("a", done(Mass=0.9))
    with query.reading(File(listed.path)) as db:
        assert query.total(db, Query()) == 1
        listed.learn("b")
        assert query.total(db, Query()) == 1


def test_reading_writes_nothing(listed: Listed) -> None:
    with query.reading(File(listed.path)) as db, pytest.raises(sqlite3.OperationalError):
        db.execute("DELETE FROM images")


def test_a_full_disk_is_said_and_a_new_file_works(listed: Listed) -> None:
    listed.worklist._db.execute("PRAGMA max_page_count = 30")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        for number in range(1000):
            listed.learn(f"i{number}", done(Mass=0.9))
    first, listed.path = listed.path, listed.worklist.renew()
    assert not Path(first).parent.exists()
    listed.learn("a", done(Mass=0.9))
    assert listed.ids() == ["a"]


def test_the_file_is_private_and_goes_with_its_owner(listed: Listed) -> None:
    folder = Path(listed.path).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    listed.worklist.close()
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed_and_nothing_else(temporary: Path) -> None:
    left, in_use, just_made, other = (
        temporary / name for name in (f"{PREFIX}left", f"{PREFIX}used", f"{PREFIX}new", "x")
    )
    for folder in (left, in_use, just_made, other):
        folder.mkdir()
        (folder / "worklist.db").touch()
    for folder in (left, in_use, other):
        os.utime(folder, (0, time.time() - 3600))
    (temporary / f"{PREFIX}link").symlink_to(other)
    lock = os.open(in_use, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    worklist = Worklist()
    worklist.renew()
    worklist.close()
    os.close(lock)
    assert [folder.exists() for folder in (left, in_use, just_made, other)] == [False, True, True, True]
    assert (other / "worklist.db").exists()
