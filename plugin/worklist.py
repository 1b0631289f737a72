"""The worklist: a view over the marks in Orthanc's metadata that can be filtered, sorted and paged at once.

A SQLite file in a temporary folder, made anew at each start and filled from Orthanc in the background. The truth are
the marks: whatever happens to this file, nothing is lost. The process beside Orthanc writes it (`Worklist`), Orthanc's
own process only reads it (`plugin/query.py`). Standard library only.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from plugin import marks, scratch

if TYPE_CHECKING:
    from plugin.archive import Instance, Place

PREFIX = "chest-xray-worklist-"
SPACES = str.maketrans(dict.fromkeys("^=,+", " "))
"""What parts a person's name, in DICOM, on a page and in an address."""

SCHEMA = """
CREATE TABLE images (
    id INTEGER PRIMARY KEY, instance TEXT NOT NULL UNIQUE,
    series TEXT NOT NULL, study TEXT NOT NULL, patient TEXT NOT NULL, SOPInstanceUID TEXT NOT NULL,
    state TEXT NOT NULL, moment REAL NOT NULL, highest REAL,
    PatientID TEXT NOT NULL, PatientName TEXT NOT NULL, StudyDate TEXT NOT NULL, Modality TEXT NOT NULL,
    sought TEXT NOT NULL, walk INTEGER NOT NULL);
CREATE INDEX by_series ON images (series);
CREATE INDEX by_study ON images (study);
CREATE INDEX by_patient ON images (patient);
CREATE INDEX by_moment ON images (moment);
CREATE INDEX by_state ON images (state, moment);
CREATE INDEX by_highest ON images (highest);
CREATE TABLE log (position INTEGER NOT NULL);
INSERT INTO log VALUES (0);
CREATE TABLE marks (image INTEGER PRIMARY KEY, text BLOB NOT NULL);
CREATE TABLE labels (id INTEGER PRIMARY KEY, label TEXT NOT NULL UNIQUE);
CREATE TABLE scores (
    label INTEGER NOT NULL, image INTEGER NOT NULL, score REAL NOT NULL, PRIMARY KEY (label, image)) WITHOUT ROWID;
"""


class Filed(NamedTuple):
    """What an image's mark names, if anything: Orthanc's ids of the image, its study and the documents."""

    instance: str
    study: str
    SOPInstanceUID: str
    documents: set[str]


