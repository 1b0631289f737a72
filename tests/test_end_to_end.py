"""The whole way, with nothing made up: a real Orthanc, real DICOM tools, TorchXRayVision itself as the oracle."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from pydicom import Dataset, uid
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from demo.phantoms import radiograph, to_bytes
from demo.serve import ROOT
from plugin import sr
from tests import oracle
from tests.pacs import Pacs, free_port, wait_for


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory, prepared_model: Path) -> Iterator[Pacs]:
    with Pacs(tmp_path_factory.mktemp("pacs"), MODEL_FOLDER=str(prepared_model.parent)) as running:
        running.wait_until_ready()
        yield running


def expect_report(pacs: Pacs, densenet: Any, instance: str, data: bytes) -> None:
    """One SR, in the image's own study, with TorchXRayVision's scores, and the same scores in the JSON."""
    result = pacs.result(instance)
    assert result["state"] == "done", result
    assert pacs.reports_beside(instance) == [result["sr"]["instance"]]
    expected = oracle.scores(densenet, oracle.model_input(data))
    assert list(result["scores"]) == densenet.pathologies
    np.testing.assert_allclose(list(result["scores"].values()), expected, atol=1e-4, rtol=0)
    report = pacs.report(result)
    assert report.SOPInstanceUID == result["sr"]["SOPInstanceUID"]
    read = sr.read(report)
    assert read["scores"] == pytest.approx(result["scores"], abs=1e-9)
    assert result["model"]["weights"] == "stand-in"
    assert "stand-in" in report.SeriesDescription


def test_by_rest(pacs: Pacs, densenet: Any) -> None:
    data = to_bytes(radiograph(1))
    expect_report(pacs, densenet, pacs.upload(data), data)


def test_as_a_zip(pacs: Pacs, densenet: Any) -> None:
    images = [to_bytes(radiograph(seed, modality="CR", rows=300, columns=260)) for seed in (11, 12)]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for number, data in enumerate(images):
            zipped.writestr(f"folder/{number}.dcm", data)
    answer = pacs.session.post(f"{pacs.url}/instances", data=archive.getvalue(), timeout=60)
    instances = [one["ID"] for one in answer.json()]
    assert len(instances) == 2
    for instance, data in zip(instances, images, strict=True):
        expect_report(pacs, densenet, instance, data)


@pytest.mark.parametrize(
    ("seed", "syntax", "option"),
    [(21, uid.ExplicitVRLittleEndian, "-xe"), (22, uid.JPEGLosslessSV1, "-xs"), (23, uid.RLELossless, "-xr")],
)
def test_by_c_store(pacs: Pacs, densenet: Any, tmp_path: Path, seed: int, syntax: uid.UID, option: str) -> None:
    ds = radiograph(seed, rows=512, columns=400, photometric="MONOCHROME1", transfer_syntax=syntax)
    file = tmp_path / "image.dcm"
    file.write_bytes(to_bytes(ds))
    subprocess.run(["storescu", option, "127.0.0.1", str(pacs.dicom_port), str(file)], check=True)
    expect_report(pacs, densenet, pacs.instance(ds.SOPInstanceUID), file.read_bytes())


def test_other_machines_do_not_get_in_over_http(pacs: Pacs) -> None:
    interfaces = psutil.net_if_addrs().values()
    addresses = [one.address for each in interfaces for one in each if one.family == socket.AF_INET]
    address = next(one for one in addresses if not one.startswith("127."))
    try:
        answer = requests.get(f"http://{address}:{pacs.http_port}/system", auth=(pacs.user, pacs.password), timeout=5)
    except requests.ConnectionError:
        return  # Orthanc 1.12 and later do not even listen
    assert answer.status_code in (401, 403)


def test_by_stow_rs(pacs: Pacs, densenet: Any) -> None:
    ds = radiograph(31, rows=512, columns=512, bits_stored=8)
    data = to_bytes(ds)
    body = b"--cut\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--cut--\r\n"
    headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=cut'}
    answer = pacs.session.post(f"{pacs.url}/dicom-web/studies", data=body, headers=headers, timeout=60)
    assert answer.ok, answer.text
    expect_report(pacs, densenet, pacs.instance(ds.SOPInstanceUID), data)


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    yield driver
    driver.quit()


def sign_in(browser: webdriver.Chrome, pacs: Pacs) -> None:
    """A browser keeps the account that one address named; pages with it in their address cannot fetch anything."""
    browser.get(pacs.url.replace("//", f"//{pacs.user}:{pacs.password}@") + "/system")


def test_by_the_upload_page_of_orthanc_explorer(
    pacs: Pacs, densenet: Any, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    ds = radiograph(41, rows=600, columns=500)
    file = tmp_path / "image.dcm"
    file.write_bytes(to_bytes(ds))
    sign_in(browser, pacs)
    browser.get(f"{pacs.url}/app/explorer.html#upload")
    browser.find_element(By.CSS_SELECTOR, "#upload input[type=file]").send_keys(str(file))
    WebDriverWait(browser, 10).until(lambda page: file.name in page.find_element(By.ID, "upload-list").text)
    browser.find_element(By.ID, "upload-button").click()
    expect_report(pacs, densenet, pacs.instance(ds.SOPInstanceUID), file.read_bytes())


@pytest.mark.parametrize("modality", ["CT", "OT", "SR"])
def test_nothing_else_is_touched(pacs: Pacs, modality: str) -> None:
    ds = radiograph(61, rows=64, columns=64, patient_id=f"OTHER-{modality}")
    ds.Modality = modality
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    instance = pacs.upload(to_bytes(ds))
    result = pacs.get(f"/instances/{instance}/chest-xray")
    assert (result["state"], modality in result["reason"]) == ("skipped", True)
    marker = pacs.upload(to_bytes(radiograph(62, rows=64, columns=64, patient_id=f"AFTER-{modality}")))
    pacs.result(marker)  # whatever was to happen to the first one has happened by now
    assert len(pacs.get(f"/studies/{pacs.get(f'/instances/{instance}/study')['ID']}/series")) == 1
    metadata = pacs.get(f"/instances/{instance}/metadata")
    assert "chest-xray" not in metadata


def without_pixels() -> Dataset:
    ds = radiograph(71, rows=64, columns=64)
    del ds.PixelData
    return ds


def in_colour() -> Dataset:
    ds = radiograph(72, rows=64, columns=64, bits_stored=8)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.PixelData = bytes(64 * 64 * 3)
    return ds


def with_frames() -> Dataset:
    ds = radiograph(73, rows=64, columns=64, bits_stored=8)
    ds.NumberOfFrames = 2
    ds.PixelData = bytes(64 * 64 * 2)
    return ds


def cut_short() -> Dataset:
    ds = radiograph(74, rows=64, columns=64)
    ds.PixelData = ds.PixelData[:1000]
    return ds


def not_a_jpeg() -> Dataset:
    ds = radiograph(75, rows=64, columns=64, transfer_syntax=uid.JPEGLosslessSV1)
    ds.PixelData = ds.PixelData[:60] + bytes(len(ds.PixelData) - 60)
    return ds


@pytest.mark.parametrize(
    ("make", "state", "word"),
    [
        (without_pixels, "skipped", "pixel"),
        (in_colour, "skipped", "colour"),
        (with_frames, "skipped", "frames"),
        (cut_short, "failed", "PixelData"),
        (not_a_jpeg, "failed", "compressed pixel data"),
    ],
)
def test_bad_images_get_a_sentence_and_orthanc_goes_on(pacs: Pacs, make: Any, state: str, word: str) -> None:
    instance = pacs.upload(to_bytes(make()))
    result = pacs.result(instance)
    assert result["state"] == state, result
    assert word.lower() in result["reason"].lower(), result["reason"]
    assert "\n" not in result["reason"]
    assert pacs.reports_beside(instance) == []
    line = rf"Instance {instance}: {state} in \d+ ms, {re.escape(result['reason'])}"
    wait_for(lambda: re.search(line, pacs.log()), 5, pacs.log)


def test_the_log_has_one_line_for_each_image(pacs: Pacs) -> None:
    instance = pacs.upload(to_bytes(radiograph(77, rows=64, columns=64)))
    pacs.result(instance)
    wait_for(lambda: re.search(rf"Instance {instance}: done in \d+ ms\n", pacs.log()), 5, pacs.log)
    assert pacs.log().count(instance) == 1


def test_what_is_not_dicom_is_refused_by_orthanc(pacs: Pacs) -> None:
    answer = pacs.session.post(f"{pacs.url}/instances", data=b"hello", timeout=10)
    assert answer.status_code == 400
    assert pacs.get("/chest-xray/status")["ready"] is True


def test_prometheus_is_told(pacs: Pacs) -> None:
    def told() -> dict[str, float]:
        text = pacs.session.get(f"{pacs.url}/tools/metrics-prometheus", timeout=10).text
        lines = (line.rsplit(" ", 2) for line in text.splitlines() if line.startswith("chest_xray_"))
        return {name: float(value) for name, value, _ in lines}

    done = 'chest_xray_images_total{state="done",reason=""}'
    skipped = 'chest_xray_images_total{state="skipped",reason="BodyPartExamined"}'
    before = told()
    pacs.result(pacs.upload(to_bytes(radiograph(84, rows=64, columns=64))))
    pacs.result(pacs.upload(to_bytes(radiograph(85, rows=64, columns=64, BodyPartExamined="HAND"))))

    def counted() -> dict[str, float] | None:
        now = told()
        more = all(now.get(what, 0) > before.get(what, 0) for what in (done, skipped))
        return now if now["chest_xray_pending"] == 0 and more else None

    now = wait_for(counted, 10, pacs.log)
    assert now["chest_xray_ready"] == 1
    assert now["chest_xray_oldest_pending_seconds"] == now["chest_xray_worker_restarts_total"] == 0
    for step in ("fetch", "decode", "resize", "model", "report", "store"):
        assert now[f'chest_xray_step_seconds_total{{step="{step}"}}'] > 0


def test_the_status_counts(pacs: Pacs) -> None:
    before = pacs.get("/chest-xray/status")
    pacs.result(pacs.upload(to_bytes(radiograph(81, rows=64, columns=64))))
    pacs.result(pacs.upload(to_bytes(radiograph(82, rows=64, columns=64, BodyPartExamined="HAND"))))
    done = (before["done"] + 1, before["skipped"] + 1)

    def counted() -> bool | None:
        now = pacs.get("/chest-xray/status")
        return ((now["done"], now["skipped"]) == done and now["pending"] == 0) or None

    wait_for(counted, 5, pacs.log)


def test_classifying_again_gives_the_same_report(pacs: Pacs) -> None:
    instance = pacs.upload(to_bytes(radiograph(91, rows=128, columns=128)))
    first = pacs.result(instance)
    answer = pacs.session.post(f"{pacs.url}/instances/{instance}/chest-xray", timeout=10)
    assert (answer.status_code, answer.json()["state"]) == (202, "pending")
    second = pacs.result(instance)
    assert second["created"] > first["created"]
    assert (second["scores"], second["sr"]) == (first["scores"], first["sr"])
    assert pacs.reports_beside(instance) == [first["sr"]["instance"]]


def test_uploading_again_changes_nothing(pacs: Pacs) -> None:
    data = to_bytes(radiograph(92, rows=128, columns=128))
    first = pacs.result(pacs.upload(data))
    assert pacs.result(pacs.upload(data)) == first


def test_results_as_lines_and_as_csv(pacs: Pacs) -> None:
    instance = pacs.upload(to_bytes(radiograph(93, rows=128, columns=128)))
    result = pacs.result(instance)
    lines = pacs.session.get(f"{pacs.url}/chest-xray/results", timeout=30).text.splitlines()
    assert result in [json.loads(line) for line in lines]
    table = pacs.session.get(f"{pacs.url}/chest-xray/results?format=csv", timeout=30).text
    assert result["image"]["SOPInstanceUID"] in table
    assert len(table.splitlines()) == len(lines) + 1


def test_upload_py_waits_for_the_results_and_writes_what_the_routes_say(pacs: Pacs, tmp_path: Path) -> None:
    folder, results = tmp_path / "images", tmp_path / "results"
    folder.mkdir()
    for seed in (95, 96):
        (folder / f"{seed}.dcm").write_bytes(to_bytes(radiograph(seed, rows=200, columns=200)))
    (folder / "hand.dcm").write_bytes(to_bytes(radiograph(97, rows=64, columns=64, BodyPartExamined="HAND")))
    (folder / "notes.txt").write_text("not DICOM")
    command = [sys.executable, "upload.py", str(folder), "--url", pacs.url, "--results", str(results)]
    account = {"CHEST_XRAY_USER": pacs.user, "CHEST_XRAY_PASSWORD": pacs.password}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | account, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 files: 3 new, 0 already there, 0 refused, 1 not DICOM" in done.stdout
    assert "STAND-IN WEIGHTS" in done.stdout
    files = sorted(results.glob("*.json"))
    assert len(files) == 3
    rows = pacs.session.get(f"{pacs.url}/chest-xray/results?format=csv", timeout=30).text.splitlines()
    for file in files:
        result = json.loads(file.read_bytes())
        answer = pacs.session.get(f"{pacs.url}/instances/{result['instance']}/chest-xray", timeout=10)
        assert answer.content == file.read_bytes()
    table = (results / "results.csv").read_text().splitlines()
    assert table[0] == rows[0]
    assert set(table) <= set(rows)


def test_the_demo_ends_with_reports(tmp_path: Path, prepared_model: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "chest.dcm").write_bytes(to_bytes(radiograph(98, rows=300, columns=300)))
    environ = {"ONCE": "1", "DICOM": str(folder), "RESULTS": str(tmp_path / "results"), "WEIGHTS": "stand-in"}
    environ |= {"MODEL_FOLDER": str(prepared_model.parent), "STORAGE": str(tmp_path / "storage")}
    environ |= {"HTTP_PORT": str(free_port()), "DICOM_PORT": str(free_port()), "XDG_CONFIG_HOME": str(tmp_path)}
    environ |= {"CHEST_XRAY_USER": "", "CHEST_XRAY_PASSWORD": ""}
    command = [sys.executable, "-m", "demo.demo"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 file: 1 new" in done.stdout
    assert len(list((tmp_path / "results").glob("*.json"))) == 1
    kept = tmp_path / "orthanc-chest-xray" / "password"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.read_text().strip() in done.stdout


def test_an_unknown_instance(pacs: Pacs) -> None:
    nobody = "-".join(["0" * 8] * 5)
    answer = pacs.session.get(f"{pacs.url}/instances/{nobody}/chest-xray", timeout=10)
    assert (answer.status_code, answer.json()) == (404, {"error": f"Orthanc has no instance {nobody}"})
    for no_id in ("nobody", "%3Fx", f"{nobody}%3F"):
        assert pacs.session.get(f"{pacs.url}/instances/{no_id}/chest-xray", timeout=10).status_code == 404


@pytest.mark.parametrize("depth", [200, 900, 100_000])
def test_lists_within_lists_do_not_end_orthanc(pacs: Pacs, depth: int) -> None:
    instance = pacs.upload(to_bytes(radiograph(404, rows=64, columns=64)))
    pacs.result(instance)
    answer = pacs.session.post(f"{pacs.url}/chest-xray/backfill", data="[" * depth, timeout=10)
    assert (answer.status_code, answer.json()) == (400, {"error": "This is no backfill: it is not JSON"})
    mark = f'{{"state": "done", "x": {"[" * depth}{"]" * depth}}}'
    address = f"{pacs.url}/instances/{instance}/metadata/4750"
    pacs.session.put(address, data=mark, timeout=10).raise_for_status()
    for path in (f"/instances/{instance}/chest-xray", "/chest-xray/worklist", "/chest-xray/results"):
        assert pacs.session.get(pacs.url + path, timeout=10).ok
    pacs.session.delete(address, timeout=10)
    assert pacs.session.post(f"{pacs.url}/instances/{instance}/chest-xray", timeout=10).ok
    assert pacs.result(instance)["state"] == "done"


@pytest.mark.parametrize(
    "path", ["/chest-xray/status", "/chest-xray/", "/chest-xray/results", "/instances/x/chest-xray"]
)
def test_nobody_gets_in_without_an_account(pacs: Pacs, path: str) -> None:
    assert requests.get(pacs.url + path, timeout=10).status_code == 401


def test_without_weights_the_pacs_runs_and_the_work_waits_until_they_are_there(tmp_path: Path) -> None:
    checkpoint = tmp_path / "weights.pt"
    sha256 = "0" * 64
    environ = {"WEIGHTS": str(checkpoint), "WEIGHTS_SHA256": sha256, "MODEL_FOLDER": str(tmp_path / "models")}
    with Pacs(tmp_path / "pacs", **environ) as pacs:
        instance = pacs.upload(to_bytes(radiograph(94, rows=64, columns=64)))

        def explained() -> dict[str, Any] | None:
            now: dict[str, Any] = pacs.get(f"/instances/{instance}/chest-xray")
            return now if str(checkpoint) in now["reason"] else None

        assert wait_for(explained, 30, pacs.log)["state"] == "pending"
        status = pacs.get("/chest-xray/status")
        assert (status["ready"], status["pending"]) == (False, 1)
        assert str(checkpoint) in status["reason"]
        checkpoint.write_bytes(b"not these")

        def refused() -> bool | None:
            return "SHA-256" in pacs.get("/chest-xray/status")["reason"] or None

        wait_for(refused, 60, pacs.log)


def test_a_wrong_setting_stops_orthanc_with_its_name(tmp_path: Path) -> None:
    pacs = Pacs(tmp_path, WEIGHTS_SHA256="not a hash")
    with pytest.raises(AssertionError, match="WEIGHTS_SHA256 is 'not a hash'; it must be 64 hexadecimal digits"):
        pacs.start()
    assert pacs.process.wait(timeout=10) != 0


def test_what_was_pending_when_the_power_went_is_done_after_the_restart(tmp_path: Path, prepared_model: Path) -> None:
    with Pacs(tmp_path, MODEL_FOLDER=str(prepared_model.parent)) as pacs:
        pacs.wait_until_ready()
        instances = [pacs.upload(to_bytes(radiograph(seed, rows=400, columns=400))) for seed in range(100, 112)]
        pacs.kill()
        pacs.start()
        for instance in instances:
            assert pacs.result(instance)["state"] == "done"
            assert len(pacs.reports_beside(instance)) == 1


def test_a_backfill_classifies_what_was_there_before_the_plugin(tmp_path: Path, prepared_model: Path) -> None:
    environ = {"MODEL_FOLDER": str(prepared_model.parent)}
    old = radiograph(121, rows=64, columns=64, StudyDate="20100101")
    late = radiograph(122, rows=64, columns=64, StudyDate="20200101")
    with Pacs(tmp_path, {"Plugins": []}, **environ) as pacs:
        before, after = (pacs.upload(to_bytes(ds)) for ds in (old, late))
    with Pacs(tmp_path, **environ) as pacs:
        pacs.wait_until_ready()
        new = pacs.upload(to_bytes(radiograph(123, rows=64, columns=64)))
        assert pacs.result(new)["state"] == "done"
        for instance in (before, after):
            assert pacs.get(f"/instances/{instance}/chest-xray")["state"] == "pending"
        command = [sys.executable, "-m", "plugin.backfill", "--url", pacs.url, "--from", "2015-01-01"]
        account = {"CHEST_XRAY_USER": pacs.user, "CHEST_XRAY_PASSWORD": pacs.password}
        said = subprocess.check_output(command, cwd=ROOT, env=os.environ | account, text=True)
        assert said.startswith("Finished. Of all images: ")
        assert pacs.result(after)["state"] == "done"
        assert pacs.get("/chest-xray/status")["backfill"] is None
        assert pacs.get(f"/instances/{before}/chest-xray")["state"] == "pending"
        pacs.session.post(f"{pacs.url}/instances/{before}/chest-xray", timeout=10)
        assert pacs.result(before)["state"] == "done"
