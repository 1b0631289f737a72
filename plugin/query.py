"""Questions to the worklist: what a request asks for, and the rows that answer it. Standard library only."""

from __future__ import annotations

import json
import re
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import unquote_plus

from plugin.worklist import SCHEMA, folded

STATES = ("pending", "done", "skipped", "failed")
SORTS = ("newest", "suspicious")
PARAMETERS = ("state", "finding", "from", "to", "patient", "study", "series", "sort", "limit", "offset", "format")
MOST = 500  # rows of one page
MOST_WORDS = 50  # of a patient's name that is looked for
PRESENT = 0.5  # report.OPERATING_POINT, which is too heavy to be imported here

COLUMNS = (
    "SELECT images.instance, images.study, images.series, images.PatientID, images.PatientName, images.StudyDate, "
    "images.Modality, marks.text"
)


class BadQuery(ValueError):
    """A sentence that names the parameter, its value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which images, in which order; `limit` None means all of them. The dates are DICOM's."""

    state: str = ""
    finding: str = ""
    first: str = ""
    last: str = ""
    patient: str = ""
    study: str = ""
    series: str = ""
    sort: str = "newest"
    limit: int | None = 50
    offset: int = 0
    with_mark: bool = False

    @classmethod
    def read(cls, wish: Mapping[str, str], most: int = MOST, **defaults: Any) -> Self:
        """From a request's parameters. :raises BadQuery: also if one is unknown: misspelt, it would mean all images."""
        if unknown := sorted(wish.keys() - {*PARAMETERS, ""}):  # an address may end with &
            raise BadQuery(f"There is no parameter {unknown[0]!r}; there are {', '.join(PARAMETERS)}")
        wish = {name: _decoded(value) for name, value in wish.items()}
        values = defaults | {name: wish[name] for name in ("finding", "patient", "study", "series") if name in wish}
        for name, allowed in (("state", STATES), ("sort", SORTS)):
            if wish.get(name):
                values[name] = _one_of(name, wish[name], allowed)
        for name, field in (("from", "first"), ("to", "last")):
            if wish.get(name):
                values[field] = _date(name, wish[name])
        if values.get("first") and values.get("last", "9") < values["first"]:
            raise BadQuery(f"from, {wish['from']}, is after to, {wish['to']}")
        if len(values.get("patient", "").split()) > MOST_WORDS:
            raise BadQuery(f"patient has more than {MOST_WORDS} words")
        for name, largest in (("limit", most), ("offset", 1 << 62)):
            if wish.get(name):
                values[name] = _whole(name, wish[name], largest)
        return cls(**values)

    def where(self) -> tuple[str, list[Any]]:
        """The tables and conditions in SQL, and their parameters."""
        tables = "images"
        conditions: list[str] = []
        values: list[Any] = []
        if self.finding:
            tables += " JOIN scores ON scores.image = images.id"
            conditions += ["scores.label = (SELECT id FROM labels WHERE label = ?)", "scores.score >= ?"]
            values += [self.finding, PRESENT]
        for name in ("state", "study", "series"):
            if value := getattr(self, name):
                conditions.append(f"images.{name} = ?")
                values.append(value)
        if self.with_mark:
            conditions.append("images.state != 'pending'")
        for word in folded(self.patient).split():
            conditions.append("instr(images.sought, ?)")
            values.append(word)
        if self.first or self.last:
            conditions.append("images.StudyDate BETWEEN ? AND ?")
            values += [self.first or "0", self.last or "9"]
        return f"{tables} WHERE {' AND '.join(conditions) or '1'}", values

    def order(self) -> str:
        """The sort order in SQL."""
        suspicion = ("scores.score" if self.finding else "images.highest") + " DESC, "
        return f"{suspicion if self.sort == 'suspicious' else ''}images.moment DESC, images.id DESC"


def _decoded(value: str) -> str:
    """Orthanc 1.10 hands a query's values over as they stand in the address, 1.13 decodes them."""
    return unquote_plus(value) if re.fullmatch(r"[\w.~!*'();:@&=+$,/?%#\[\]-]*", value, re.ASCII) else value


def _one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise BadQuery(f"{name} is {value!r}; it must be one of {', '.join(allowed)}")
    return value


def _date(name: str, value: str) -> str:
    try:
        return date.fromisoformat(value).isoformat().replace("-", "")
    except ValueError:
        raise BadQuery(f"{name} is {value!r}; it must be a date, as 2026-01-31") from None


