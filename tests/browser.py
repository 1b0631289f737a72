"""A real browser on the plugin's pages."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import JavascriptException, NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.pacs import Pacs, wait_for

T = TypeVar("T")
FLAGS = ("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "hide-scrollbars")


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A headless Chromium, ended afterwards."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in FLAGS:
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


class Pages:
    """The pages of one Orthanc in one browser, signed in."""

    def __init__(self, driver: webdriver.Chrome, pacs: Pacs) -> None:
        """A browser keeps the account that one address named; pages with it in their address cannot fetch anything."""
        self.driver, self.pacs = driver, pacs
        driver.execute_cdp_cmd("Emulation.setLocaleOverride", {"locale": "en_GB"})
        driver.get(pacs.url.replace("//", f"//{pacs.user}:{pacs.password}@") + "/system")

    def open(self, path: str, width: int = 1280, height: int = 800, scheme: str = "light") -> None:
        """A page below /chest-xray/, in a window of this size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        self.driver.get(f"{self.pacs.url}/chest-xray/{path}")

    def find(self, selector: str) -> WebElement:
        """The first such element that can be seen, as soon as there is one."""

        def visible() -> WebElement | None:
            found = self.driver.find_elements(By.CSS_SELECTOR, selector)
            return next((one for one in found if one.is_displayed()), None)

        return self.until(visible)

    def all(self, selector: str) -> list[str]:
        """The texts of all such elements."""
        texts: list[str] = self.run(
            f"return [...document.querySelectorAll({json.dumps(selector)})].map(e => e.innerText)"
        )
        return texts

    def text(self, selector: str) -> str:
        """The text of the first such element, '' if there is none."""
        return next(iter(self.all(selector)), "")

    def says(self, selector: str, words: str) -> None:
        """Wait until the element says these words."""
        self.until(lambda: words in self.text(selector) or None)

    def until(self, condition: Callable[[], T | None], seconds: float = 20) -> T:
        """What `condition` gives as soon as that is not None; the page may change under it."""

        def calmly() -> T | None:
            try:
                return condition()
            except (StaleElementReferenceException, NoSuchElementException, JavascriptException):
                return None

        return wait_for(calmly, seconds, lambda: f"{self.driver.current_url}\n{self.text('body')}\n{self.complaints()}")

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that JavaScript returns."""
        return self.driver.execute_script(script, *arguments)

    def loaded(self) -> None:
        """Wait until the report page has the image's stored values."""
        self.until(lambda: "W " in self.text(".readout") or None)

    def canvas(self) -> npt.NDArray[np.uint8]:
        """The radiograph as it is on the screen, (rows, columns, 3)."""
        script = "return document.querySelector('canvas[role=application]').toDataURL()"
        self.driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        png = base64.b64decode(self.run(script).split(",")[1])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))

    def complaints(self) -> list[str]:
        """What the browser complained of since the last time, with whatever its content security policy refused."""
        log = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [entry["message"] for entry in log if entry["level"] in ("SEVERE", "WARNING")]
