"""The plugin's HTTP answers, over an index that is made up."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from plugin import routes
from plugin.archive import Instance, Place
from plugin.query import File
from plugin.worklist import Worklist

READY = {"ready": True, "reason": "", "pending": 0}
DONE = {
    "state": "done",
    "instance": "a",
    "created": "2026-01-02T03:04:05.678+00:00",
    "scores": {"Atelectasis": 0.25, "Lung Opacity": 0.75},
    "image": {"PatientID": "=1+1", "SOPInstanceUID": "1.2.3"},
    "model": {"name": "m", "weights": "stand-in", "weights_sha256": "0" * 64},
    "sr": {"instance": "b"},
    "warnings": ["One.", "Two."],
}


class FakeIndex:
    """Instances by id: their Modality and their mark."""

    def __init__(self, **instances: tuple[str, str | None]) -> None:
        self.instances = instances

    def get(self, path: str) -> Any:
        match path.strip("/").split("/"):
            case ["series", series]:
                return {"MainDicomTags": {"Modality": self._of(series)[0]}}
            case ["instances", instance]:
                self._of(instance)
                return {"ParentSeries": instance}
            case ["instances", instance, "metadata?expand"]:
                text = self._of(instance)[1]
                return {"Origin": "RestApi"} | ({"chest-xray": text} if text else {})
        raise AssertionError(path)

    def _of(self, instance: str) -> tuple[str, str | None]:
        if instance not in self.instances:
            raise LookupError(instance)
        return self.instances[instance]

    def unmark(self, instance: str) -> None:
        self.instances[instance] = (self._of(instance)[0], None)


def test_a_result_is_the_mark_word_for_word() -> None:
    text = json.dumps(DONE)
    reply = routes.result(FakeIndex(a=("CR", text)), READY, "a")
    assert (reply.status, reply.body.decode()) == (200, text)


def test_an_unknown_instance_is_not_found() -> None:
    reply = routes.result(FakeIndex(), READY, "nobody")
    assert reply.status == 404
    assert json.loads(reply.body) == {"error": "Orthanc has no instance nobody"}


def test_what_is_not_a_radiograph_is_skipped_with_the_reason() -> None:
    answer = json.loads(routes.result(FakeIndex(a=("CT", None)), READY, "a").body)
    assert answer["state"] == "skipped"
    assert answer["reason"] == "Its Modality is CT; only CR and DX images are classified"


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (READY, routes.NOT_QUEUED),
        (READY | {"pending": 1}, "It is waiting to be classified"),
        ({"ready": False, "reason": "The model is missing"}, "The model is missing"),
    ],
)
def test_what_is_not_done_yet_is_pending_with_the_reason(status: dict[str, Any], reason: str) -> None:
    answer = json.loads(routes.result(FakeIndex(a=("DX", None)), status, "a").body)
    assert answer == {"state": "pending", "instance": "a", "reason": reason}


def test_classifying_again_removes_the_mark() -> None:
    index = FakeIndex(a=("CR", json.dumps(DONE)))
    reply = routes.again(index, READY, "a", {"host": "pacs:8042"})
    assert reply.status == 202
    assert json.loads(reply.body) == {"state": "pending", "instance": "a", "reason": routes.WAITING}
    assert index.instances["a"] == ("CR", None)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "pacs:8042", "origin": "http://evil.example"},
        {"host": "pacs:8042", "sec-fetch-site": "cross-site"},
        {"host": "pacs:8042", "origin": "null"},
    ],
)
def test_a_page_of_another_site_cannot_trigger_it(headers: dict[str, str]) -> None:
    index = FakeIndex(a=("CR", json.dumps(DONE)))
    assert routes.again(index, READY, "a", headers).status == 403
    assert index.instances["a"][1]


def test_our_own_page_can() -> None:
    headers = {"host": "pacs:8042", "origin": "http://pacs:8042", "sec-fetch-site": "same-origin"}
    assert routes.again(FakeIndex(a=("CR", json.dumps(DONE))), READY, "a", headers).status == 202


def test_classifying_again_what_is_not_ours_says_so() -> None:
    assert json.loads(routes.again(FakeIndex(a=("CT", None)), READY, "a", {}).body)["state"] == "skipped"
    assert routes.again(FakeIndex(), READY, "a", {}).status == 404


def test_pages_come_from_their_own_folder_alone() -> None:
    assert b"<!doctype html>" in routes.page("").body
    assert routes.page("style.css").type.startswith("text/css")
    assert routes.page("../main.py").status == 404
    assert routes.page("index.html/../../main.py").status == 404


@pytest.mark.parametrize(
    ("body", "dates"),
    [
        (b"", ""),
        (b"{}", ""),
        (b'{"from": "2020-01-01"}', "20200101-"),
        (b'{"from": "20200101", "to": "2020-12-31"}', "20200101-20201231"),
    ],
)
def test_a_backfill_takes_dates(body: bytes, dates: str) -> None:
    reply, found = routes.backfill(body, {})
    assert (reply.status, found) == (202, dates)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"[]", "it must be JSON with nothing but `from` and `to`"),
        (b"{", "it is not JSON"),
        (b'{"since": "2020-01-01"}', "it must be JSON with nothing but `from` and `to`"),
        (b'{"from": "yesterday"}', "'yesterday' is no date such as 2026-01-31"),
        (b'{"from": 2020}', "2020 is no date such as 2026-01-31"),
        (b'{"from": "2021-01-01", "to": "2020-01-01"}', "from, 2021-01-01, is after to, 2020-01-01"),
    ],
)
def test_a_backfill_that_makes_no_sense_is_refused(body: bytes, sentence: str) -> None:
    reply, found = routes.backfill(body, {})
    assert (reply.status, found) == (400, None)
    assert json.loads(reply.body)["error"] == f"This is no backfill: {sentence}"


def test_a_backfill_is_not_started_by_other_sites() -> None:
    assert routes.backfill(b"", {"sec-fetch-site": "cross-site"})[0].status == 403


class FakeArchive:
    """One study with two radiographs, their reports, and a CT series; another study without radiographs."""

    resources: Mapping[str, Any] = {
        "/studies/study": {"ID": "study", "ParentPatient": "patient"},
        "/studies/other": {"ID": "other", "ParentPatient": "patient"},
        "/studies/study/series": [
            {"MainDicomTags": {"Modality": "DX"}, "Instances": ["a", "b"]},
            {"MainDicomTags": {"Modality": "SR"}, "Instances": ["report of a"]},
            {"MainDicomTags": {"Modality": "CT"}, "Instances": ["slice"]},
        ],
        "/studies/other/series": [{"MainDicomTags": {}, "Instances": ["scan"]}],
        "/series/dx": {"ParentStudy": "study", "MainDicomTags": {"Modality": "DX"}, "Instances": ["a", "b"]},
        "/series/sr": {"ParentStudy": "study", "MainDicomTags": {"Modality": "SR"}, "Instances": ["r-a", "r-b"]},
        "/series/ct": {"ParentStudy": "study", "MainDicomTags": {"Modality": "CT"}, "Instances": ["slice"]},
        "/instances/a": {"ParentSeries": "dx"},
        "/instances/r-b": {"ParentSeries": "sr"},
        "/instances/slice": {"ParentSeries": "ct"},
        "/instances/a/metadata?expand": {"chest-xray": '{"state": "done", "sr": {"instance": "r-a"}}'},
        "/instances/b/metadata?expand": {"4750": '{"state": "done", "sr": {"instance": "r-b"}}'},
        "/instances/a/patient": {"ID": "patient"},
    }

    def get(self, path: str) -> Any:
        if path not in self.resources:
            raise LookupError(path)
        return self.resources[path]

    def unmark(self, instance: str) -> None:
        raise AssertionError(instance)


@pytest.mark.parametrize(
    ("resource", "level", "study", "instances"),
    [
        ("a", "instance", "study", ["a"]),
        ("r-b", "instance", "study", ["b"]),
        ("slice", "instance", "study", []),
        ("dx", "series", "study", ["a", "b"]),
        ("sr", "series", "study", ["a", "b"]),
        ("ct", "series", "study", []),
        ("study", "study", "study", ["a", "b"]),
        ("other", "study", "other", []),
    ],
)
def test_what_a_page_is_about(resource: str, level: str, study: str, instances: list[str]) -> None:
    reply = routes.about(FakeArchive(), resource)
    assert json.loads(reply.body) == {"level": level, "patient": "patient", "study": study, "instances": instances}


@pytest.mark.parametrize("resource", ["nobody", "", "..", "a/metadata?expand", "a?expand"])
def test_what_orthanc_has_not_got_no_page_is_about(resource: str) -> None:
    assert routes.about(FakeArchive(), resource).status == 404
    assert routes.prior(FakeArchive(), File(), resource).status == 404


@pytest.fixture
def listed() -> Iterator[File]:
    """The file of a worklist with a result, a failure and an image that waits."""
    worklist = Worklist()
    path = worklist.renew()
    failed = {"state": "failed", "instance": "b", "reason": "It has no pixels", "created": "2026-01-01T00:00:00+00:00"}
    place = Place("study", "patient", "P", "Doe", "20260101", "DX")
    for one, mark in (("a", DONE), ("b", failed), ("c", None)):
        worklist.learn([(Instance(one, "dx", mark), place)])
    yield File(path, complete=True)
    worklist.close()


def test_a_page_of_the_worklist(listed: File) -> None:
    answer = json.loads(routes.page_of_worklist(listed, {"limit": "2"}).body)
    assert {**answer, "rows": [row["instance"] for row in answer["rows"]]} == {
        "total": 3,
        "complete": True,
        "labels": ["Atelectasis", "Lung Opacity"],
        "rows": ["a", "b"],
    }


def test_a_worklist_that_is_being_filled_says_so(listed: File) -> None:
    assert json.loads(routes.page_of_worklist(listed._replace(complete=False), {}).body)["complete"] is False
    before = {"total": 0, "complete": False, "labels": [], "rows": []}
    assert json.loads(routes.page_of_worklist(File(), {"finding": "Mass"}).body) == before


def test_a_bad_filter_is_refused_with_a_sentence(listed: File) -> None:
    for reply in (routes.page_of_worklist(listed, {"sort": "x"}), routes.results(listed, {"state": "x"})):
        assert (reply.status, "it must be one of" in json.loads(reply.body)["error"]) == (400, True)


def test_the_status_counts_the_whole_archive(listed: File) -> None:
    answer = json.loads(routes.health({"ready": True, "pending": 7}, listed).body)
    assert answer == {"ready": True, "queued": 7, "pending": 1, "done": 1, "skipped": 0, "failed": 1, "complete": True}


def test_priors_are_of_the_same_patient(listed: File) -> None:
    assert json.loads(routes.prior(FakeArchive(), listed, "a").body) == {"rows": []}


def test_results_are_one_line_for_each_mark_word_for_word(listed: File) -> None:
    lines = routes.results(listed, {}).body.decode().splitlines()
    assert lines[0] == json.dumps(DONE, ensure_ascii=False)
    assert [json.loads(line)["state"] for line in lines] == ["done", "failed"]
    assert routes.results(listed, {"state": "failed"}).body.decode().splitlines() == lines[1:]
    assert routes.results(listed, {"limit": "1", "offset": "1"}).body.decode().splitlines() == lines[1:]
    assert routes.results(listed, {"state": "pending"}).body == b""


def test_results_as_csv_are_safe_in_a_spreadsheet(listed: File) -> None:
    reply = routes.results(listed, {"format": "csv"})
    assert reply.type.startswith("text/csv")
    first, second = csv.DictReader(io.StringIO(reply.body.decode()))
    assert first["PatientID"] == "'=1+1"
    assert (first["Lung Opacity"], first["model_weights"], first["warnings"]) == ("0.75", "stand-in", "One. Two.")
    assert (second["state"], second["reason"], second["Atelectasis"]) == ("failed", "It has no pixels", "")


def test_more_results_than_an_answer_holds_are_refused_and_not_cut_off(
    listed: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "MOST_LINES", 1)
    reply = routes.results(listed, {})
    assert (reply.status, json.loads(reply.body)["error"][:56]) == (
        400,
        "These are 2 results, and one answer holds 1: ask for the",
    )
    assert len(routes.results(listed, {"limit": "1"}).body.splitlines()) == 1
    assert len(routes.results(listed, {"format": "csv"}).body.splitlines()) == 3


def test_another_format_is_refused() -> None:
    assert routes.results(File(), {"format": "xml"}).status == 400