def _whole(name: str, value: str, most: int) -> int:
    if not re.fullmatch("[0-9]{1,19}", value) or int(value) > most:
        raise BadQuery(f"{name} is {value[:40]!r}; it must be a whole number from 0 to {most}")
    return int(value)


class File(NamedTuple):
    """The worklist's file, '' where there is none, and whether everything in the archive stands in it."""

    path: str = ""
    complete: bool = False


@contextmanager
def reading(file: File) -> Iterator[sqlite3.Connection]:
    """What the file says at this moment, whatever is written meanwhile. :raises sqlite3.Error:"""
    address = f"{Path(file.path).as_uri()}?mode=ro" if file.path else ":memory:"
    with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as db:
        if not file.path:
            db.executescript(SCHEMA)
        db.execute("BEGIN")
        yield db


def position(file: File) -> int:
    """Up to where in Orthanc's change log the file knows everything."""
    with reading(file) as db:
        (reached,) = db.execute("SELECT position FROM log").fetchone()
    return int(reached)


def counts(db: sqlite3.Connection) -> dict[str, int]:
    """How many images there are in each state."""
    return dict.fromkeys(STATES, 0) | dict(db.execute("SELECT state, count(*) FROM images GROUP BY state"))


def labels(db: sqlite3.Connection) -> list[str]:
    """The labels that occur in results, in the model's order."""
    found = db.execute(
        "SELECT label FROM labels WHERE EXISTS (SELECT 1 FROM scores WHERE scores.label = labels.id) ORDER BY id"
    )
    return [label for (label,) in found]


def total(db: sqlite3.Connection, query: Query) -> int:
    """How many images the query means, whatever its limit and offset. :raises BadQuery: for an unknown finding."""
    known = labels(db)
    if query.finding and known and query.finding not in known:
        raise BadQuery(f"finding is {query.finding!r}; it must be one of {', '.join(known)}")
    tables, values = query.where()
    (number,) = db.execute(f"SELECT count(*) FROM {tables}", values).fetchone()  # noqa: S608 - values are bound
    return int(number)


def rows(db: sqlite3.Connection, query: Query) -> list[dict[str, Any]]:
    """One page of the worklist."""
    return [_row(*found) for found in _found(db, query)]


def texts(db: sqlite3.Connection, query: Query) -> Iterator[bytes]:
    """The marks, word for word."""
    for *_, text in _found(db, query):
        yield zlib.decompress(text)


def prior(db: sqlite3.Connection, instance: str, patient: str) -> list[dict[str, Any]]:
    """The results of the patient's other images, oldest first.

    :param patient: Orthanc's id. Without a PatientID it is everybody's: only the image's own study counts then.
    """
    found = db.execute(
        f"{COLUMNS} FROM images LEFT JOIN marks ON marks.image = images.id WHERE images.patient = ? "  # noqa: S608
        "AND images.instance != ? AND state = 'done' AND (trim(images.PatientID) != '' "
        "OR images.study = (SELECT study FROM images WHERE instance = ?)) ORDER BY StudyDate, moment, images.id",
        [patient, instance, instance],
    )
    return [_row(*one) for one in found]


def _found(db: sqlite3.Connection, query: Query) -> Iterator[Any]:
    tables, values = query.where()
    limit = -1 if query.limit is None else query.limit
    # The order is found among the narrow rows first, and the marks are read for those that are wanted alone.
    wanted = f"SELECT images.id FROM {tables} ORDER BY {query.order()} LIMIT ? OFFSET ?"  # noqa: S608 - values are bound
    ids = [image for (image,) in db.execute(wanted, [*values, limit, query.offset])]
    one = f"{COLUMNS} FROM images LEFT JOIN marks ON marks.image = images.id WHERE images.id = ?"
    return (db.execute(one, [image]).fetchone() for image in ids)


def _row(
    instance: str, study: str, series: str, patient_id: str, patient_name: str, day: str, modality: str, text: bytes
) -> dict[str, Any]:
    mark: dict[str, Any] = json.loads(zlib.decompress(text)) if text else {"state": "pending"}
    return {
        "instance": instance,
        "study": study,
        "series": series,
        "state": mark["state"],
        "reason": mark.get("reason", ""),
        "created": mark.get("created", ""),
        "PatientID": patient_id,
        "PatientName": patient_name,
        "StudyDate": day,
        "ViewPosition": mark.get("image", {}).get("ViewPosition", ""),
        "Modality": modality,
        "scores": mark.get("scores", {}),
        "findings": mark.get("findings", []),
        "weights": mark.get("model", {}).get("weights", ""),
        "warnings": len(mark.get("warnings", [])),
        "sr": mark.get("sr", {}).get("instance", ""),
    }
