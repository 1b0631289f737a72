"""A result as one picture: the radiograph with the activation map of its top finding, and the 18 scores as bars.

Pure. There is no name or identifier in the picture; a viewer shows those of the object that it stands in.
"""

from __future__ import annotations

from textwrap import wrap
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from plugin.activation import ActivationMaps
from plugin.pixels import Pixels
from plugin.report import DISCLAIMER, OPERATING_POINT, Report

WIDTH, HEIGHT = 1280, 896
MARGIN = 32
PICTURE: Final = (MARGIN, MARGIN, 768, 768)
"""Left, top, and the size that the radiograph may have."""
BARS: Final = (848, 128, 384, 32)
"""Left, top, the length of a score of 1, and the height of a row."""

Colour = tuple[int, int, int]
BACKGROUND: Final[Colour] = (16, 18, 22)
TEXT: Final[Colour] = (235, 235, 235)
FAINT: Final[Colour] = (150, 155, 165)
BELOW: Final[Colour] = (95, 110, 130)
PRESENT: Final[Colour] = (240, 165, 60)
ALARM: Final[Colour] = (235, 70, 70)

INFERNO: Final = np.array(
    [
        list(bytes.fromhex(colour))
        for colour in ("000004", "210c4a", "56106e", "89226a", "bb3754", "e35932", "f98c0a", "f9c932", "fcffa4")
    ],
    np.float32,
)
"""Nine points of matplotlib's perceptually uniform colour map of this name (CC0), as in plugin/web/activation.js."""
OPACITY: Final = 0.6
"""Of the map, as the page has it at first."""
DASH: Final = 6
"""Pixels of a dash, and of the gap after it."""
DASHES: Final = 8 / 15
"""Opacity of the dashes' white."""
BRIGHTNESS: Final = (0.5, 99.5)
"""The percentiles of the image that become black and white."""

LEGEND: Final = """\
The dashed square is what the model saw.
The colours end at this map's own highest value:
compare places, not findings."""
STAND_IN: Final = "TEST ONLY: STAND-IN WEIGHTS. THESE SCORES MEAN NOTHING."


def top_finding(report: Report) -> str:
    """The label with the highest score; whose map the picture shows."""
    return max(report.scores, key=lambda label: report.scores[label])


def summary(pixels: Pixels, maps: ActivationMaps, report: Report) -> npt.NDArray[np.uint8]:
    """The picture, (896, 1280, 3), RGB."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    left, top, size, _ = PICTURE
    radiograph = overlaid(pixels, maps, list(report.scores).index(top_finding(report)), size)
    canvas.paste(radiograph, (left + (size - radiograph.width) // 2, top + (size - radiograph.height) // 2))
    draw = ImageDraw.Draw(canvas)
    _heading(draw, report)
    _bars(draw, report)
    _small_print(draw, report)
    return np.asarray(canvas)


def overlaid(pixels: Pixels, maps: ActivationMaps, finding: int, size: int) -> Image.Image:
    """The radiograph, bone bright, in at most `size` x `size` pixels, with one finding's map where it belongs."""
    rows, columns = pixels.stored.shape
    scale = size / max(rows, columns)
    grey = _grey(pixels, (max(1, round(columns * scale)), max(1, round(rows * scale))))
    row, column, crop = (round(edge * scale) for edge in maps.crop)
    picture = np.repeat(grey[..., None], 3, -1)
    seen = picture[row : row + max(1, crop), column : column + max(1, crop)]
    colours, opacity = evidence(maps.maps[finding], seen.shape[:2])
    seen += (colours - seen) * (OPACITY * opacity[..., None])
    seen += (255 - seen) * (DASHES * _dashed(seen.shape[:2])[..., None])
    return Image.fromarray(picture.round().astype(np.uint8))


def _grey(pixels: Pixels, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """(rows, columns), 0..255, of the size (columns, rows)."""
    whole = Image.fromarray(np.ascontiguousarray(pixels.stored, np.float32))
    small = np.asarray(whole.resize(size, Image.Resampling.BOX if size[0] < whole.width else Image.Resampling.BILINEAR))
    low, high = np.percentile(small, BRIGHTNESS)
    grey = ((small - low) * (255 / max(high - low, 1e-6))).clip(0, 255)
    return np.asarray(255 - grey if pixels.inverted else grey, np.float32)


def evidence(
    activation: npt.NDArray[np.float32], shape: tuple[int, ...]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """A map as the page shows it: its colours, (rows, columns, 3), and their opacity, 0..1, (rows, columns).

    Each of the 7 x 7 values stands in the middle of its part of the crop, with straight lines between them. What does
    not speak for the finding has no opacity, and faint evidence less.
    """
    rows, columns = shape
    highest = max(float(activation.max()), 1e-6)
    large = Image.fromarray(activation / highest).resize((columns, rows), Image.Resampling.BILINEAR)
    share = np.asarray(large).clip(0, 1)
    points = np.linspace(0, 1, len(INFERNO))
    colours = np.stack([np.interp(share, points, INFERNO[:, channel]) for channel in range(3)], -1)
    return colours.astype(np.float32), (2 * share).clip(0, 1)


def _dashed(shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """The edge of a rectangle in dashes: what the model saw."""
    edge = np.zeros(shape, bool)
    down, across = (np.arange(length) // DASH % 2 == 0 for length in shape)
    edge[[0, -1], :] = across
    edge[:, [0, -1]] |= down[:, None]
    return edge


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # comes with Pillow, so that it is the same everywhere


def _heading(draw: ImageDraw.ImageDraw, report: Report) -> None:
    left = BARS[0]
    draw.text((left, MARGIN), "Chest X-ray AI scores", TEXT, _font(28))
    draw.text((left, MARGIN + 40), f"In colour: evidence for {_shown(top_finding(report))}", FAINT, _font(16))
    line = f"{report.model.name}, {report.model.weights} weights {report.model.weights_sha256[:12]}"
    draw.text((left, MARGIN + 62), line, FAINT, _font(14))


def _bars(draw: ImageDraw.ImageDraw, report: Report) -> None:
    left, top, length, height = BARS
    point = left + length * OPERATING_POINT
    ranked = sorted(report.scores.items(), key=lambda item: -item[1])
    for number, (label, score) in enumerate(ranked):
        y = top + number * height
        draw.text((left, y), _shown(label), TEXT if report.present(label) else FAINT, _font(14))
        draw.text((left + length, y), f"{score:.3f}", TEXT if report.present(label) else FAINT, _font(14), anchor="ra")
        colour = PRESENT if report.present(label) else BELOW
        draw.rectangle((left, y + 18, left + max(1, round(length * score)), y + 25), colour)
    draw.line((point, top + 14, point, top + len(ranked) * height), TEXT)
    draw.text(
        (point, top + len(ranked) * height + 4), f"{OPERATING_POINT} operating point", TEXT, _font(13), anchor="ma"
    )
    draw.multiline_text((left, top + len(ranked) * height + 30), LEGEND, FAINT, _font(13))


def _small_print(draw: ImageDraw.ImageDraw, report: Report) -> None:
    y = MARGIN + PICTURE[2] + 10
    if not report.model.trained:
        draw.text((MARGIN, y), STAND_IN, ALARM, _font(22))
    said = wrap(f"{DISCLAIMER} {' '.join(report.warnings)}", 170)
    lines = said if len(said) < 3 else [*said[:2], f"{said[2]} ... more in the report"]
    for number, line in enumerate(lines):
        draw.text((MARGIN, y + 31 + number * 17), line, TEXT, _font(13))


def _shown(label: str) -> str:
    return label.replace("_", " ")
