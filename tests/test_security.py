"""Nobody gets in, nothing gets out: what SECURITY.md promises of a running server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from demo.phantoms import radiograph, to_bytes
from plugin import routes
from tests.pacs import Pacs

SECRETS = ("Confidential^Patient", "PID-CONFIDENTIAL", "19510203", "A confidential study", "Dr^Confidential")


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory, prepared_model: Path) -> Iterator[Pacs]:
    with Pacs(tmp_path_factory.mktemp("pacs"), MODEL_FOLDER=str(prepared_model.parent)) as running:
        running.wait_until_ready()
        yield running


@pytest.mark.parametrize("path", ["chest-xray/", "chest-xray/status", "chest-xray/results", "chest-xray/nothing"])
def test_every_answer_has_strict_headers(pacs: Pacs, path: str) -> None:
    answer = pacs.session.get(f"{pacs.url}/{path}", timeout=10)
    for name, value in routes.HEADERS.items():
        assert answer.headers[name] == value
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'self'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", ["%ff", "of/%ff", "backfill%ff", "%ed%a0%80", "style.css%ff"])
def test_what_is_no_text_is_a_page_that_there_is_not(pacs: Pacs, name: str) -> None:
    before = pacs.log()
    answer = pacs.session.get(f"{pacs.url}/chest-xray/{name}", timeout=10)
    assert answer.status_code == 404, answer.text
    assert not [line for line in pacs.log()[len(before) :].splitlines() if line.startswith("E")]


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://elsewhere.example"}])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_another_site_cannot_have_a_browser_change_anything(pacs: Pacs, headers: dict[str, str], method: str) -> None:
    instance = pacs.upload(to_bytes(radiograph(1, rows=64, columns=64)))
    before = pacs.result(instance)
    paths = ["chest-xray/backfill"] + [f"instances/{instance}/chest-xray"] * (method == "POST")
    for path in paths:
        answer = pacs.session.request(method, f"{pacs.url}/{path}", headers=headers, timeout=10)
        assert answer.status_code == 403, path
    assert pacs.result(instance) == before


def test_an_account_is_asked_for_and_there_is_no_default_one(pacs: Pacs) -> None:
    for account in (None, ("orthanc", "orthanc"), ("admin", "admin"), ("chest-xray", ""), (pacs.user, "")):
        for method in ("GET", "POST", "DELETE"):
            for path in ("instances/x/chest-xray", "chest-xray/backfill", "chest-xray/results"):
                answer = requests.request(method, f"{pacs.url}/{path}", auth=account, timeout=10)
                assert answer.status_code == 401, (account, method, path)


def test_the_log_tells_no_patient_and_no_secret(pacs: Pacs) -> None:
    name, patient, birth_date, study, physician = SECRETS
    states = set()
    variants: list[dict[str, Any]] = [{}, {"BodyPartExamined": "FOOT"}, {"BitsAllocated": 24}, {"Rows": 60000}]
    variants += [{"PatientID": f"{patient}\\{name}"}, {"PatientID": f"{patient}ü", "SpecificCharacterSet": "ISO_IR 6"}]
    for seed, changes in enumerate(variants):
        ds = radiograph(50 + seed, rows=64, columns=64)
        ds.PatientName, ds.PatientID, ds.PatientBirthDate = name, patient, birth_date
        ds.StudyDescription, ds.ReferringPhysicianName = study, physician
        for keyword, value in changes.items():
            setattr(ds, keyword, value)
        states.add(pacs.result(pacs.upload(to_bytes(ds)))["state"])
    assert states == {"done", "skipped", "failed"}
    log = pacs.log()
    assert "failed" in log
    assert "PatientID contains a backslash" in log
    for secret in (*SECRETS, pacs.password, "Bearer", "Basic "):
        assert secret not in log


def test_workers_have_no_password_no_new_rights_and_leave_no_core_dumps(pacs: Pacs) -> None:
    beside, *others = pacs.family()
    workers = [process for process in others if "spawn_main" in " ".join(process.cmdline())]
    assert workers
    for process in (beside, *workers):
        assert pacs.password not in json.dumps([process.environ(), process.cmdline()])
    for worker in workers:
        status = Path(f"/proc/{worker.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert worker.rlimit(psutil.RLIMIT_CORE) == (0, 0)
        assert worker.rlimit(psutil.RLIMIT_AS)[0] == 4096 << 20
