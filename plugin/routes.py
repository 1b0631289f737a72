"""The plugin's answers to HTTP requests: reads the marks that the workers left, and knows no DICOM.

One image's mark comes from Orthanc itself, lists of them from the worklist's file. Standard library only; Orthanc's
index is handed in as `Index`, so that all of it can be tried without a server.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import date
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from plugin import marks, query
from plugin.query import BadQuery, File, Query

WEB = Path(__file__).parent / "web"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

MOST_LINES, MOST_ROWS = 20_000, 200_000
"""Results in one answer, as JSON lines and as CSV: about 100 MB, since Orthanc 1.10 takes no answer in pieces."""

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
"""Sent with every answer."""

WAITING = "It is waiting to be classified"
NOT_QUEUED = (
    "It is not queued: it came just now, or was in the archive before the plugin, and then POST or a backfill has it "
    "classified"
)

COLUMNS = ("state", "reason", "instance", "created", "warnings")
IMAGE_COLUMNS = (
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "StudyDate",
    "ViewPosition",
)
MODEL_COLUMNS = ("name", "version", "weights", "weights_sha256")


class Index(Protocol):
    """What the routes ask of Orthanc, inside the same process."""

    def get(self, path: str) -> Any:
        """The JSON of a REST path. :raises LookupError: if there is no such resource."""
        ...

    def unmark(self, instance: str) -> None:
        """Remove the mark, and have the change log say so even if there was none.

        :raises LookupError: if there is no such instance.
        """
        ...


class Reply(NamedTuple):
    """An answer to be sent."""

    status: int
    body: bytes
    type: str = "application/json; charset=utf-8"


def result(index: Index, status: Mapping[str, Any], instance: str) -> Reply:
    """`GET /instances/{id}/chest-xray`: the mark, or why there is none."""
    try:
        metadata = index.get(f"/instances/{instance}/metadata?expand")
        if mark := marks.mark_in(metadata):
            return _json(mark if "instance" in mark else {**mark, "instance": instance})
        return _not_ours(index, instance) or _pending(
            status, instance, WAITING if status.get("pending") else NOT_QUEUED
        )
    except LookupError:
        return _error(HTTPStatus.NOT_FOUND, f"Orthanc has no instance {instance}")


def again(index: Index, status: Mapping[str, Any], instance: str, headers: Mapping[str, str]) -> Reply:
    """`POST /instances/{id}/chest-xray`: classify it once more, by removing its mark."""
    if not _same_origin(headers):
        return _error(HTTPStatus.FORBIDDEN, "This request was sent by a page of another site")
    try:
        if reply := _not_ours(index, instance):
            return reply
        index.unmark(instance)
    except LookupError:
        return _error(HTTPStatus.NOT_FOUND, f"Orthanc has no instance {instance}")
    return _pending(status, instance, WAITING, HTTPStatus.ACCEPTED)


def _not_ours(index: Index, instance: str) -> Reply | None:
    series = index.get(f"/instances/{instance}")["ParentSeries"]
    modality = index.get(f"/series/{series}")["MainDicomTags"].get("Modality", "")
    if marks.eligible_modality(modality):
        return None
    reason = f"Its Modality is {modality or 'missing'}; only {' and '.join(marks.MODALITIES)} images are classified"
    return _json({"state": "skipped", "instance": instance, "reason": reason})


def health(status: Mapping[str, Any], worklist: File) -> Reply:
    """`GET /chest-xray/status`: `queued` is what is to do now; the other numbers are of the whole archive."""
    with query.reading(worklist) as db:
        counts = query.counts(db)
    return _json({**status, "queued": status.get("pending", 0), **counts, "complete": worklist.complete})


def page_of_worklist(worklist: File, wish: Mapping[str, str]) -> Reply:
    """`GET /chest-xray/worklist`: a page of all images of ours, filtered and sorted."""
    try:
        asked = Query.read(wish)
        with query.reading(worklist) as db:
            found = {
                "total": query.total(db, asked),
                "complete": worklist.complete,
                "labels": query.labels(db),
                "rows": query.rows(db, asked),
            }
    except BadQuery as sentence:
        return _error(HTTPStatus.BAD_REQUEST, str(sentence))
    return _json(found)


def prior(index: Index, worklist: File, instance: str) -> Reply:
    """`GET /chest-xray/prior?instance=`: the same patient's other results, oldest first."""
    try:
        patient = _resource(index, f"/instances/{instance}/patient", instance)["ID"]
    except LookupError:
        return _error(HTTPStatus.NOT_FOUND, f"Orthanc has no instance {instance}")
    with query.reading(worklist) as db:
        return _json({"rows": query.prior(db, instance, patient)})