class Worklist:
    """The file, as its one writer has it. Every method may raise `sqlite3.Error` or `OSError`, as on a full disk."""

    def __init__(self) -> None:
        """There is no file before `renew`."""
        self._open = ExitStack()
        self._walk = 0

    def renew(self) -> str:
        """Begin with an empty file, another one than before; its path."""
        self.close()
        path = self._open.enter_context(scratch.folder(PREFIX, Path(tempfile.gettempdir()))) / "worklist.db"
        self._db = self._open.enter_context(
            closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False))
        )
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")  # after a crash it is made anew
        self._db.executescript(SCHEMA)
        return str(path)

    def close(self) -> None:
        """Remove the file."""
        self._open.close()

    def learn(self, found: Iterable[tuple[Instance, Place]]) -> None:
        """Write down, in place of what was known of them, these images and where they belong."""
        with self._transaction():
            for instance, place in found:
                self._learn(instance, place)

    def place(self, instance: str) -> tuple[str, ...] | None:
        """Where this image belongs, as far as it was learnt: the fields of a `Place`."""
        columns = "study, patient, PatientID, PatientName, StudyDate, Modality"
        row: tuple[str, ...] | None = self._db.execute(
            f"SELECT {columns} FROM images WHERE instance = ?",  # noqa: S608 - our own names alone
            [instance],
        ).fetchone()
        return row

    def forget(self, instances: Iterable[str]) -> None:
        """These instances are not in Orthanc any more; they need not have been images of ours."""
        with self._transaction():
            for instance in instances:
                for (image,) in self._db.execute("SELECT id FROM images WHERE instance = ?", [instance]).fetchall():
                    self._delete(image)

    def filed(self, instances: Iterable[str]) -> list[Filed]:
        """Of those among these that are images of ours."""
        found = []
        for instance in instances:
            for study, uid, text in self._db.execute(
                "SELECT study, SOPInstanceUID, text FROM images LEFT JOIN marks ON image = id WHERE instance = ?",
                [instance],
            ):
                found.append(Filed(instance, study, uid, _documents(_mark(text)) if text else set()))
        return found

    def filed_in(self, studies: Iterable[str]) -> set[str]:
        """The ids of what was filed on the images of these studies."""
        found: set[str] = set()
        for study in studies:
            rows = self._db.execute("SELECT text FROM images JOIN marks ON image = id WHERE study = ?", [study])
            found.update(*(_documents(_mark(text)) for (text,) in rows))
        return found

    def reach(self, position: int) -> None:
        """Everything up to this position in Orthanc's change log is written down."""
        self._db.execute("UPDATE log SET position = ?1 WHERE position != ?1", [position])

    def begin_walk(self) -> None:
        """From now on, everything that Orthanc has will be learnt once more."""
        self._walk += 1

    def end_walk(self) -> None:
        """Forget what was not learnt since `begin_walk`: it was deleted without our being told."""
        with self._transaction():
            for (image,) in self._db.execute("SELECT id FROM images WHERE walk < ?", [self._walk]).fetchall():
                self._delete(image)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:  # a full disk may have ended it already
                self._db.execute("ROLLBACK")

    def _learn(self, found: Instance, place: Place) -> None:
        mark = found.mark or {}
        scores: dict[str, float] = mark.get("scores", {})
        values = {
            "instance": found.id,
            "series": found.series,
            "study": place.study,
            "patient": place.patient,
            "SOPInstanceUID": found.SOPInstanceUID,
            "state": mark.get("state", "pending"),
            "moment": moment(mark.get("created", "")) or moment(found.received),
            "highest": max(scores.values(), default=None),
            "PatientID": place.PatientID,
            "PatientName": place.PatientName,
            "StudyDate": place.StudyDate.replace(".", ""),  # as ACR-NEMA wrote it
            "Modality": place.Modality,
            "sought": f"{folded(place.PatientID)}\n{folded(place.PatientName)}",
            "walk": self._walk,
        }
        columns, holders = ", ".join(values), ", ".join(f":{name}" for name in values)
        update = ", ".join(f"{name} = excluded.{name}" for name in values)
        (image,) = self._db.execute(
            f"INSERT INTO images ({columns}) VALUES ({holders}) "  # noqa: S608 - our own names alone
            f"ON CONFLICT (instance) DO UPDATE SET {update} RETURNING id",
            values,
        ).fetchone()
        self._delete_result(image)
        if mark:
            text = zlib.compress(json.dumps(mark, ensure_ascii=False).encode(errors="replace"), 1)
            self._db.execute("INSERT INTO marks VALUES (?, ?)", [image, text])
        numbers = self._numbers(scores)
        self._db.executemany(
            "INSERT INTO scores VALUES (?, ?, ?)", [(numbers[label], image, score) for label, score in scores.items()]
        )

    def _numbers(self, labels: Iterable[str]) -> dict[str, int]:
        self._db.executemany("INSERT OR IGNORE INTO labels (label) VALUES (?)", [(label,) for label in labels])
        return dict(self._db.execute("SELECT label, id FROM labels"))

    def _delete(self, image: int) -> None:
        self._delete_result(image)
        self._db.execute("DELETE FROM images WHERE id = ?", [image])

    def _delete_result(self, image: int) -> None:
        self._db.execute("DELETE FROM marks WHERE image = ?", [image])
        self._db.execute("DELETE FROM scores WHERE label IN (SELECT id FROM labels) AND image = ?", [image])


def _mark(text: bytes) -> dict[str, Any]:
    """From its row's form."""
    mark: dict[str, Any] = json.loads(zlib.decompress(text))
    return mark


def _documents(mark: dict[str, Any]) -> set[str]:
    """The ids of those that it names."""
    return {one["instance"] for one in marks.documents(mark).values()}


def folded(text: str) -> str:
    """As it is compared with what somebody looks for: without case and accents, and a space for what stands for one."""
    plain = "".join(one for one in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(one))
    return plain.translate(SPACES)


def moment(text: str) -> float:
    """Seconds since 1970, of a mark's own time or of Orthanc's ReceptionDate, which is in UTC; 0 if it is neither."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
