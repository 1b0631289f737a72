"""Everything that is said to Orthanc, over its REST API on the loopback interface.

The plugin's processes never use the SDK's own REST functions for writing: a Python thread that stores through them
while an upload waits for the interpreter stops all uploads.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Sequence
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from plugin.marks import (
    BESIDE,
    DECODING,
    MANUFACTURER,
    METADATA,
    MODALITIES,
    SERIES_NUMBERS,
    eligible_modality,
    is_report_uid,
    mark_in,
    may_be_document,
)
from plugin.settings import IN_FLIGHT, Connection

TIMEOUT = Timeout(connect=5, read=120)  # seconds; reading: between two bytes of an answer
TRIES = 5  # of what others may undo in the same moment
COPYING = ("ResourceModification", "MergeStudy", "SplitStudy")
CHANGED = {"ModifiedFrom", "AnonymizedFrom"}
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"


class ArchiveUnavailable(Exception):
    """Orthanc does not answer, or cannot do now what it is asked: to be tried again later. One sentence."""


class Refused(Exception):
    """Orthanc will not take this object, now or later. One sentence."""


class Conflict(Refused):
    """Others have written there meanwhile."""


class Gone(Exception):
    """The instance is no longer there."""


class Change(NamedTuple):
    """One entry of Orthanc's change log that can make an instance ours to classify."""

    seq: int
    instance: str


class Instance(NamedTuple):
    """An instance as the index knows it; `mark` is our own result, or None where there is none."""

    id: str
    series: str
    mark: dict[str, Any] | None
    received: str = ""  # ReceptionDate, which Orthanc writes in UTC
    SOPInstanceUID: str = ""
    changed_here: bool = False  # made by Orthanc, which modified or anonymised another one
    guest: bool = False  # if it is a document of ours: it was not this plugin that put it there, as far as can be told
    beside: str = ""  # of a guest that may stay: Orthanc's id of the image that it was seen with


class Place(NamedTuple):
    """Where a series' instances belong: Orthanc's ids, and what the index knows under DICOM's keywords."""

    study: str
    patient: str
    PatientID: str
    PatientName: str
    StudyDate: str
    Modality: str


class Series(NamedTuple):
    """What decides whether a series' instances are ours, and where their reports belong."""

    id: str
    study: str
    instances: Sequence[str]
    radiographs: bool  # CR or DX, so that each instance gets a mark
    documents: bool = False  # written by us, or copies of that, whatever their Modality is by now


class Stored(NamedTuple):
    """Where Orthanc put an object: Orthanc's ids, and whether it was not there before."""

    instance: str
    series: str
    study: str
    new: bool