def about(index: Index, resource: str) -> Reply:
    """`GET /chest-xray/of/{id}`: the images that the pages of an instance, a series or a study are about."""
    for level, parent in (("instance", "instances"), ("series", "series"), ("study", "studies")):
        try:
            found = _resource(index, f"/{parent}/{resource}", resource)
        except LookupError:
            continue
        if level == "instance":
            found = index.get(f"/series/{found['ParentSeries']}")
        study = found if level == "study" else index.get(f"/studies/{found['ParentStudy']}")
        instances = _radiographs(index, study) if level == "study" else _named_by(index, study, found, level, resource)
        answer = {"level": level, "patient": study["ParentPatient"], "study": study["ID"], "instances": instances}
        return _json(answer)
    return _error(HTTPStatus.NOT_FOUND, f"Orthanc has no instance, series or study {resource}")


def _resource(index: Index, path: str, name: str) -> dict[str, Any]:
    """:raises LookupError: also for what is no id at all, and may lead elsewhere in Orthanc's REST API."""
    if not re.fullmatch(r"[\w-]+", name):
        raise LookupError(name)
    found: dict[str, Any] = index.get(path)
    return found


def _radiographs(index: Index, study: Mapping[str, Any]) -> list[str]:
    series = index.get(f"/studies/{study['ID']}/series")
    return [one for each in series if _is_ours(each) for one in each["Instances"]]


def _named_by(
    index: Index, study: Mapping[str, Any], series: Mapping[str, Any], level: str, resource: str
) -> list[str]:
    """Themselves if they are radiographs, else those whose marks name one of them as their report."""
    wanted = [resource] if level == "instance" else series["Instances"]
    if _is_ours(series):
        return list(wanted)
    return [
        image
        for image in _radiographs(index, study)
        if any(f'"{one}"' in str(marks.text_in(index.get(f"/instances/{image}/metadata?expand"))) for one in wanted)
    ]


def _is_ours(series: Mapping[str, Any]) -> bool:
    return marks.eligible_modality(series["MainDicomTags"].get("Modality", ""))


def backfill(body: bytes | None, headers: Mapping[str, str]) -> tuple[Reply, str | None]:
    """`POST /chest-xray/backfill`: classify what was there before, and `DELETE`, without a body: stop that.

    The body is empty or JSON with `from` and `to`, dates of studies as YYYY-MM-DD or YYYYMMDD, both included. Returns
    the answer and the range of StudyDate that it means: '' for all, None for nothing.
    """
    if not _same_origin(headers):
        return _error(HTTPStatus.FORBIDDEN, "This request was sent by a page of another site"), None
    if body is None:
        return _json({"backfill": "stopped"}, HTTPStatus.ACCEPTED), None
    try:
        wish = _read_json(body or b"{}")
        if not isinstance(wish, dict) or not wish.keys() <= {"from", "to"}:
            raise ValueError("it must be JSON with nothing but `from` and `to`")
        first, last = (_dicom_date(wish.get(name)) for name in ("from", "to"))
        if first and last and first > last:
            raise ValueError(f"from, {wish['from']}, is after to, {wish['to']}")
    except ValueError as problem:
        return _error(HTTPStatus.BAD_REQUEST, f"This is no backfill: {problem}"), None
    return _json({"backfill": "started", **wish}, HTTPStatus.ACCEPTED), f"{first}-{last}" if first or last else ""


def _read_json(body: bytes) -> Any:
    try:
        return marks.parse(body)
    except ValueError:
        raise ValueError("it is not JSON") from None


