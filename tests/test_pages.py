"""The worklist and the report pages in a real browser, against a real Orthanc."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from demo.phantoms import radiograph, to_bytes
from demo.serve import ROOT
from plugin import marks, routes
from tests.browser import Pages, chromium
from tests.pacs import Pacs, wait_for

NAME, PATIENT = "PHANTOM, SEED1", "PHANTOM-1"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, prepared_model: Path) -> Iterator[Pages]:
    with Pacs(tmp_path_factory.mktemp("pacs"), MODEL_FOLDER=str(prepared_model.parent)) as pacs, chromium() as driver:
        pacs.wait_until_ready()
        yield Pages(driver, pacs)


@pytest.fixture(scope="module")
def archive(pages: Pages) -> dict[str, str]:
    """A patient with two images of one day and one of an earlier day, a skipped image and a failed one."""
    small: dict[str, Any] = {"rows": 300, "columns": 260}
    cut = radiograph(3, rows=1500, columns=1300, StudyDate="20240301")
    cut.PixelData = cut.PixelData[:1000]
    sources = {
        "frontal": radiograph(1, **small),
        "lateral": radiograph(1, view="LL", **small),
        "earlier": radiograph(1, **small, patient_id=PATIENT, StudyDate="20200102"),
        "hand": radiograph(2, **small, BodyPartExamined="HAND", StudyDate="20230615"),
        "cut": cut,
    }
    found = {name: pages.pacs.upload(to_bytes(ds)) for name, ds in sources.items()}
    for instance in found.values():
        pages.pacs.result(instance)
    listed(pages, len(found))
    return found | {"study": pages.pacs.get(f"/instances/{found['frontal']}/study")["ID"]}


def listed(pages: Pages, at_least: int) -> None:
    """Wait until the worklist knows this many final results."""

    def there() -> bool | None:
        now = pages.pacs.get("/chest-xray/status")
        return (not now["pending"] and now["done"] + now["failed"] + now["skipped"] >= at_least) or None

    wait_for(there, 30, pages.pacs.log)


def write_mark(pages: Pages, instance: str, state: str, **more: Any) -> None:
    text = marks.mark(state, instance, created=datetime.now(UTC).isoformat(), **more)
    path = f"{pages.pacs.url}/instances/{instance}/metadata/{marks.METADATA}"
    assert pages.pacs.session.put(path, data=text.encode(), timeout=10).ok


def rows(pages: Pages) -> list[str]:
    return pages.all("tbody tr")


def shows(pages: Pages, number: int) -> None:
    pages.until(lambda: len(rows(pages)) == number or None)


# The worklist


def test_the_worklist_shows_what_is_there(pages: Pages, archive: dict[str, str]) -> None:
    pages.open("")
    shows(pages, 5)
    text = pages.text("body")
    for words in ("Not a medical device", "Stand-in weights: random numbers", "Ready", "Nothing is waiting"):
        assert words in text
    assert sum("BodyPartExamined is 'HAND'" in row for row in rows(pages)) == 1
    assert sum("PixelData has 1000 bytes" in row for row in rows(pages)) == 1
    assert any(NAME in row and PATIENT in row and "2 Jan 2020" in row for row in rows(pages))
    assert pages.all("#states b") == ["5", "3", "0", "1", "1"]


def test_filters_stand_in_the_address_and_the_export(pages: Pages, archive: dict[str, str]) -> None:
    pages.open("")
    shows(pages, 5)
    pages.run("document.querySelector('input[name=state][value=failed]').click()")
    shows(pages, 1)
    assert "state=failed" in pages.driver.current_url
    pages.run("document.querySelector('input[name=state][value=\"\"]').click()")
    pages.find("input[name=patient]").send_keys("phantom seed1")
    shows(pages, 3)
    Select(pages.find("select[name=sort]")).select_by_value("suspicious")
    pages.until(lambda: "sort=suspicious" in pages.driver.current_url or None)
    pages.until(lambda: pages.run("return document.getElementById('csv').href.includes('sort=suspicious')") or None)
    scores = [float(text) for text in pages.all("td.top .score")]
    assert scores == sorted(scores, reverse=True)
    here = pages.driver.current_url.split("/chest-xray/")[1]
    pages.open(here)
    shows(pages, 3)
    assert pages.find("input[name=patient]").get_attribute("value") == "phantom seed1"
    for link, lines in (("csv", 4), ("jsonl", 3)):
        address = pages.find(f"#{link}").get_attribute("href")
        assert len(pages.pacs.session.get(str(address), timeout=10).text.strip().splitlines()) == lines
    pages.find("#clear").click()
    shows(pages, 5)
    pages.driver.back()
    shows(pages, 3)


def test_dates_and_findings_filter(pages: Pages, archive: dict[str, str]) -> None:
    pages.open("?from=2020-01-02&to=2020-12-31")
    shows(pages, 1)
    result = pages.pacs.result(archive["frontal"])
    finding = result["findings"][0]
    pages.open(f"?finding={finding}&sort=suspicious")
    pages.until(lambda: rows(pages) or None)
    assert pages.text("#top") == finding.replace("_", " ")
    pages.find("tbody a").click()
    pages.says("#result", "Findings")
    assert pages.find(f"[data-finding='{finding}']").get_attribute("aria-pressed") == "true"


def test_nothing_that_matches_is_said(pages: Pages, archive: dict[str, str]) -> None:
    pages.open("?patient=nobody")
    pages.says("#nothing", "Nothing in the archive matches")


def test_a_bad_filter_in_the_address_is_named(pages: Pages, archive: dict[str, str]) -> None:
    pages.open("?from=yesterday")
    pages.says("#trouble", "from is 'yesterday'")
    pages.run("document.querySelector('#clear').click()")
    shows(pages, 5)
    pages.until(lambda: pages.text("#trouble") == "" or None)


def test_what_arrives_appears_by_itself_and_a_retry_is_done(pages: Pages, archive: dict[str, str]) -> None:
    pages.open("?patient=LIVE")
    pages.says("#nothing", "matches")
    instance = pages.pacs.upload(
        to_bytes(radiograph(31, rows=200, columns=200, patient_id="LIVE", BodyPartExamined="HAND"))
    )
    shows(pages, 1)
    pages.says("tbody", "HAND")
    before = pages.pacs.result(instance)["created"]
    pages.run("document.querySelector('[data-again]').focus()")
    click = "const button = document.querySelector('[data-again]'); button.click(); "
    said = "return [button.disabled, document.querySelector('tbody .badge').textContent]"
    assert pages.run(click + said) == [True, "Waiting"]
    wait_for(lambda: pages.pacs.result(instance)["created"] > before or None, 20, pages.pacs.log)
    pages.says("tbody", "HAND")
    assert pages.run("return document.activeElement.closest('tr').dataset.instance") == instance
    pages.pacs.session.delete(f"{pages.pacs.url}/instances/{instance}", timeout=10)
    shows(pages, 0)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Yamada^Tarou", "Yamada, Tarou"),
        ("=山田^太郎", "山田 太郎"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou (山田 太郎)"),
        ("==やまだ^たろう", "やまだ たろう"),
        ("^^=", ""),
    ],
)
def test_a_name_has_groups(pages: Pages, name: str, shown: str) -> None:
    pages.open("")
    script = "const name = arguments[0]; return import('./html.js').then(html => html.person(name))"
    assert pages.run(script, name) == shown


def test_pages_are_turned_by_the_server(pages: Pages, archive: dict[str, str]) -> None:
    instances = [
        pages.pacs.upload(
            to_bytes(radiograph(200 + n, rows=32, columns=32, patient_id=f"MANY-{n}", BodyPartExamined="HAND"))
        )
        for n in range(53)
    ]
    for instance in instances:
        pages.pacs.result(instance)
    listed(pages, 58)
    pages.open("?patient=MANY")
    shows(pages, 50)
    assert pages.text("#range") == "1 to 50 of 53"
    pages.find("#next").click()
    shows(pages, 3)
    assert "offset=50" in pages.driver.current_url
    assert not pages.find("#next").is_enabled()
    pages.find("#previous").click()
    shows(pages, 50)
    for instance in instances:
        pages.pacs.session.delete(f"{pages.pacs.url}/instances/{instance}", timeout=10)


# One image


def test_the_report_of_an_image(pages: Pages, archive: dict[str, str]) -> None:
    result = pages.pacs.result(archive["frontal"])
    pages.open(f"report?instance={archive['frontal']}")
    pages.loaded()
    text = pages.text("body")
    for words in (NAME, PATIENT, "10 Jan 2025", "Stand-in weights", "Not a medical device", "not a probability"):
        assert words in text
    ranked = sorted(result["scores"].items(), key=lambda item: -item[1])
    assert pages.all(".findings .score") == [f"{score:.2f}" for _, score in ranked]
    Select(pages.find("#order")).select_by_value("model")
    assert pages.run("return [...document.querySelectorAll('[data-finding]')].map(b => b.dataset.finding)") == list(
        result["scores"]
    )
    assert "order=model" in pages.driver.current_url
    pages.find("summary").click()
    for words in (result["model"]["weights_sha256"], "densenet121-res224-all", "crop: center", "model", "ms"):
        assert words in pages.text("details")
    for address in pages.run("return [...document.querySelectorAll('nav a')].map(a => a.href)"):
        path = address.removeprefix(pages.pacs.url).split("#")[0]
        assert pages.pacs.session.get(pages.pacs.url + path, timeout=10).ok, address


def test_the_bars_stand_at_their_scores(pages: Pages, archive: dict[str, str]) -> None:
    scores = pages.pacs.result(archive["frontal"])["scores"]
    pages.open(f"report?instance={archive['frontal']}")
    pages.find("[data-finding]")
    script = "return getComputedStyle(document.querySelector(`[data-finding='${arguments[0]}'] .bar`)).backgroundSize"
    for label, score in scores.items():
        assert float(pages.run(script, label).split("%")[0]) == pytest.approx(100 * score, abs=0.01)


def test_a_finding_is_chosen_with_the_keyboard(pages: Pages, archive: dict[str, str]) -> None:
    pages.open(f"report?instance={archive['frontal']}")
    pages.loaded()
    plain = pages.canvas()
    pages.find("[data-finding]").send_keys(Keys.ARROW_DOWN)
    second = pages.driver.switch_to.active_element
    second.send_keys(Keys.ENTER)
    assert second.get_attribute("aria-pressed") == "true"
    assert (pages.canvas() != plain).any()
    second.send_keys(Keys.ENTER)
    assert second.get_attribute("aria-pressed") == "false"
    assert (pages.canvas() == plain).all()


def test_one_image_leads_to_the_study_s_next(pages: Pages, archive: dict[str, str]) -> None:
    first, second = pages.pacs.get(f"/chest-xray/of/{archive['study']}")["instances"]
    pages.open(f"report?instance={first}&finding=Mass&order=model")
    pages.says(".place", "1 of 2")
    assert not pages.find("#previous").is_enabled()
    pages.find("#next").click()
    pages.until(lambda: f"instance={second}" in pages.driver.current_url or None)
    pages.says(".place", "2 of 2")
    assert not pages.find("#next").is_enabled()
    assert pages.find("[data-finding=Mass]").get_attribute("aria-pressed") == "true"
    assert pages.find("#order").get_attribute("value") == "model"
    pages.find("canvas[role=application]").send_keys(Keys.PAGE_UP)
    pages.until(lambda: f"instance={first}" in pages.driver.current_url or None)
    pages.says(".place", "1 of 2")
    pages.driver.switch_to.active_element.send_keys(Keys.PAGE_UP)  # which leads nowhere
    assert pages.driver.switch_to.active_element.get_attribute("role") == "application"
    pages.driver.switch_to.active_element.send_keys(Keys.PAGE_DOWN)
    pages.says(".place", "2 of 2")
    pages.find("#previous").send_keys(Keys.ENTER)
    pages.says(".place", "1 of 2")  # where there is no way back any more
    assert pages.driver.switch_to.active_element.get_attribute("role") == "application"
    pages.open(f"report?study={archive['study']}")
    pages.find(".images a")
    shown = pages.run("return [...document.querySelectorAll('.images a')].map(a => a.dataset.instance)")
    assert shown == [first, second]
    pages.open(f"report?instance={archive['earlier']}")  # alone in its study
    pages.find(".trends svg")
    assert not pages.driver.find_element(By.ID, "others").is_displayed()


def test_a_second_image_of_the_study_appears_by_itself(pages: Pages, archive: dict[str, str]) -> None:
    small: dict[str, Any] = {"rows": 64, "columns": 64, "patient_id": "TWO"}
    first = pages.pacs.upload(to_bytes(radiograph(64, **small)))
    pages.pacs.result(first)
    pages.open(f"report?instance={first}")
    pages.find("[data-finding]")
    assert not pages.driver.find_element(By.ID, "others").is_displayed()
    second = pages.pacs.upload(to_bytes(radiograph(64, view="LL", **small)))
    pages.run("document.dispatchEvent(new Event('visibilitychange'))")  # as when one comes back to the tab
    pages.says(".place", "1 of 2")
    for instance in (first, second):
        pages.pacs.session.delete(f"{pages.pacs.url}/instances/{instance}", timeout=10)


def test_viewers_are_linked_where_orthanc_has_them(pages: Pages, archive: dict[str, str]) -> None:
    uid = pages.pacs.get(f"/instances/{archive['frontal']}/simplified-tags")["StudyInstanceUID"]
    pages.open("report")
    script = """const [uid, done] = arguments;
        window.fetch = async () => Response.json(['dicom-web', 'stone-webviewer', 'ohif', 'orthanc-explorer-2']);
        import('./viewers.js').then(viewers => viewers.viewersOf(uid)).then(done)"""
    assert dict(pages.driver.execute_async_script(script, uid)) == {
        "Stone Web Viewer": f"{pages.pacs.url}/stone-webviewer/index.html?study={uid}",
        "OHIF": f"{pages.pacs.url}/ohif/viewer?StudyInstanceUIDs={uid}",
        "Orthanc Explorer 2": f"{pages.pacs.url}/ui/app/#/filtered-studies?StudyInstanceUID={uid}&expand=study",
    }


def test_the_sr_leads_to_its_images_report(pages: Pages, archive: dict[str, str]) -> None:
    sr = pages.pacs.result(archive["frontal"])["sr"]["instance"]
    pages.open(f"report?instance={sr}")
    pages.says("#title", NAME)
    assert pages.find("[data-finding]")


@pytest.mark.parametrize(
    ("name", "state", "words"), [("cut", "Failed", "PixelData has 1000 bytes"), ("hand", "Skipped", "HAND")]
)
def test_an_image_without_scores_says_why(
    pages: Pages, archive: dict[str, str], name: str, state: str, words: str
) -> None:
    pages.open(f"report?instance={archive[name]}")
    pages.says("#result", state)
    assert words in pages.text("#result")
    before = pages.pacs.result(archive[name])["created"]
    pages.find("#result button").click()
    wait_for(lambda: pages.pacs.result(archive[name])["created"] > before or None, 20, pages.pacs.log)
    pages.says("#result", state)


@pytest.mark.parametrize("query", ["instance=nobody", "study=00000000-00000000-00000000-00000000-00000000"])
def test_what_is_not_there_is_said(pages: Pages, query: str) -> None:
    pages.open(f"report?{query}")
    pages.says("#title", "Not in the archive")


def test_a_study_without_radiographs_says_so(pages: Pages) -> None:
    ds = radiograph(61, rows=64, columns=64, patient_id="CT")
    ds.Modality = "CT"
    instance = pages.pacs.upload(to_bytes(ds))
    pages.open(f"report?study={pages.pacs.get(f'/instances/{instance}/study')['ID']}")
    pages.says("#title", "No chest radiograph")


def test_an_image_that_is_deleted_while_somebody_looks_at_it(pages: Pages) -> None:
    instance = pages.pacs.upload(to_bytes(radiograph(62, rows=100, columns=100, patient_id="GONE")))
    pages.pacs.result(instance)
    pages.open(f"report?instance={instance}")
    pages.find("[data-finding]")
    pages.pacs.session.delete(f"{pages.pacs.url}/instances/{instance}", timeout=10)
    pages.run("document.dispatchEvent(new Event('visibilitychange'))")  # as when one comes back to the tab
    pages.says("#trouble", "has been deleted")
    assert pages.find("[data-finding]")
    pages.find("summary").click()
    pages.find("details button").click()
    pages.until(lambda: pages.text("#trouble") == "This image is no longer in Orthanc." or None)


# A study


def test_a_study_shows_its_images_and_what_was_found_before(pages: Pages, archive: dict[str, str]) -> None:
    pages.open(f"report?study={archive['study']}")
    pages.until(lambda: len(pages.all(".images > li")) == 2 or None)
    assert sorted(pages.all(".images a .name")) == ["Left lateral", "PA"]
    for name in ("frontal", "lateral"):
        best = max(pages.pacs.result(archive[name])["scores"].values())
        card = pages.run(
            "return document.querySelector(`[data-instance='${arguments[0]}']`).parentElement.innerText", archive[name]
        )
        assert f"{best:.2f}" in card
    pages.until(lambda: pages.run("return [...document.images].every(i => i.complete && i.naturalWidth > 100)") or None)
    labels = list(pages.pacs.result(archive["frontal"])["scores"])
    assert sorted(pages.all(".trends .name")) == sorted(label.replace("_", " ") for label in labels)
    earlier = pages.pacs.result(archive["earlier"])["scores"]["Mass"]
    words = pages.run("return document.querySelector('svg[aria-label^=\"Mass:\"]').getAttribute('aria-label')")
    assert words.startswith(f"Mass: 2 Jan 2020 {earlier:.2f}, 10 Jan 2025 ")
    dots = pages.run("return document.querySelectorAll('svg[aria-label^=\"Mass:\"] circle').length")
    assert dots == 3


def test_a_dot_stands_where_its_score_and_date_are(pages: Pages, archive: dict[str, str]) -> None:
    pages.open(f"report?instance={archive['frontal']}")
    pages.find(".trends svg")
    place = "[+c.getAttribute('cx'), +c.getAttribute('cy'), c.textContent]"
    script = f"return [...document.querySelectorAll('svg[aria-label^=\"Mass:\"] circle')].map(c => {place})"
    for x, y, title in pages.run(script):
        date, score = title.split(": ")
        assert y == pytest.approx(51 - 46 * float(score), abs=0.3)
        assert x == pytest.approx(5 if date == "2 Jan 2020" else 171, abs=0.1)


# When things go wrong


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory, pages: Pages) -> Iterator[Pacs]:
    """An Orthanc whose model is missing, so that everything waits."""
    folder = tmp_path_factory.mktemp("idle")
    with Pacs(folder, WEIGHTS=str(folder / "none.pt"), WEIGHTS_SHA256="0" * 64) as pacs:
        yield pacs


def test_an_image_that_waits_shows_its_scores_as_soon_as_they_are_there(pages: Pages, idle: Pacs) -> None:
    waiting = Pages(pages.driver, idle)
    instance = idle.upload(to_bytes(radiograph(71, rows=100, columns=100)))
    waiting.open(f"report?instance={instance}")
    waiting.says("#result", "Waiting")
    waiting.says("#result", "none.pt")
    model = {"name": "by hand", "version": "1", "weights": "trained", "weights_sha256": "0" * 64}
    result = {"scores": {"Mass": 0.75}, "findings": ["Mass"], "model": model, "image": {}, "sr": {}}
    write_mark(waiting, instance, "done", **result, warnings=["A warning."])
    waiting.says("#result", "0.75")
    assert "A warning." in waiting.text("#result .warning")
    assert not waiting.driver.find_element(By.ID, "stand-in").is_displayed()


def test_what_was_there_before_the_plugin_can_be_asked_for(pages: Pages, tmp_path: Path, prepared_model: Path) -> None:
    with Pacs(tmp_path, {"Plugins": []}) as before:
        instances = [before.upload(to_bytes(radiograph(seed, rows=64, columns=64))) for seed in (72, 73)]
    with Pacs(tmp_path, MODEL_FOLDER=str(prepared_model.parent)) as pacs:
        old = Pages(pages.driver, pacs)
        pacs.wait_until_ready()
        old.open("")
        old.says("#status", "Nothing is being classified")
        old.find(f"button[data-again='{instances[0]}']").click()
        assert pacs.result(instances[0])["state"] == "done"
        old.until(lambda: pages.all("tr.done") or None)
        old.open(f"report?instance={instances[1]}")
        old.says("#result", "It is not queued")
        old.find("#result button").click()
        old.says("#result", "Findings")


def test_an_empty_archive_and_one_whose_model_is_missing(pages: Pages, tmp_path: Path) -> None:
    with Pacs(tmp_path, WEIGHTS=str(tmp_path / "none.pt"), WEIGHTS_SHA256="0" * 64) as pacs:
        empty = Pages(pages.driver, pacs)
        empty.open("")
        empty.says("#nothing", "No radiograph has arrived here yet.")
        empty.says("#status", "Not ready")
        empty.says("#status", "none.pt")
        address = pacs.url
        pacs.stop()
        empty.says("#trouble", "Orthanc does not answer. Trying again")
        empty.says("#status", "Not answering")
        assert "Nothing is waiting" not in empty.text("#status")
        assert empty.find("#nothing")
        pacs.start()
        assert pacs.url == address
        empty.until(lambda: empty.text("#trouble") == "" or None, 40)


def test_who_may_not_see_it_is_told(pages: Pages, archive: dict[str, str]) -> None:
    pages.open("")
    shows(pages, 5)
    pages.run("window.fetch = async () => new Response('', {status: 401})")  # as after the browser's own question
    pages.says("#trouble", "Your account may not see this. Load the page again to sign in.")
    assert len(rows(pages)) == 5


# What is hostile


ATTACK = "<img src=x onerror=owned=1><script>owned=1</script>"  # 51 characters: a long string has 64
OWNED = "return [window.owned ?? null, document.querySelectorAll('img[src=x]').length]"


def attack(idle: Pacs) -> tuple[str, str]:
    """An image and a study whose every text attacks the reader."""
    text: dict[str, Any] = dict.fromkeys(
        ("PatientName", "StudyDescription", "SeriesDescription", "Manufacturer", "StudyID"), ATTACK
    )
    code = dict.fromkeys(("ViewPosition", "BodyPartExamined"), ATTACK)
    ds = radiograph(81, rows=64, columns=64, patient_id=ATTACK, StudyDate="20250110", **text)
    for keyword, value in (*code.items(), ("StudyDate", "<script>owned=1</script>")):
        ds[keyword]._value = value
    instance = idle.upload(to_bytes(ds))
    return instance, idle.get(f"/instances/{instance}/study")["ID"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("state", ["failed", "done"])
def test_no_text_of_a_file_or_a_result_is_ever_run(pages: Pages, idle: Pacs, state: str) -> None:
    hostile = Pages(pages.driver, idle)
    instance, study = attack(idle)
    model = dict.fromkeys(("name", "version", "weights", "weights_sha256"), ATTACK)
    done = {
        "scores": {ATTACK: 0.9},
        "findings": [ATTACK],
        "model": model,
        "warnings": [ATTACK],
        "settings": {ATTACK: ATTACK},
    }
    more = done if state == "done" else {"reason": ATTACK}
    write_mark(hostile, instance, state, **more, image={"SOPInstanceUID": ATTACK}, sr={"instance": ATTACK})
    hostile.pacs.session.get(f"{idle.url}/chest-xray/status", timeout=10)
    for path, where in (
        ("", "tbody"),
        (f"report?instance={instance}", "#subtitle"),
        (f"report?study={study}", "#subtitle"),
    ):
        hostile.open(path)
        hostile.says(where, "<script>owned=1</script>")
        if path.startswith("report") and state == "done":
            hostile.says("#result", ATTACK)
            hostile.find("[data-finding]").click()
        assert hostile.run(OWNED) == [None, 0]
    hostile.driver.get(f"{idle.url}/app/explorer.html#instance?uuid={instance}")
    hostile.until(lambda: "report?instance" in hostile.driver.page_source or None)
    link = hostile.find("#chest-xray-report")
    assert link.get_attribute("href") == f"{idle.url}/chest-xray/report?instance={instance}"
    assert hostile.run("return window.owned ?? null") is None


def test_hostile_addresses_do_nothing(pages: Pages, archive: dict[str, str]) -> None:
    for query in (f"instance={ATTACK}", f"instance={archive['frontal']}&finding={ATTACK}&order={ATTACK}"):
        pages.open(f"report?{query}")
        pages.until(lambda: pages.all("[data-finding]") or "Not in the archive" in pages.text("#title") or None)
        assert pages.run(OWNED) == [None, 0]


def test_the_pages_keep_their_own_security_policy(pages: Pages, archive: dict[str, str]) -> None:
    pages.complaints()
    for path in ("", f"report?instance={archive['frontal']}&finding=Mass", f"report?study={archive['study']}"):
        pages.open(path)
        pages.until(lambda: pages.all("tbody tr, [data-finding], .images li") or None)
        if "instance" in path:
            pages.loaded()
        assert pages.complaints() == []


# For everybody


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark"), (1280, "light"), (2200, "dark")])
def test_axe_finds_nothing(pages: Pages, archive: dict[str, str], width: int, scheme: str) -> None:
    found = []
    for path, ready in (
        ("", "tbody tr"),
        ("?patient=nobody", "#nothing p"),
        (f"report?instance={archive['frontal']}&finding=Mass", ".trends li"),
        (f"report?instance={archive['cut']}", "#result button"),
        (f"report?study={archive['study']}", ".trends li"),
        ("report", ".empty p"),
    ):
        pages.open(path, width, 844, scheme)
        pages.find(ready)
        violations = Axe().run(pages.driver)["violations"]
        found += [
            (path, one["id"], [node["html"] + node["failureSummary"] for node in one["nodes"]]) for one in violations
        ]
    assert found == []


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 2200])
def test_nothing_sticks_out(pages: Pages, archive: dict[str, str], width: int) -> None:
    for path, ready in (
        ("", "tbody tr"),
        (f"report?instance={archive['frontal']}&finding=Mass", ".trends li"),
        (f"report?study={archive['study']}", ".trends li"),
    ):
        pages.open(path, width, 844)
        pages.find(ready)
        wide = "[...document.querySelectorAll('html, main, .panel')].map(e => e.scrollWidth - e.clientWidth)"
        assert max(pages.run(f"return {wide}")) <= 0, path


def test_the_pages_are_small_and_ask_nobody_else(pages: Pages, archive: dict[str, str]) -> None:
    files = list((ROOT / "plugin/web").iterdir())
    assert sum(file.stat().st_size for file in files) < 100_000
    pages.open(f"report?instance={archive['frontal']}")
    pages.loaded()
    asked = pages.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert {address.split("/")[2] for address in asked} == {pages.pacs.url.split("/")[2]}
    assert json.dumps(routes.HEADERS).count("unsafe") == 0
