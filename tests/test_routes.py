"""The plugin's HTTP answers, over an index that is made up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from plugin import routes

READY = {"ready": True, "reason": "", "pending": 0}
DONE = {
    "state": "done",
    "instance": "a",
    "created": "2026-01-02T03:04:05.678+00:00",
    "scores": {"Atelectasis": 0.25, "Lung Opacity": 0.75},
    "image": {"PatientID": "=1+1", "SOPInstanceUID": "1.2.3"},
    "model": {"name": "m", "weights": "stand-in", "weights_sha256": "0" * 64},
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
        (READY, "It is waiting to be classified"),
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
    assert json.loads(reply.body)["state"] == "pending"
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


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"since": "2020-01-01"}', b'{"from": "yesterday"}', b'{"from": 2020}'])
def test_a_backfill_that_makes_no_sense_is_refused(body: bytes) -> None:
    reply, found = routes.backfill(body, {})
    assert (reply.status, found) == (400, None)
    assert "This is no backfill" in json.loads(reply.body)["error"]


def test_a_backfill_is_not_started_by_other_sites() -> None:
    assert routes.backfill(b"", {"sec-fetch-site": "cross-site"})[0].status == 403
