"""The ways from Orthanc's own pages to ours: buttons in Explorer 1, in a real browser, and those for Explorer 2."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydicom.uid import CTImageStorage
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait

from demo.phantoms import radiograph, to_bytes
from demo.serve import ROOT
from tests import test_end_to_end
from tests.pacs import Pacs
from tests.test_end_to_end import sign_in

browser = test_end_to_end.browser
BUTTON = "#chest-xray-report"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory, prepared_model: Path) -> Iterator[Pacs]:
    with Pacs(tmp_path_factory.mktemp("pacs"), MODEL_FOLDER=str(prepared_model.parent)) as running:
        running.wait_until_ready()
        yield running


@pytest.fixture(scope="module")
def done(pacs: Pacs) -> dict[str, Any]:
    """The result of a radiograph."""
    return pacs.result(pacs.upload(to_bytes(radiograph(1, rows=64, columns=64))))


def show(browser: webdriver.Chrome, pacs: Pacs, page: str, resource: str) -> None:
    """Open a page of Explorer 1 and wait until it has what belongs to it."""
    browser.get("about:blank")
    browser.get(f"{pacs.url}/app/explorer.html#{page}?uuid={resource}")
    WebDriverWait(browser, 10).until(lambda now: now.find_elements(By.CSS_SELECTOR, f"#{page}-info li"))
    # Both answers are there: Explorer's own requests, and ours, which began with the page.
    WebDriverWait(browser, 10).until(lambda now: now.execute_script(ASKED, resource))
    WebDriverWait(browser, 10).until(lambda now: now.execute_script("return $.active === 0"))


ASKED = """return performance.getEntriesByType('resource').some(
  one => one.name.endsWith('/chest-xray/of/' + arguments[0]) && one.responseEnd > 0)"""


def places(pacs: Pacs, instance: str) -> list[tuple[str, str]]:
    """The three pages of an instance in Explorer 1."""
    series = pacs.get(f"/instances/{instance}")["ParentSeries"]
    return [("study", pacs.get(f"/series/{series}")["ParentStudy"]), ("series", series), ("instance", instance)]


def test_explorer_1_leads_from_an_image_to_its_report(
    pacs: Pacs, done: dict[str, Any], browser: webdriver.Chrome
) -> None:
    sign_in(browser, pacs)
    for page, resource in places(pacs, done["instance"]):
        show(browser, pacs, page, resource)
        (button,) = browser.find_elements(By.CSS_SELECTOR, f"#{page} {BUTTON}")
        assert button.text.strip() == "Chest X-ray report"
        button.click()
        WebDriverWait(browser, 10).until(
            expected_conditions.url_to_be(f"{pacs.url}/chest-xray/report?{page}={resource}")
        )


def test_explorer_1_leads_from_the_sr_to_the_report(
    pacs: Pacs, done: dict[str, Any], browser: webdriver.Chrome
) -> None:
    sign_in(browser, pacs)
    report = done["sr"]["instance"]
    for page, resource in places(pacs, report)[1:]:
        show(browser, pacs, page, resource)
        button = browser.find_element(By.CSS_SELECTOR, f"#{page} {BUTTON}")
        assert button.get_attribute("href") == f"{pacs.url}/chest-xray/report?{page}={resource}"
        assert pacs.get(f"/chest-xray/of/{resource}")["instances"] == [done["instance"]]


def test_explorer_1_shows_nothing_where_there_is_nothing_to_see(pacs: Pacs, browser: webdriver.Chrome) -> None:
    ds = radiograph(2, rows=64, columns=64, patient_id="CT")
    ds.Modality, ds.SOPClassUID, ds.file_meta.MediaStorageSOPClassUID = "CT", CTImageStorage, CTImageStorage
    sign_in(browser, pacs)
    for page, resource in places(pacs, pacs.upload(to_bytes(ds))):
        show(browser, pacs, page, resource)
        assert browser.find_elements(By.CSS_SELECTOR, BUTTON) == []


def test_the_button_changes_with_what_is_shown(pacs: Pacs, done: dict[str, Any], browser: webdriver.Chrome) -> None:
    other = pacs.result(pacs.upload(to_bytes(radiograph(3, rows=64, columns=64, patient_id="OTHER"))))
    sign_in(browser, pacs)
    show(browser, pacs, "instance", done["instance"])
    browser.execute_script(f"location.hash = '#instance?uuid={other['instance']}'")
    address = f"{pacs.url}/chest-xray/report?instance={other['instance']}"
    WebDriverWait(browser, 10).until(
        lambda now: [one.get_attribute("href") for one in now.find_elements(By.CSS_SELECTOR, BUTTON)] == [address]
    )


def test_explorer_1_leads_from_its_start_to_the_worklist(pacs: Pacs, browser: webdriver.Chrome) -> None:
    sign_in(browser, pacs)
    browser.get(f"{pacs.url}/app/explorer.html")
    WebDriverWait(browser, 10).until(lambda now: now.find_elements(By.ID, "chest-xray-worklist"))
    browser.execute_script("$('#lookup').trigger('pagebeforecreate')")
    assert len(browser.find_elements(By.ID, "chest-xray-worklist")) == 1
    browser.find_element(By.ID, "chest-xray-worklist").click()
    WebDriverWait(browser, 10).until(expected_conditions.url_to_be(f"{pacs.url}/chest-xray/"))


# What Explorer 2 documents of UiOptions.CustomButtons, in the comments of its default configuration (1.8.0 and later).
BUTTONS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "Id": {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9_-]*$"},
            "Tooltip": {"type": "string", "minLength": 1},
            "Icon": {"type": "string", "pattern": "^bi bi-[a-z0-9-]+$"},
            "HttpMethod": {"enum": ["GET", "POST", "PUT", "DELETE"]},
            "Target": {"type": "string"},
            # {UUID} becomes Orthanc's id; any other word in braces is a DICOM tag, or the text `undefined`.
            "Url": {"type": "string", "pattern": r"^[^{}$]*\{UUID\}[^{}$]*$"},
            "Payload": {"type": ["object", "null"]},
            "Refresh": {"type": "boolean"},
            "StartMessage": {"type": "string"},
        },
        "required": ["Id", "Tooltip", "Icon", "HttpMethod", "Url"],
        "additionalProperties": False,
    },
}
EXPLORER_2 = {
    "type": "object",
    "properties": {
        "UiOptions": {
            "type": "object",
            "properties": {
                "CustomButtons": {
                    "type": "object",
                    "properties": dict.fromkeys(("study", "series", "instance", "bulk-studies"), BUTTONS),
                    "additionalProperties": False,
                }
            },
            "additionalProperties": False,
        }
    },
    "additionalProperties": False,
}


def test_explorer_2_has_a_button_at_each_level(pacs: Pacs, done: dict[str, Any]) -> None:
    section = json.loads((ROOT / "orthanc.json").read_text())["OrthancExplorer2"]
    jsonschema.validate(section, EXPLORER_2)
    buttons = section["UiOptions"]["CustomButtons"]
    ids = [button["Id"] for level in buttons.values() for button in level]
    assert len(set(ids)) == len(ids) == 3
    for level, resource in places(pacs, done["instance"]):
        (button,) = buttons[level]
        # Explorer 2 is served below /ui/app/, and a browser resolves the address against that.
        path = button["Url"].replace("{UUID}", resource)
        assert path == f"../../chest-xray/report?{level}={resource}"
        assert pacs.session.get(f"{pacs.url}/ui/app/{path}", timeout=10).url.endswith(path[5:])