def _dicom_date(text: str | None) -> str:
    try:
        return date.fromisoformat(text).isoformat().replace("-", "") if text else ""
    except (ValueError, TypeError):
        raise ValueError(f"{text!r} is no date such as 2026-01-31") from None


def results(worklist: File, wish: Mapping[str, str]) -> Reply:
    """`GET /chest-xray/results`: the marks that the worklist's filters mean, as JSON lines or as CSV.

    All of them, unless there is a `limit`; more than one answer may hold are refused, never cut off in silence.
    """
    form = wish.get("format", "")
    if form not in ("", "csv"):
        return _error(HTTPStatus.BAD_REQUEST, f"format is {form!r}; there is csv, and JSON lines without it")
    most = MOST_ROWS if form else MOST_LINES
    try:
        asked = Query.read(wish, most, limit=None, with_mark=True)
        with query.reading(worklist) as db:
            total = query.total(db, asked)
            if asked.limit is None and total > most:
                raise BadQuery(
                    f"These are {total} results, and one answer holds {most}: "
                    f"ask for them in parts, with limit={most} and offset=0, {most} and so on, or filter them"
                )
            found = query.texts(db, asked)
            if form:
                return Reply(HTTPStatus.OK, table(map(json.loads, found), query.labels(db)), "text/csv; charset=utf-8")
            return Reply(HTTPStatus.OK, _lines(found), "application/jsonl; charset=utf-8")
    except BadQuery as sentence:
        return _error(HTTPStatus.BAD_REQUEST, str(sentence))


def page(name: str) -> Reply:
    """`GET /chest-xray/`: the pages for people, and what belongs to them."""
    file = WEB / (name if "." in name else f"{name or 'index'}.html")
    if file not in WEB.iterdir() or file.suffix not in TYPES:
        return _error(HTTPStatus.NOT_FOUND, "There is no such page")
    return Reply(HTTPStatus.OK, file.read_bytes(), TYPES[file.suffix])


def unreadable(problem: sqlite3.Error) -> Reply:
    """What is answered where the worklist's file cannot be read."""
    return _error(HTTPStatus.SERVICE_UNAVAILABLE, f"The worklist cannot be read just now ({problem})")


def table(found: Iterable[Mapping[str, Any]], labels: list[str]) -> bytes:
    """Results as CSV, a row each, with a column for each of the labels."""
    output = io.BytesIO()
    text = io.TextIOWrapper(output, encoding="utf-8", errors="replace", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow([*COLUMNS, *IMAGE_COLUMNS, *(f"model_{name}" for name in MODEL_COLUMNS), *labels])
    for row in found:
        image, model = row.get("image", {}), row.get("model", {})
        cells = [row.get(name, "") for name in COLUMNS[:-1]] + [" ".join(row.get("warnings", ()))]
        cells += [image.get(name, "") for name in IMAGE_COLUMNS] + [model.get(name, "") for name in MODEL_COLUMNS]
        writer.writerow(
            [_cell(str(cell)) for cell in cells] + [row.get("scores", {}).get(label, "") for label in labels]
        )
    return output.getvalue()


def _lines(texts: Iterable[bytes]) -> bytes:
    output = io.BytesIO()  # which holds them once; a join would do so twice
    for text in texts:
        output.write(text + b"\n")
    return output.getvalue()


def _cell(text: str) -> str:
    """A spreadsheet runs what begins with one of these; the apostrophe makes it text."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _pending(status: Mapping[str, Any], instance: str, otherwise: str, code: int = HTTPStatus.OK) -> Reply:
    """With the reason why nothing is classified at present, or `otherwise`."""
    return _json({"state": "pending", "instance": instance, "reason": status.get("reason") or otherwise}, code)


def _same_origin(headers: Mapping[str, str]) -> bool:
    """Browsers say where a request comes from; programs do not, and are not fooled into sending one."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == headers.get("host")


def _json(value: Mapping[str, Any], status: int = HTTPStatus.OK) -> Reply:
    return Reply(status, json.dumps(value, ensure_ascii=False).encode(errors="replace"))


def _error(status: int, sentence: str) -> Reply:
    return _json({"error": sentence}, status)
