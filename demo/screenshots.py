"""`make screenshots`: the pictures in docs/, from the real pages of a real Orthanc in a headless browser.

The radiographs are drawn (demo/phantoms.py) and the weights are stand-ins, which every picture says.
"""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from pydicom import Dataset

from demo.phantoms import radiograph, to_bytes
from demo.serve import ROOT
from plugin import weights
from plugin.settings import Settings
from tests.browser import Pages, chromium
from tests.pacs import Pacs

PATIENT = "PHANTOM-1"
COLOURS = 160


def main() -> None:
    """Draw, upload, wait, and take the pictures."""
    model = weights.prepare(weights.STAND_IN, "", Settings.read({}).model_folder(ROOT))
    with tempfile.TemporaryDirectory() as folder, Pacs(Path(folder), MODEL_FOLDER=str(model.parent)) as pacs:
        pacs.wait_until_ready()
        results = [pacs.result(pacs.upload(to_bytes(ds))) for ds in sources()]
        frontal = results[-1]["instance"]
        study = pacs.get(f"/instances/{frontal}/study")["ID"]
        finding = max(results[-1]["scores"], key=results[-1]["scores"].get)
        report = f"report?instance={frontal}&finding={finding}"
        with chromium() as driver:
            pages = Pages(driver, pacs)
            take(pages, "worklist", "", "tbody tr:nth-child(20)")
            take(pages, "report", report, ".trends svg")
            take(pages, "report-dark", report, ".trends svg", scheme="dark")
            take(pages, "study", f"report?study={study}", ".trends svg", height=1060)
            take(pages, "phone", report, ".trends svg", width=390, height=844, scheme="dark")


def sources() -> Iterator[Dataset]:
    """Forty images of many patients, and at last a study of one who was here before."""
    for seed in range(3, 34):
        options: dict[str, Any] = {"BodyPartExamined": "HAND"} if seed == 28 else {"StudyDate": f"202412{seed - 2:02d}"}
        yield radiograph(seed, rows=500, columns=440, view=("PA", "AP", "LL")[seed % 3], **options)
    cut = radiograph(34, rows=200, columns=200, StudyDate="20250102")
    cut.PixelData = cut.PixelData[:1000]
    yield cut
    for year in (2019, 2021, 2022, 2024):
        date, seed = f"{year}0{year % 4 + 1}14", year - 1900
        yield radiograph(seed, rows=600, columns=500, patient_id=PATIENT, StudyDate=date, PatientName="PHANTOM^SEED1")
    yield radiograph(1, rows=2000, columns=1700, view="LL", patient_id=PATIENT)
    yield radiograph(1, rows=2500, columns=2050, patient_id=PATIENT)


def take(
    pages: Pages, name: str, path: str, ready: str, width: int = 1280, height: int = 800, scheme: str = "light"
) -> None:
    """docs/NAME.png: what a window of this size shows, in few bytes, since this is a repository."""
    pages.open(path, width, height, scheme)
    pages.find(ready)
    if "instance" in path:
        pages.loaded()
        pages.canvas()  # as soon as it is drawn
    pages.until(lambda: pages.run("return [...document.images].every(image => image.complete)") or None)
    shot = pages.driver.execute_cdp_cmd("Page.captureScreenshot", {})["data"]
    picture = in_few_colours(Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB"), dithered="finding=" in path)
    file = ROOT / "docs" / f"{name}.png"
    picture.save(file, optimize=True)
    print(f"{file.relative_to(ROOT)}: {picture.width} x {picture.height}, {file.stat().st_size // 1000} kB")


def in_few_colours(picture: Image.Image, dithered: bool) -> Image.Image:
    """Half as large and hardly to be told apart; greys need no dithering, an activation map does."""
    palette = picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE)
    return picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) if dithered else palette


if __name__ == "__main__":
    main()
