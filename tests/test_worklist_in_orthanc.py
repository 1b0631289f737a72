"""The worklist of a real Orthanc: filled at the start, in step with what happens, gone at the end."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo.phantoms import radiograph, to_bytes
from tests.pacs import Pacs, wait_for


def rows(pacs: Pacs, query: str = "") -> dict[str, dict[str, Any]]:
    return {row["instance"]: row for row in pacs.get(f"/chest-xray/worklist?{query}")["rows"]}


def wait_for_states(pacs: Pacs, expected: dict[str, str], query: str = "") -> None:
    def as_expected() -> bool | None:
        answer = pacs.get(f"/chest-xray/worklist?{query}")
        found = {row["instance"]: row["state"] for row in answer["rows"]}
        return (answer["complete"] and found == expected and answer["total"] == len(expected)) or None

    wait_for(as_expected, 20, lambda: f"{rows(pacs, query)}\n{pacs.log()}")


def image(seed: int, **attributes: Any) -> bytes:
    return to_bytes(radiograph(seed, rows=64, columns=64, **attributes))


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


def files(folder: Path) -> list[str]:
    return [one.name for one in folder.glob("chest-xray-worklist-*")]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory, prepared_model: Path) -> Iterator[Pacs]:
    with Pacs(tmp_path_factory.mktemp("pacs"), MODEL_FOLDER=str(prepared_model.parent)) as running:
        running.wait_until_ready()
        yield running


def test_it_follows_arrivals_results_retries_and_every_kind_of_deletion(pacs: Pacs) -> None:
    images = [pacs.upload(image(seed, patient_id=f"P{seed}")) for seed in range(5)]
    for one in images:
        pacs.result(one)
    wait_for_states(pacs, dict.fromkeys(images, "done"))
    before = rows(pacs)[images[0]]["created"]
    pacs.session.post(f"{pacs.url}/instances/{images[0]}/chest-xray", timeout=10)
    wait_for(lambda: rows(pacs)[images[0]]["created"] > before or None, 20, pacs.log)
    for number, level in enumerate(("instance", "series", "study", "patient")):
        resource = f"/instances/{images[number]}" + ("" if level == "instance" else f"/{level}")
        found = pacs.get(resource)["ID"]
        plural = {"instance": "instances", "study": "studies", "patient": "patients"}.get(level, level)
        assert pacs.session.delete(f"{pacs.url}/{plural}/{found}", timeout=10).ok
    wait_for_states(pacs, {images[4]: "done"})
    assert pacs.get("/chest-xray/status")["done"] == 1
    again = pacs.upload(image(3, patient_id="P3"))
    pacs.result(again)
    wait_for_states(pacs, {again: "done", images[4]: "done"})


def test_results_hold_every_mark_that_could_be_seen_before(pacs: Pacs) -> None:
    for seed in range(31, 36):
        result = pacs.result(pacs.upload(image(seed, patient_id="AT ONCE")))
        lines = pacs.session.get(f"{pacs.url}/chest-xray/results?patient=at%20once", timeout=10).text.splitlines()
        assert result in [json.loads(line) for line in lines]


def test_a_hostile_name_stays_json_and_a_name_that_is_not_ascii_is_found(pacs: Pacs) -> None:
    hostile = "<script>alert(1)</script>"
    one = pacs.upload(image(11, patient_id=hostile, SpecificCharacterSet="ISO_IR 192", PatientName="Müller^Änne"))
    pacs.result(one)
    wait_for(lambda: rows(pacs, "patient=MÜLLER^ä").get(one), 10, pacs.log)
    answer = pacs.session.get(f"{pacs.url}/chest-xray/worklist?patient=%3Cscript", timeout=10)
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    (row,) = answer.json()["rows"]
    assert (row["PatientID"], row["PatientName"]) == (hostile, "Müller^Änne")


def test_of_a_filter_that_is_given_twice_the_last_counts(pacs: Pacs) -> None:
    one = pacs.upload(image(12))
    pacs.result(one)
    wait_for(lambda: rows(pacs, "state=failed&state=done").get(one), 10, pacs.log)
    assert rows(pacs, "state=done&state=failed") == {}


def test_priors_and_what_a_page_is_about(pacs: Pacs) -> None:
    images = [
        pacs.result(pacs.upload(image(seed, patient_id="AGAIN", StudyDate=day, StudyID=f"{seed}")))
        for seed, day in ((21, "20250101"), (22, "20230101"), (23, "20240101"))
    ]
    ids = [one["instance"] for one in images]

    def priors() -> list[str] | None:
        found = [row["instance"] for row in pacs.get(f"/chest-xray/prior?instance={ids[0]}")["rows"]]
        return found if len(found) == 2 else None

    assert wait_for(priors, 10, pacs.log) == [ids[2], ids[1]][::-1]
    for one in images:
        assert pacs.get(f"/chest-xray/of/{one['sr']['instance']}")["instances"] == [one["instance"]]
        series = pacs.get(f"/instances/{one['sr']['instance']}")["ParentSeries"]
        assert pacs.get(f"/chest-xray/of/{series}")["instances"] == [one["instance"]]


def test_it_is_filled_from_what_is_there_and_its_file_never_stays(
    tmp_path: Path, temporary: Path, prepared_model: Path
) -> None:
    environ = {"MODEL_FOLDER": str(prepared_model.parent), "TMPDIR": str(temporary)}
    with Pacs(tmp_path, {"Plugins": []}, **environ) as pacs:
        images = [pacs.upload(image(seed, patient_id=f"P{seed}")) for seed in range(120)]
        for one in images[:-1]:
            mark = json.dumps({"state": "failed", "instance": one, "reason": "A test", "created": "2026-01-01"})
            pacs.session.put(f"{pacs.url}/instances/{one}/metadata/4750", data=mark, timeout=10)
    expected = {one: "pending" if one == images[-1] else "failed" for one in images}
    with Pacs(tmp_path, **environ) as pacs:
        wait_for_states(pacs, expected, "limit=500")
        assert len(pacs.get("/chest-xray/worklist?limit=100&offset=70")["rows"]) == 50
        assert pacs.get("/chest-xray/status")["failed"] == 119
        assert len(files(temporary)) == 1
        pacs.kill()
        wait_for(lambda: not files(temporary) or None, 5, pacs.log)
        pacs.start()
        wait_for_states(pacs, expected, "limit=500")
    assert files(temporary) == []


def test_a_companion_that_is_killed_leaves_an_empty_list_and_the_next_one_fills_it(
    tmp_path: Path, temporary: Path, prepared_model: Path
) -> None:
    with Pacs(tmp_path, MODEL_FOLDER=str(prepared_model.parent), TMPDIR=str(temporary)) as pacs:
        one = pacs.upload(image(1))
        pacs.result(one)
        wait_for_states(pacs, {one: "done"})
        companion = pacs.companion()
        companion.send_signal(signal.SIGKILL)
        (left,) = temporary.glob("chest-xray-worklist-*")
        os.utime(left, (0, 0))
        wait_for(lambda: not left.exists() or None, 20, pacs.log)
        wait_for_states(pacs, {one: "done"})
        assert len(files(temporary)) == 1
