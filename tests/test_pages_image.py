"""The radiograph on the report page: its greys, and that the activation maps lie where the evidence is."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEG2000Lossless, generate_uid
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from skimage.color import rgb2lab

from demo.phantoms import radiograph, to_bytes
from plugin import analysis, marks, summary_image
from plugin.activation import ActivationMaps
from plugin.classifier import Classifier
from plugin.pixels import Pixels
from tests import images, oracle
from tests.browser import Pages, chromium
from tests.pacs import Pacs

Floats = npt.NDArray[np.float64]
CELL = 32  # pixels of the model's input


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """An Orthanc without a model: the results are written by hand."""
    folder = tmp_path_factory.mktemp("pacs")
    missing = {"WEIGHTS": str(folder / "none.pt"), "WEIGHTS_SHA256": "0" * 64}
    with Pacs(folder, **missing) as pacs, chromium() as driver:
        yield Pages(driver, pacs)


def with_pixels(stored: npt.NDArray[Any], bits: int, photometric: str = "MONOCHROME2", **tags: Any) -> bytes:
    """A radiograph with these stored values."""
    rows, columns = stored.shape
    ds = radiograph(7, rows=64, columns=64, photometric=photometric, bits_stored=bits)
    source = hashlib.sha256(stored.tobytes()).hexdigest(), photometric, str(stored.shape), str(tags)
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=list(source))
    ds.Rows, ds.Columns, ds.PixelRepresentation = rows, columns, int(stored.dtype.kind == "i")
    ds.PixelData = stored.tobytes() + b"\0" * (stored.nbytes % 2)
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    return to_bytes(ds)


def crop_of(rows: int, columns: int) -> tuple[Floats, Floats]:
    """For each cell of 7 x 7, its centre's row and column in the image, as TorchXRayVision crops and resizes."""

    def seen(coordinate: Floats) -> Floats:
        small = oracle.resize(coordinate[None].astype(np.float32))[0]
        near = slice(CELL // 2 - 2, CELL // 2 + 2)  # around the cell's centre; the border fades to zero
        return np.array([[small[CELL * i :, CELL * j :][near, near].mean() for j in range(7)] for i in range(7)])

    row, column = np.mgrid[:rows, :columns].astype(float)
    return seen(row), seen(column)


def write_mark(pages: Pages, instance: str, rows: int, columns: int, maps: npt.NDArray[Any]) -> None:
    """A result with one finding whose map is known; the crop is what TorchXRayVision's source says."""
    size = min(rows, columns)
    activation = {
        "shape": [2, 7, 7],
        "float16": base64.b64encode(maps.astype("<f2").tobytes()).decode(),
        "image": {"rows": rows, "columns": columns},
        "crop": {"row": rows // 2 - size // 2, "column": columns // 2 - size // 2, "size": size},
    }
    model = {"name": "by hand", "version": "1", "weights": "stand-in", "weights_sha256": "0" * 64}
    more = {
        "scores": {"Other": 0.2, "Mass": 0.7},
        "findings": ["Mass"],
        "activation": activation,
        "model": model,
        "image": {},
        "sr": {},
    }
    text = marks.mark(
        "done", instance, **more, warnings=[], settings={}, milliseconds={}, created="2026-01-01T00:00:00Z"
    )
    path = f"{pages.pacs.url}/instances/{instance}/metadata/{marks.METADATA}"
    assert pages.pacs.session.put(path, data=text.encode(), timeout=10).ok


def centre(mask: npt.NDArray[np.bool_]) -> Floats:
    """The middle of what is marked: x, y."""
    assert mask.any()
    return np.array([np.median(np.flatnonzero(mask.any(axis=0))), np.median(np.flatnonzero(mask.any(axis=1)))])


def bright_spot(screen: npt.NDArray[np.uint8]) -> Floats:
    """Where the white square of the image is."""
    return centre(screen.min(axis=2) > 200)


def hottest(screen: npt.NDArray[np.uint8]) -> Floats:
    """Where the overlay has its brightest yellow."""
    red, green, blue = screen.astype(int).transpose(2, 0, 1)
    return centre((red > 235) & (green > 195) & (red - blue > 60))


@pytest.mark.parametrize(
    ("rows", "columns", "cell", "photometric", "bits"),
    [
        (700, 1001, (2, 4), "MONOCHROME2", 12),
        (1003, 640, (5, 1), "MONOCHROME2", 12),
        (513, 511, (1, 3), "MONOCHROME1", 10),
        (301, 1400, (3, 5), "MONOCHROME1", 8),
        (200, 160, (4, 2), "MONOCHROME2", 16),
    ],
)
def test_the_map_lights_up_where_the_bright_spot_is(
    pages: Pages, rows: int, columns: int, cell: tuple[int, int], photometric: str, bits: int
) -> None:
    down, across = crop_of(rows, columns)
    row, column = down[cell], across[cell]
    half = min(rows, columns) // 60
    picture = np.full((rows, columns), 0.25)
    picture[round(row) - half : round(row) + half + 1, round(column) - half : round(column) + half + 1] = 1
    shown = picture if photometric == "MONOCHROME2" else 1 - picture
    stored = np.round(shown * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)
    instance = pages.pacs.upload(with_pixels(stored, bits, photometric))
    maps = np.full((2, 7, 7), -3.0)
    maps[1][cell] = 20.0  # the second finding's
    write_mark(pages, instance, rows, columns, maps)

    pages.open(f"report?instance={instance}")
    pages.loaded()
    canvas = pages.find("canvas[role=application]")
    opacity = "const o = document.getElementById('opacity'); o.value = 100; o.dispatchEvent(new Event('input'))"
    place = bright_spot(pages.canvas())
    for zoom in (0, -240, -240, -400):
        if zoom:
            at = [int(place[0] - canvas.size["width"] / 2), int(place[1] - canvas.size["height"] / 2)]
            ActionChains(pages.driver).scroll_from_origin(ScrollOrigin.from_element(canvas, *at), 0, zoom).perform()
        spot = bright_spot(pages.canvas())
        pages.find("[data-finding=Mass]").click()
        pages.run(opacity)
        lit = pages.canvas()
        cell_on_screen = cell_size(lit)
        assert np.abs(hottest(lit) - spot).max() < 2 + 0.03 * cell_on_screen, (zoom, hottest(lit), spot)
        pages.find("[data-finding=Mass]").click()


def cell_size(screen: npt.NDArray[np.uint8]) -> float:
    """How large a cell is on the screen, from the coloured area, which is a little smaller than two of them."""
    coloured = np.ptp(screen.astype(int), axis=2) > 20
    return float(max(np.count_nonzero(coloured.any(axis=0)), np.count_nonzero(coloured.any(axis=1)))) / 2


def test_a_map_that_speaks_against_a_finding_colours_nothing(pages: Pages) -> None:
    instance = pages.pacs.upload(with_pixels(np.full((100, 100), 500, np.uint16), 12))
    write_mark(pages, instance, 100, 100, np.full((2, 7, 7), -1.0))
    pages.open(f"report?instance={instance}&finding=Mass")
    pages.loaded()
    pages.says(".legend", "No part of the image speaks for Mass")
    assert np.ptp(pages.canvas().astype(int), axis=2).max() == 0


def test_the_edge_of_the_map_reaches_the_edge_of_the_crop(pages: Pages) -> None:
    instance = pages.pacs.upload(with_pixels(np.full((140, 280), 1000, np.uint16), 12))
    maps = np.full((2, 7, 7), -1.0)
    maps[1, 0, :] = 5.0
    write_mark(pages, instance, 140, 280, maps)
    pages.open(f"report?instance={instance}&finding=Mass")
    pages.loaded()
    screen = pages.canvas()
    rows, columns = (np.flatnonzero((np.ptp(screen.astype(int), axis=2) > 20).any(axis=axis)) for axis in (1, 0))
    width = screen.shape[1]  # the image is twice as wide as high and fills the width
    assert (columns[0], columns[-1]) == pytest.approx((width / 4, 3 * width / 4), abs=2)
    assert rows[0] == pytest.approx((screen.shape[0] - width / 2) / 2, abs=2)


@pytest.mark.parametrize("cell", [(1, 1), (2, 5), (3, 3), (5, 2)])
def test_the_model_itself_sees_a_bright_spot_in_its_own_cell(classify: Classifier, cell: tuple[int, int]) -> None:
    rows, columns = 448, 672  # the crop begins at column 112, and a cell is 64 pixels wide
    plain = np.full((rows, columns), 1500, np.uint16)
    spotted = plain.copy()
    row, column = 64 * cell[0], 112 + 64 * cell[1]
    spotted[row + 12 : row + 52, column + 12 : column + 52] = 3500
    maps = [
        analysis.analyse(with_pixels(one, 12), classify, datetime.now(UTC)).activation.maps for one in (plain, spotted)
    ]
    difference = np.sqrt(((maps[1] - maps[0]) ** 2).sum(axis=0))
    assert np.unravel_index(difference.argmax(), (7, 7)) == cell


def expected_greys(values: Floats, center: float, width: float) -> Floats:
    """PS3.3 C.11.2.1.2.1, to 0..255."""
    return np.round(255 * np.clip((values - (center - 0.5)) / (width - 1) + 0.5, 0, 1))


@pytest.mark.parametrize(
    ("photometric", "dtype", "bits", "tags"),
    [
        ("MONOCHROME2", np.uint16, 12, {"WindowCenter": 2048, "WindowWidth": 4096}),
        ("MONOCHROME1", np.uint16, 12, {"WindowCenter": ["1000", "2000"], "WindowWidth": ["800", "100"]}),
        ("MONOCHROME2", np.uint8, 8, {"WindowCenter": 100, "WindowWidth": 100}),
        (
            "MONOCHROME2",
            np.int16,
            12,
            {"WindowCenter": 900, "WindowWidth": 2000, "RescaleSlope": 2, "RescaleIntercept": 50},
        ),
        (
            "MONOCHROME1",
            np.int16,
            16,
            {"WindowCenter": 0, "WindowWidth": 9000, "RescaleSlope": 1, "RescaleIntercept": 0},
        ),
    ],
)
def test_the_greys_are_those_of_the_file(
    pages: Pages, photometric: str, dtype: Any, bits: int, tags: dict[str, Any]
) -> None:
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if np.dtype(dtype).kind == "i" else (0, (1 << bits) - 1)
    stored = np.random.default_rng(1).integers(low, high, (121, 203), dtype=dtype, endpoint=True)
    instance = pages.pacs.upload(with_pixels(stored, bits, photometric, **tags))
    pages.open(f"report?instance={instance}")
    pages.loaded()
    pages.run("[...document.querySelectorAll('.toolbar button')].find(b => b.textContent === '1:1').click()")
    screen = pages.canvas()[..., 0].astype(float)
    top, left = ((outer - inner) / 2 for outer, inner in zip(screen.shape, stored.shape, strict=True))
    values = stored * float(tags.get("RescaleSlope", 1)) + float(tags.get("RescaleIntercept", 0))
    center, width = (float(np.atleast_1d(tags[name])[0]) for name in ("WindowCenter", "WindowWidth"))
    greys = expected_greys(values, center, width)
    greys = 255 - greys if photometric == "MONOCHROME1" else greys
    shown = screen[int(np.floor(top + 0.5)) :, int(np.floor(left + 0.5)) :][: stored.shape[0], : stored.shape[1]]
    slope = abs(float(tags.get("RescaleSlope", 1)))
    assert (
        np.abs(shown - greys).max() <= 1 + 255 * slope / width
    )  # the 0.5 and 1 of the formula are counted in stored values


@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 12), (np.uint16, 16), (np.int16, 16)])
def test_jpeg_2000_looks_as_it_does_without_compression(pages: Pages, dtype: Any, bits: int) -> None:
    """Orthanc 1.10 has no decoder for it where it gives values in NumPy's format."""
    stored = images.pattern(150, 210, bits, signed=np.dtype(dtype).kind == "i")
    plain = with_pixels(stored, bits, StudyDescription=f"{bits} {dtype}")
    ds = dcmread(BytesIO(plain))
    ds.file_meta.TransferSyntaxUID = JPEG2000Lossless
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(dtype), str(bits)])
    ds.PixelData = encapsulate([bytes(images.compressed(stored, bits, JPEG2000Lossless))])
    ds["PixelData"].is_undefined_length = True
    seen = []
    for data in (plain, to_bytes(ds)):
        instance = pages.pacs.upload(data)
        write_mark(pages, instance, 150, 210, np.zeros((2, 7, 7)))
        pages.open(f"report?instance={instance}")
        pages.loaded()
        assert pages.text(".readout").startswith("C ")  # its window can be changed
        seen.append(pages.canvas())
    assert np.ptp(seen[0]) > 100
    np.testing.assert_array_equal(seen[0], seen[1])