class Archive:
    """A client for one Orthanc, with persistent connections of its own, one for each thread; one for each process.

    Every method raises `ArchiveUnavailable` where a later try may succeed.
    """

    def __init__(self, connection: Connection) -> None:
        """Nothing is sent yet."""
        self._url = connection.url
        # Without accounts, what others send cannot be told from what this plugin does.
        self._own = {"127.0.0.1", "::1", urlsplit(connection.url).hostname} if connection.accounts else set()
        self._headers = {
            "Authorization": connection.authorization,
            # Orthanc would deflate each image for us, which takes longer than everything else that is done to it.
            "Accept-Encoding": "identity",
        }
        # Orthanc closes idle connections after a second; everything that we send may be sent twice.
        retries = Retry(total=3, backoff_factor=0.1, allowed_methods=None, redirect=False)
        trust = connection.trust()
        # urllib3 looks at the certificate's name by itself as well, unless it is told not to.
        secure: dict[str, Any] = {"ssl_context": trust, "assert_hostname": False} if trust else {}
        self._pool = PoolManager(maxsize=IN_FLIGHT, timeout=TIMEOUT, retries=retries, **secure)

    def _ask(self, method: str, path: str, **arguments: Any) -> BaseHTTPResponse:
        headers = self._headers | arguments.pop("headers", {})
        try:
            answer = self._pool.request(method, self._url + path, headers=headers, **arguments)
        except HTTPError as problem:
            raise ArchiveUnavailable(f"Orthanc does not answer {method} {path} ({type(problem).__name__})") from None
        if answer.status == 404:
            raise Gone(path)
        if answer.status >= 500 or answer.status in (401, 403, 429):
            raise ArchiveUnavailable(f"Orthanc answered {method} {path} with {_reason(answer)}")
        if answer.status == 409:
            raise Conflict(f"Orthanc refused {method} {path} with {_reason(answer)}")
        if answer.status >= 400:
            raise Refused(f"Orthanc refused {method} {path} with {_reason(answer)}")
        return answer

    def changes(self, since: int, limit: int = 1000) -> tuple[list[Change], int, bool]:
        """New instances, and instances whose metadata changed, after `since` in Orthanc's log.

        Returns them with the log's position behind them and whether that is its end.
        """
        log = self._ask("GET", f"/changes?since={since}&limit={limit}").json()
        found = [
            Change(entry["Seq"], entry["ID"])
            for entry in log["Changes"]
            if entry["ChangeType"] in ("NewInstance", "UpdatedMetadata") and entry["ResourceType"] == "Instance"
        ]
        return found, log["Last"] if log["Changes"] else since, log["Done"]

    def instances(self, ids: Collection[str]) -> list[Instance]:
        """What the index knows of these instances, in one request; those that are gone are left out."""
        return [_instance(row, row["Metadata"], self._own) for row in self._rows("Instance", ids)]

    def series(self, ids: Collection[str]) -> list[Series]:
        """These series, or those of these instances, in one request; what is gone is left out."""
        return [_series(row) for row in self._rows("Series", ids)]

    def series_in(self, study: str) -> list[Series]:
        """:raises Gone: if there is no such study any more."""
        return [_series(row) for row in self._ask("GET", f"/studies/{study}/series").json()]

    def _rows(self, level: str, ids: Collection[str]) -> list[dict[str, Any]]:
        if not ids:
            return []
        query = {"Resources": list(ids), "Level": level, "Metadata": level == "Instance"}
        for _ in range(TRIES):
            with suppress(Gone):  # one of them was deleted while Orthanc was answering
                rows: list[dict[str, Any]] = self._ask("POST", "/tools/bulk-content", json=query).json()
                return rows
        raise ArchiveUnavailable("Instances are deleted while they are looked up")

    def radiographs(self, study_dates: str = "") -> list[str]:
        """The ids of all CR and DX series, the latest arrivals last.

        :param study_dates: a range of StudyDate as DICOM writes it (`20200101-`), or '' for all.
        """
        query = {"Modality": "\\".join(MODALITIES)} | ({"StudyDate": study_dates} if study_dates else {})
        found: list[str] = self._ask("POST", "/tools/find", json={"Level": "Series", "Query": query}).json()
        return found

    def documents(self) -> list[str]:
        """The ids of all series with documents of ours."""
        query = {"Manufacturer": MANUFACTURER, "Modality": "\\".join(SERIES_NUMBERS)}
        found: list[str] = self._ask("POST", "/tools/find", json={"Level": "Series", "Query": query}).json()
        return found

    def places(self, series: Collection[str]) -> dict[str, Place]:
        """Where these series belong, in two requests; those that are gone are left out."""
        rows = self._rows("Series", series)
        studies = {row["ID"]: row for row in self._rows("Study", {row["ParentStudy"] for row in rows})}
        return {row["ID"]: _place(row, studies[row["ParentStudy"]]) for row in rows if row["ParentStudy"] in studies}

    def file(self, instance: str) -> bytes:
        """The stored DICOM file. :raises Gone: if it was deleted."""
        try:
            return self._ask("GET", f"/instances/{instance}/file").data
        except Gone:
            self.version(instance)
            raise ArchiveUnavailable(f"Orthanc has the instance {instance} and not its file") from None

    def decoded(self, instance: str) -> bytes | None:
        """An image as Orthanc's own decoders read it, for `pixels.decoded_elsewhere`; None if they cannot.

        They run in Orthanc's own process, and what no decoder of ours reads may end it. The metadata DECODING then
        stands still, so that the same image does not end it again after its restart.
        """
        path, decoding = f"/instances/{instance}", f"/instances/{instance}/metadata/{DECODING}"
        try:
            self._ask("GET", decoding)
        except Gone:
            self._ask("PUT", decoding, body=b"1")
        else:
            self._replace("DELETE", decoding)
            return None
        # NumPy files hold what Orthanc's built-in decoder reads; transcoded ones, from 1.12.2 on, what its plugins do.
        # (/modify transcodes in every release, but Orthanc 1.10 with GDCM crashes at it, one time in ten.)
        for form in ("numpy?rescale=false", f"file?transcode={EXPLICIT_VR_LITTLE_ENDIAN}"):
            try:
                answer = self._pool.request("GET", f"{self._url}{path}/{form}", headers=self._headers, retries=False)
            except HTTPError as problem:
                raise ArchiveUnavailable(f"Orthanc does not answer while decoding {path} ({problem})") from None
            if answer.status == 200:
                break
        self._replace("DELETE", decoding)
        return answer.data if answer.status == 200 else None

    def store(self, data: bytes) -> Stored:
        """Store one DICOM file; the same file a second time changes nothing.

        :raises Refused: with Orthanc's own word for it.
        """
        answer = self._ask("POST", "/instances", body=data, headers={"Content-Type": "application/dicom"}).json()
        if answer["Status"] not in ("Success", "AlreadyStored"):
            raise Refused(f"Orthanc did not keep the report: its answer was {answer['Status']}")
        new = answer["Status"] == "Success"
        return Stored(answer["ID"], answer["ParentSeries"], answer["ParentStudy"], new)

    def find(self, sop_instance_uid: str) -> list[Instance]:
        """The instances of this SOPInstanceUID, in whatever study; none if it is no UID."""
        if not re.fullmatch("[0-9.]{1,64}", sop_instance_uid):
            return []
        found = self._ask("POST", "/tools/lookup", body=sop_instance_uid.encode()).json()
        return self.instances([one["ID"] for one in found if one["Type"] == "Instance"])

    def is_copying(self) -> bool:
        """Whether Orthanc is modifying, anonymising, merging or splitting something at present.

        Such a job ends with an error if what it has made is removed before its end.
        """
        jobs = self._ask("GET", "/jobs?expand").json()
        return any(job["Type"] in COPYING and job["State"] in ("Pending", "Running", "Retry") for job in jobs)

    def holds(self, study: str, sop_instance_uid: str) -> bool:
        """Whether a study has an instance of this SOPInstanceUID."""
        rows = self._ask("GET", f"/studies/{study}/instances").json()
        return any(row["MainDicomTags"]["SOPInstanceUID"] == sop_instance_uid for row in rows)

    def identity(self, instance: str) -> tuple[str, str]:
        """SeriesInstanceUID and SOPInstanceUID. :raises Gone: if it was deleted."""
        row = self._ask("GET", f"/instances/{instance}").json()
        series = self._ask("GET", f"/series/{row['ParentSeries']}").json()
        return series["MainDicomTags"]["SeriesInstanceUID"], row["MainDicomTags"]["SOPInstanceUID"]

    def version(self, instance: str) -> str:
        """Another text for each file that is stored under this id. :raises Gone: if it was deleted."""
        version: str = self._ask("GET", f"/instances/{instance}").json()["FileUuid"]
        return version

    def delete(self, instance: str) -> None:
        """Undo a `store`; nothing happens if it is gone already."""
        try:
            self._ask("DELETE", f"/instances/{instance}")
        except Gone:
            return

    def unmark(self, instance: str) -> None:
        """Remove our result; nothing happens if it is gone already."""
        try:
            self._replace("DELETE", _mark_of(instance))
        except Gone:
            return

    def mark(self, instance: str, result: str) -> None:
        """Write our result, a JSON text, to the instance's metadata. :raises Gone: if it was deleted."""
        self._replace("PUT", _mark_of(instance), body=result.encode())

    def marked(self, instance: str) -> tuple[str, str]:
        """The text that stands in the mark's place, and its revision; both '' if there is none."""
        try:
            answer = self._ask("GET", _mark_of(instance))
        except Gone:
            return "", ""
        return answer.data.decode(errors="replace"), answer.headers.get("ETag", "")

    def put_beside(self, guest: str, image: str) -> None:
        """Write down that a guest stays, with the id of its image, or '' to have it looked at once more.

        :raises Gone: if the guest was deleted.
        """
        self._replace("PUT", f"/instances/{guest}/metadata/{BESIDE}", body=image.encode())

    def claim(self, instance: str, text: str, instead_of: str) -> None:
        """Write a claim into the mark's place, if that holds the revision `instead_of`, '' for nothing.

        :raises Conflict: if it holds anything else by now.
        :raises Gone: if the instance was deleted.
        """
        self._ask("PUT", _mark_of(instance), body=text.encode(), headers=_if_match(instead_of))

    def _replace(self, method: str, path: str, **arguments: Any) -> None:
        """PUT or DELETE metadata, whatever it holds. Where Orthanc checks revisions, it wants to be told that."""
        revision = ""
        for _ in range(TRIES):
            try:
                self._ask(method, path, headers=_if_match(revision), **arguments)
                return
            except Conflict:
                revision = self._ask("GET", path).headers.get("ETag", "")
        raise ArchiveUnavailable(f"Others write to {path} all the time")


