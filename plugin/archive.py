"""Everything that is said to Orthanc, over its REST API on the loopback interface.

The plugin's processes never use the SDK's own REST functions for writing: a Python thread that stores through them
while an upload waits for the interpreter stops all uploads.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from plugin.marks import MANUFACTURER, METADATA, MODALITIES, mark_in
from plugin.settings import IN_FLIGHT, Connection

TIMEOUT = Timeout(connect=5, read=120)  # seconds; reading: between two bytes of an answer
DECODING = 4752  # the metadata that stands while Orthanc is decoding an image for us
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
    """An instance as the index knows it; `mark` is our own result, or None where there is none or nobody asked."""

    id: str
    series: str
    mark: dict[str, Any] | None
    received: str = ""  # ReceptionDate, which Orthanc writes in UTC
    SOPInstanceUID: str = ""


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

    modality: str
    study: str
    manufacturer: str = ""


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

    def instances(self, ids: Sequence[str], marks: bool = True) -> list[Instance]:
        """What the index knows of these instances, in one request; those that are gone are left out."""
        if not ids:
            return []
        query = {"Resources": list(ids), "Level": "Instance", "Metadata": marks}
        rows = self._ask("POST", "/tools/bulk-content", json=query).json()
        return [_instance(row, row.get("Metadata", {})) for row in rows]

    def series(self, series: str) -> Series:
        """:raises Gone: if there is no such series any more."""
        row = self._ask("GET", f"/series/{series}").json()
        tags = row["MainDicomTags"]
        return Series(tags.get("Modality", ""), row["ParentStudy"], tags.get("Manufacturer", ""))

    def radiographs(self, study_dates: str = "") -> list[str]:
        """The ids of all CR and DX series, the latest arrivals last.

        :param study_dates: a range of StudyDate as DICOM writes it (`20200101-`), or '' for all.
        """
        query = {"Modality": "\\".join(MODALITIES)} | ({"StudyDate": study_dates} if study_dates else {})
        found: list[str] = self._ask("POST", "/tools/find", json={"Level": "Series", "Query": query}).json()
        return found

    def instances_of(self, series: Sequence[str]) -> list[Instance]:
        """What the index knows of these series' instances."""
        query = {"Resources": list(series), "Level": "Series"}
        rows = self._ask("POST", "/tools/bulk-content", json=query).json()
        return self.instances([instance for row in rows for instance in row["Instances"]])

    def places(self, series: Sequence[str]) -> dict[str, Place]:
        """Where these series belong, in two requests; those that are gone are left out."""
        if not series:
            return {}
        query = {"Resources": list(series), "Level": "Series"}
        rows = self._ask("POST", "/tools/bulk-content", json=query).json()
        query = {"Resources": sorted({row["ParentStudy"] for row in rows}), "Level": "Study"}
        studies = {row["ID"]: row for row in self._ask("POST", "/tools/bulk-content", json=query).json()}
        return {row["ID"]: _place(row, studies[row["ParentStudy"]]) for row in rows if row["ParentStudy"] in studies}

    def file(self, instance: str) -> bytes:
        """The stored DICOM file. :raises Gone: if it was deleted."""
        return self._ask("GET", f"/instances/{instance}/file").data

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

    def documents(self, study: str, besides: Collection[str] = ()) -> dict[str, str]:
        """The instances in a study that we wrote, and copies of them: their SOPInstanceUIDs by their ids."""
        ids = [
            instance
            for series in self._ask("GET", f"/studies/{study}/series").json()
            if series["MainDicomTags"].get("Manufacturer") == MANUFACTURER
            for instance in series["Instances"]
            if instance not in besides
        ]
        if not ids:
            return {}
        rows = self._ask("POST", "/tools/bulk-content", json={"Resources": ids, "Level": "Instance"}).json()
        return {row["ID"]: row["MainDicomTags"]["SOPInstanceUID"] for row in rows}

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

    def claim(self, instance: str, text: str, instead_of: str) -> None:
        """Write a claim into the mark's place, if that holds the revision `instead_of`, '' for nothing.

        :raises Conflict: if it holds anything else by now.
        :raises Gone: if the instance was deleted.
        """
        self._ask("PUT", _mark_of(instance), body=text.encode(), headers=_if_match(instead_of))

    def _replace(self, method: str, path: str, **arguments: Any) -> None:
        """PUT or DELETE metadata, whatever it holds. Where Orthanc checks revisions, it wants to be told that."""
        revision = ""
        for _ in range(5):
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


def _instance(row: dict[str, Any], metadata: dict[str, str]) -> Instance:
    return Instance(
        row["ID"],
        row["ParentSeries"],
        mark_in(metadata),
        metadata.get("ReceptionDate", ""),
        row["MainDicomTags"].get("SOPInstanceUID", ""),
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