def test_dragging_changes_the_window_and_reset_brings_it_back(pages: Pages) -> None:
    stored = np.tile(np.arange(400, dtype=np.uint16) * 10, (300, 1))
    instance = pages.pacs.upload(with_pixels(stored, 12))
    pages.open(f"report?instance={instance}")
    pages.loaded()
    canvas = pages.find("canvas[role=application]")
    first, readout = pages.canvas(), pages.text(".readout")
    ActionChains(pages.driver).move_to_element(canvas).click_and_hold().move_by_offset(0, 80).release().perform()
    darker = pages.canvas()
    assert darker.mean() < first.mean() - 5
    assert pages.text(".readout") != readout
    ActionChains(pages.driver).move_to_element(canvas).click_and_hold().move_by_offset(150, 0).release().perform()
    middle = pages.canvas()[canvas.size["height"] // 2, :, 0].astype(int)
    assert np.ptp(middle) < np.ptp(darker[canvas.size["height"] // 2, :, 0].astype(int))  # wider: less contrast
    pages.run("[...document.querySelectorAll('.toolbar button')].find(b => b.textContent === 'Invert').click()")
    assert pages.text(".readout") != readout
    canvas.send_keys("+", "+", "i")
    assert not np.array_equal(pages.canvas(), first)
    pages.run("[...document.querySelectorAll('.toolbar button')].find(b => b.textContent === 'Reset').click()")
    np.testing.assert_array_equal(pages.canvas(), first)
    assert pages.text(".readout") == readout


def test_moving_keeps_what_is_under_the_pointer_there(pages: Pages) -> None:
    stored = np.zeros((500, 500), np.uint16)
    stored[240:260, 240:260] = 4095
    pages.open(f"report?instance={pages.pacs.upload(with_pixels(stored, 12))}")
    pages.loaded()
    canvas = pages.find("canvas[role=application]")
    canvas.send_keys("+", "+", "+", "+")
    before = bright_spot(pages.canvas())
    pages.run("[...document.querySelectorAll('.toolbar button')].find(b => b.textContent === 'Move').click()")
    ActionChains(pages.driver).move_to_element(canvas).click_and_hold().move_by_offset(60, -40).release().perform()
    np.testing.assert_allclose(bright_spot(pages.canvas()) - before, [60, -40], atol=1)


def test_two_fingers_zoom_and_move(pages: Pages) -> None:
    stored = np.zeros((500, 500), np.uint16)
    stored[200:300, 200:300] = 4095
    pages.open(f"report?instance={pages.pacs.upload(with_pixels(stored, 12))}")
    pages.loaded()
    before = pages.canvas()
    box = pages.find("canvas[role=application]").rect
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for kind, apart in (
        ("touchStart", 40),
        ("touchMove", 50),
        ("touchMove", 60),
        ("touchMove", 80),
        ("touchEnd", None),
    ):
        touches = [] if apart is None else [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        pages.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
    bright = [np.count_nonzero(screen[..., 0] > 200) for screen in (before, pages.canvas())]
    assert bright[1] / bright[0] == pytest.approx(4, rel=0.1)  # twice as far apart


def test_a_colour_image_is_shown_as_orthanc_renders_it(pages: Pages) -> None:
    ds = radiograph(9, rows=64, columns=64, bits_stored=8)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.PixelData = bytes([200, 40, 40]) * 64 * 64
    pages.open(f"report?instance={pages.pacs.upload(to_bytes(ds))}")
    pages.says(".note", "as Orthanc renders it")
    red, green, _ = pages.canvas()[200, 400].astype(int)
    assert red > green + 100


def test_orthanc_is_not_asked_to_render_what_is_not_there(pages: Pages) -> None:
    """Orthanc 1.10 reads behind the end of pixel data that was cut off, and may end with that."""
    ds: Dataset = radiograph(10, rows=1500, columns=1500)
    ds.PixelData = ds.PixelData[:1000]
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["cut"])
    found = []
    for uid in ("2.25.1", "2.25.2"):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(uid)
        found.append(pages.pacs.upload(to_bytes(ds)))
    study = pages.pacs.get(f"/instances/{found[0]}/study")["ID"]
    for address, place, words in (
        (f"instance={found[0]}", ".note", "This image cannot be shown"),
        (f"study={study}", ".images .none", "Not shown here"),
    ):
        pages.open(f"report?{address}")
        pages.says(place, words)
        assert "study" in address or pages.canvas().max() == 0
        asked = pages.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert not [one for one in asked if "/rendered" in one]
    assert pages.pacs.get("/system")


def test_the_colours_grow_brighter_in_equal_steps(pages: Pages) -> None:
    pages.open("report")
    shares = "[...Array(65).keys()].map(n => m.colour(n / 64))"
    script = f"const done = arguments[0]; import('./activation.js').then(m => done({shares}))"
    colours = np.array(pages.driver.execute_async_script(script))
    lightness = rgb2lab(colours[None] / 255)[0, :, 0]
    steps = np.diff(lightness)
    assert steps.min() > 0.4 * steps.mean()  # CIELAB, which is not the space that it was made in
    assert steps.max() < 1.6 * steps.mean()


def test_the_picture_that_is_stored_shows_a_map_as_the_page_does(pages: Pages) -> None:
    rows, columns, bits = 448, 600, 12
    stored = np.tile(np.linspace(200, 3800, columns).astype(np.uint16), (rows, 1))
    low, high = np.percentile(stored, summary_image.BRIGHTNESS)
    window = {"WindowCenter": round((low + high + 1) / 2), "WindowWidth": round(high - low + 1)}
    instance = pages.pacs.upload(with_pixels(stored, bits, **window))
    maps = np.random.default_rng(3).normal(0, 1, (2, 7, 7)).astype(np.float16)
    maps[..., 0] = -1  # nothing is coloured where the dashes are compared
    write_mark(pages, instance, rows, columns, maps)
    pages.open(f"report?instance={instance}&finding=Mass")
    pages.loaded()
    pages.run("[...document.querySelectorAll('.toolbar button')].find(b => b.textContent === '1:1').click()")
    screen = pages.canvas()
    top, left = ((outer - inner + 1) // 2 for outer, inner in zip(screen.shape, stored.shape, strict=False))
    shown = screen[top : top + rows, left : left + columns].astype(int)

    crop = (0, (columns - rows) // 2, rows)
    activation = ActivationMaps(maps.astype(np.float32), rows, columns, crop)
    picture = np.asarray(summary_image.overlaid(Pixels(stored, bits, False, ()), activation, 1, columns)).astype(int)
    assert picture.shape == shown.shape
    edge = np.zeros((rows, columns), bool)  # the dashes, which begin elsewhere on a screen
    edge[[0, 1, -2, -1]] = True
    edge[:, [column + offset for column in (crop[1], crop[1] + rows) for offset in (-2, -1, 0, 1)]] = True
    difference = np.abs(picture - shown).max(axis=2)[~edge]
    assert np.ptp(picture, axis=2).max() > 100  # there is something to compare
    assert difference.mean() < 1 and difference.max() <= 20  # the page's is half as fine, and made larger
    there, here = (
        (image[:, crop[1] - 2 : crop[1] + 2, 0] - image[:, crop[1] - 3, :1]).sum(axis=1) for image in (shown, picture)
    )
    assert here.max() == pytest.approx(there.max(), rel=0.1) and here.max() > 100  # as white, in one pixel or two
    assert np.count_nonzero(here > 60) == pytest.approx(np.count_nonzero(there > 60), rel=0.1)


def test_half_floats_are_read_as_numpy_writes_them(pages: Pages) -> None:
    numbers = np.array([0, -0.0, 1, -1, 65504, 6e-8, -6.1e-5, 0.333, 1000.5, *range(40)], "<f2")
    pages.open("report")
    script = (
        "const [said, done] = arguments; import('./activation.js').then(m => done([...m.mapOf(JSON.parse(said), 0)]))"
    )
    said = json.dumps({"float16": base64.b64encode(numbers.tobytes()).decode()})
    read = pages.driver.execute_async_script(script, said)
    np.testing.assert_array_equal(np.array(read), numbers.astype(float))
