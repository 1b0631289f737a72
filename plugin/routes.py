"""The plugin's answers to HTTP requests: reads the marks that the workers left, and knows no DICOM.

Standard library only; Orthanc's index is handed in as `Index`, so that all of it can be tried without a server.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from datetime import date
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import urlsplit

from plugin import marks

WEB = Path(__file__).parent / "web"
PAGES = {"": "index.html", "app.js": "app.js", "style.css": "style.css"}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
"""Sent with every answer."""

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

    def find(self, query: Mapping[str, Any]) -> list[str]:
        """`/tools/find`."""
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
    """`GET /instances/{id}/chest-xray`: the mark word for word, or why there is none."""
    try:
        metadata = index.get(f"/instances/{instance}/metadata?expand")
        if marks.mark_in(metadata):
            return Reply(HTTPStatus.OK, str(marks.text_in(metadata)).encode())
        return _not_ours(index, instance) or _pending(status, instance)
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
    return _pending(status, instance, HTTPStatus.ACCEPTED)


def _not_ours(index: Index, instance: str) -> Reply | None:
    series = index.get(f"/instances/{instance}")["ParentSeries"]
    modality = index.get(f"/series/{series}")["MainDicomTags"].get("Modality", "")
    if marks.eligible_modality(modality):
        return None
    reason = f"Its Modality is {modality or 'missing'}; only {' and '.join(marks.MODALITIES)} images are classified"
    return _json({"state": "skipped", "instance": instance, "reason": reason})


def health(status: Mapping[str, Any]) -> Reply:
    """`GET /chest-xray/status`."""
    return _json(dict(status))


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
        wish = json.loads(body or b"{}")
        if not isinstance(wish, dict) or not wish.keys() <= {"from", "to"}:
            raise ValueError("it must be JSON with nothing but `from` and `to`")
        first, last = (_dicom_date(wish.get(name)) for name in ("from", "to"))
    except (ValueError, TypeError) as problem:
        return _error(HTTPStatus.BAD_REQUEST, f"This is no backfill: {problem}"), None
    return _json({"backfill": "started", **wish}, HTTPStatus.ACCEPTED), f"{first}-{last}" if first or last else ""


def _dicom_date(text: str | None) -> str:
    return f"{date.fromisoformat(text):%Y%m%d}" if text else ""


def results(index: Index, form: str) -> Reply:
    """`GET /chest-xray/results`: every mark there is, as JSON lines or as CSV."""
    if form == "csv":
        return Reply(
            HTTPStatus.OK,
            table(json.loads(text) for text in _texts(index)).encode(),
            "text/csv; charset=utf-8",
        )
    if form:
        return _error(HTTPStatus.BAD_REQUEST, f"format is {form!r}; there is csv, and JSON lines without it")
    return Reply(
        HTTPStatus.OK,
        "".join(text + "\n" for text in _texts(index)).encode(),
        "application/jsonl; charset=utf-8",
    )


def page(name: str) -> Reply:
    """`GET /chest-xray/`: the page for people, and what belongs to it."""
    if name not in PAGES:
        return _error(HTTPStatus.NOT_FOUND, "There is no such page")
    file = WEB / PAGES[name]
    return Reply(HTTPStatus.OK, file.read_bytes(), TYPES[file.suffix])


def table(found: Iterator[Mapping[str, Any]]) -> str:
    """Results as CSV, a row each, with a column for every label that occurs."""
    rows = list(found)
    labels = list(dict.fromkeys(label for row in rows for label in row.get("scores", {})))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*COLUMNS, *IMAGE_COLUMNS, *(f"model_{name}" for name in MODEL_COLUMNS), *labels])
    for row in rows:
        image, model = row.get("image", {}), row.get("model", {})
        cells = [row.get(name, "") for name in COLUMNS[:-1]] + [" ".join(row.get("warnings", ()))]
        cells += [image.get(name, "") for name in IMAGE_COLUMNS] + [model.get(name, "") for name in MODEL_COLUMNS]
        writer.writerow(
            [_cell(str(cell)) for cell in cells] + [row.get("scores", {}).get(label, "") for label in labels]
        )
    return text.getvalue()


def _cell(text: str) -> str:
    """A spreadsheet runs what begins with one of these; the apostrophe makes it text."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _texts(index: Index) -> Iterator[str]:
    for instance in index.find({"Level": "Instance", "Query": {"Modality": "\\".join(marks.MODALITIES)}}):
        try:
            metadata = index.get(f"/instances/{instance}/metadata?expand")
        except LookupError:
            continue  # deleted since
        if marks.mark_in(metadata):
            yield str(marks.text_in(metadata))


def _pending(status: Mapping[str, Any], instance: str, code: int = HTTPStatus.OK) -> Reply:
    reason = status.get("reason") or "It is waiting to be classified"
    return _json({"state": "pending", "instance": instance, "reason": reason}, code)


def _same_origin(headers: Mapping[str, str]) -> bool:
    """Browsers say where a request comes from; programs do not, and are not fooled into sending one."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    return "origin" not in headers or urlsplit(headers["origin"]).netloc == headers.get("host")


def _json(value: Mapping[str, Any], status: int = HTTPStatus.OK) -> Reply:
    return Reply(status, json.dumps(value, ensure_ascii=False).encode())


def _error(status: int, sentence: str) -> Reply:
    return _json({"error": sentence}, status)