def _mark_of(instance: str) -> str:
    return f"/instances/{instance}/metadata/{METADATA}"


def _if_match(revision: str) -> dict[str, str]:
    return {"If-Match": revision} if revision else {}


def _instance(row: dict[str, Any], metadata: dict[str, str], own_addresses: Container[str | None]) -> Instance:
    uid = row["MainDicomTags"].get("SOPInstanceUID", "")
    changed = not CHANGED.isdisjoint(metadata)
    # The plugin's token belongs to no account.
    here = metadata.get("RemoteIP", "").removeprefix("::ffff:") in own_addresses
    by_us = here and metadata.get("Origin") == "RestApi" and not metadata.get("HttpUsername")
    return Instance(
        row["ID"],
        row["ParentSeries"],
        mark_in(metadata),
        metadata.get("ReceptionDate", ""),
        uid,
        changed,
        changed or not by_us or not is_report_uid(uid),
        metadata.get(str(BESIDE), ""),
    )


def _series(row: dict[str, Any]) -> Series:
    tags = row["MainDicomTags"]
    modality = tags.get("Modality", "")
    return Series(
        row["ID"],
        row["ParentStudy"],
        row["Instances"],
        eligible_modality(modality),
        may_be_document(tags.get("Manufacturer", ""), modality, tags.get("SeriesNumber", "")),
    )


def _place(series: dict[str, Any], study: dict[str, Any]) -> Place:
    return Place(
        study=study["ID"],
        patient=study["ParentPatient"],
        PatientID=study["PatientMainDicomTags"].get("PatientID", ""),
        PatientName=study["PatientMainDicomTags"].get("PatientName", ""),
        StudyDate=study["MainDicomTags"].get("StudyDate", ""),
        Modality=series["MainDicomTags"].get("Modality", ""),
    )


def _reason(answer: BaseHTTPResponse) -> str:
    try:
        problem = answer.json()
        return f"{answer.status}: {problem.get('Details') or problem['Message']}"
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"{answer.status} {answer.reason}"
