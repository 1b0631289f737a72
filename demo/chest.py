"""A chest drawn from a seed: the picture alone, no DICOM.

Each function gives how much a part weakens the beam, and `draw` puts the sum through a film's curve.
Coordinates are fractions of the picture: x from -0.5 (on a frontal view the patient's right) to 0.5, and y
downwards from 0 to 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]

DRAWN_AT = 640
"""The shapes are soft: a square of at most this size, enlarged, shows all of them and is drawn quickly."""


def draw(seed: int, rows: int, columns: int, view: str = "PA") -> Plane:
    """A chest of shape (rows, columns), 0..1, bone bright and air dark; `view` is a DICOM ViewPosition.

    `LL` and `RL` are drawn from the side, all others from the front. Computed in double precision, the picture is the
    same on every processor: in single precision, some values of 16 bits were not.
    """
    rng = np.random.default_rng(seed)
    size = min(DRAWN_AT, max(rows, columns, 32))
    ticks = np.linspace(0, 1, size)
    x, y = ticks[None, :] - 0.5, ticks[:, None]
    thickness = _lateral(x, y, rng) if view in ("LL", "RL") else _frontal(x, y, rng)
    thickness = thickness * (1 + 0.05 * _clouds(rng, size, 7) + 0.02 * _clouds(rng, size, 60))
    film = 1 / (1 + np.exp(-4.2 * (thickness - 0.62)))
    picture = _enlarge(film, rows, columns)
    if view == "RL":
        picture = picture[:, ::-1]
    grain = rng.standard_normal((rows, columns), dtype=np.float32)
    picture = picture + grain * (0.006 + 0.010 * picture)
    return ((picture - 0.08) / 0.86).clip(0.02, 0.98)


def _frontal(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    x = (x + rng.uniform(-0.015, 0.015)) / rng.uniform(0.95, 1.06)
    base, heart = rng.uniform(0.72, 0.78), rng.uniform(0.88, 1.12)
    side = np.abs(x)
    chest = 0.37 + 0.035 * _step(y, 0.45, 0.2)

    neck = 0.095 + 8.0 * np.clip(y - 0.02, 0, 0.3) ** 2
    flank = chest + 0.05 + 0.16 * _step(0.36, y, 0.07)
    skin = np.minimum(neck, flank)
    body = np.sqrt(np.clip(1 - (side / (skin + 0.02)) ** 2, 0, 1)) ** 0.6 * _step(skin, side, 0.006)

    dome = base + np.where(x < 0, -0.015, 0.015) + 1.6 * (side - 0.17) ** 2 + 0.25 * np.clip(side - 0.25, 0, 1)
    down = np.clip((y - 0.11) / (base - 0.06), 0, 1)
    outer = 0.035 + (chest - 0.045) * (1 - (1 - down) ** 2.3) ** 0.5
    inner = 0.035 + 0.035 * down
    lungs = _step(outer, side, 0.006) * _step(side, inner, 0.008) * _step(dome, y, 0.006) * _step(down, 0.01, 0.015)

    middle = _heart_and_vessels(x, y, base, heart)
    air = lungs * (1 - 0.92 * middle)
    thickness = 0.80 * body - 0.50 * air * (0.75 + 0.35 * down) * body
    thickness += 0.10 * middle * body + 0.14 * _step(y, dome + 0.01, 0.03) * body
    thickness += air * _vessels(x, y, rng)
    thickness -= rng.uniform(0.06, 0.2) * _ellipse(x - 0.18, y - base - 0.075, 0.07, 0.033, -0.25)
    thickness -= 0.10 * _airways(x, y) * body
    thickness += (_spine(x, y) + _ribs(x, y, base) + _shoulder_blades(x, y) + _clavicles(x, y, rng)) * body
    breasts = rng.choice([0.015, 0.08]) * _ellipse(side - 0.21, y - 0.60, 0.15, 0.13, 0)
    return np.asarray(thickness + breasts * body)


def _heart_and_vessels(x: Plane, y: Plane, base: float, heart: float) -> Plane:
    left = _ellipse(x - 0.055 * heart, y - base + 0.09, 0.165 * heart, 0.115, 0.55)
    right = _ellipse(x + 0.03, y - base + 0.10, 0.085 * heart, 0.14, -0.1)
    pulmonary = _ellipse(x - 0.035, y - 0.43, 0.052, 0.12, -0.15)
    aorta = 0.9 * _ellipse(x - 0.035, y - 0.325, 0.05, 0.05, 0)
    superior = 0.8 * _step(0.056 + 0.1 * (0.3 - y) ** 2, np.abs(x + 0.006), 0.012) * _step(0.6, y, 0.05)
    return np.asarray(np.maximum.reduce([left, right, pulmonary, aorta, superior]))


def _airways(x: Plane, y: Plane) -> Plane:
    side = np.abs(x)
    windpipe = _step(0.016, np.abs(x + 0.012 * y), 0.005) * _step(0.37, y, 0.02)
    bronchi = _step(0.010, np.abs(y - 0.365 - 0.8 * side), 0.005) * _step(0.07, side, 0.015) * _step(y, 0.36, 0.01)
    return np.maximum(windpipe, 0.7 * bronchi)


def _spine(x: Plane, y: Plane) -> Plane:
    vertebra = 0.5 + 0.5 * np.cos(2 * np.pi * y**1.12 / 0.062)
    column = _step(0.040 + 0.006 * y, np.abs(x), 0.007)
    pedicles = np.exp(-(((np.abs(x) - 0.027) / 0.007) ** 2)) * (1 - vertebra) ** 2
    process = np.exp(-((x / 0.008) ** 2)) * (0.4 + 0.6 * vertebra)
    return np.asarray(column * (0.06 + 0.04 * _step(vertebra, 0.2, 0.1) + 0.04 * pedicles + 0.03 * process))


def _ribs(x: Plane, y: Plane, base: float) -> Plane:
    """Ten pairs; each is a tilted loop the upper half runs behind the lung, the lower in front."""
    side = np.abs(x)
    total = np.zeros(np.broadcast_shapes(x.shape, y.shape))
    for i, reach in enumerate((0.17, 0.255, 0.305, 0.335, 0.352, 0.366, 0.378, 0.387, 0.393, 0.396)):
        outward = np.clip(side / reach, 0, 1)
        bend = np.sqrt(1 - outward**2.6)
        turn = 0.20 + i * (base - 0.17) / 9.5 + 0.035 * outward**2
        width, there = 0.009 + 0.0006 * i, _step(reach, side, 0.004)
        behind = turn - (0.065 + 0.007 * i) * bend
        total += 0.095 * _bone(y - behind, behind, width) * there * _step(side, 0.035, 0.01)
        if 0 < i < 8:
            before = turn + (0.055 + 0.011 * i) * bend
            bony = _step(side, 0.13 + 0.012 * i, 0.02)
            total += 0.06 * _bone(y - before, before, 1.15 * width) * there * bony
    return total


def _bone(distance: Plane, course: Plane, half_width: float) -> Plane:
    """A long bone along `course` (y for each x): `distance` below it, as thick on slopes as on the level."""
    slope = np.gradient(course, axis=-1) * course.shape[-1]
    return _tube(distance / (half_width * np.sqrt(1 + slope**2)))


def _clavicles(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    side = np.abs(x)
    outward = (side - 0.035) / 0.33
    course = 0.235 - rng.uniform(0.045, 0.075) * outward + 0.02 * np.sin(2 * np.pi * np.clip(outward, 0, 1))
    half_width = 0.0125 + 0.006 * np.clip(0.2 - outward, 0, 1)
    return 0.13 * _tube((y - course) / half_width) * _step(side, 0.035, 0.006) * _step(0.365, side, 0.006)


def _shoulder_blades(x: Plane, y: Plane) -> Plane:
    side = np.abs(x)
    edge = 0.33 + 0.1 * (y - 0.3) ** 2 + 0.08 * np.clip(y - 0.36, 0, 1)
    extent = _step(side, edge, 0.004) * _step(y, 0.20, 0.02) * _step(0.46 - 0.2 * (0.4 - side), y, 0.03)
    border = 0.04 * _tube((side - edge - 0.004) / 0.008)
    return extent * (0.04 + border) * _step(0.44, side, 0.02) + 0.16 * _ellipse(side - 0.46, y - 0.225, 0.05, 0.055, 0)


def _lateral(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    """With the breastbone on the left of the picture and the spine on the right."""
    x = x / rng.uniform(0.95, 1.08)
    heart = rng.uniform(0.9, 1.1)
    front = -0.28 - 0.06 * np.sin(np.pi * y) + 0.13 * _step(0.12, y, 0.06)
    back = 0.34 + 0.03 * np.sin(2.6 * y + 0.2) - 0.12 * _step(0.08, y, 0.06)
    body = _step(x, front, 0.006) * _step(back, x, 0.006)
    column = 0.18 + 0.055 * np.sin(2.9 * y)

    dome = 0.71 + 1.0 * (x + 0.06) ** 2 + 0.30 * np.clip(x, 0, 1)
    lungs = _step(x, front + 0.05, 0.01) * _step(back - 0.06, x, 0.012) * _step(dome, y, 0.007)
    lungs = lungs * _step(y, 0.15 + 1.5 * (x - 0.05) ** 2, 0.03)
    middle = np.maximum(
        0.75 * _ellipse(x + 0.11, y - 0.59, 0.15 * heart, 0.125, 0.8),
        0.4 * _ellipse(x, y - 0.39, 0.075, 0.10, 0.2),
    )

    vertebra = 0.5 + 0.5 * np.cos(2 * np.pi * (y**1.1 - 0.2 * (x - column)) / 0.068)
    spine = _step(0.048, np.abs(x - column), 0.008) * (0.5 + 0.5 * _step(vertebra, 0.18, 0.1)) * (1.1 - 0.5 * y)
    breastbone = _step(0.012, np.abs(x - front - 0.035), 0.005) * _step(y, 0.18, 0.02) * _step(0.5, y, 0.03)
    windpipe = _step(0.017, np.abs(x - 0.02 - 0.12 * y), 0.005) * _step(0.40, y, 0.03)
    along = np.clip((x - front) / (back - front), 0, 1)

    thickness = 0.84 * body - 0.44 * lungs * (1 - middle) * body
    thickness += 0.12 * _step(y, dome + 0.01, 0.04) * body + 0.6 * lungs * _vessels(x, y, rng)
    thickness += (0.16 * spine + 0.14 * breastbone - 0.12 * windpipe) * body
    thickness += 0.16 * _step(0.20 - 0.3 * np.abs(x - 0.05), y, 0.05) * body
    for i in range(9):
        course = 0.12 + 0.066 * i + 0.16 * (1 - along) ** 1.5 + 0.03 * np.sin(np.pi * along)
        thickness += 0.04 * _tube((y - course) / 0.011) * lungs
    return np.asarray(thickness)


def _vessels(x: Plane, y: Plane, rng: np.random.Generator) -> Plane:
    """Vessels that leave both hila and branch, each branch thinner than its parent."""
    size = x.shape[1]
    widths, strengths = (0.0075, 0.005, 0.0034, 0.0024), (0.09, 0.085, 0.08, 0.07)
    layers = np.zeros((4, size, size))
    fan = np.linspace(-1.3, 1.4, 8)
    tips = [(0.06, 0.44, angle, 0) for angle in fan] + [(-0.06, 0.44, np.pi - angle, 0) for angle in fan]
    while tips:
        left, top, angle, generation = tips.pop()
        angles = angle + np.cumsum(rng.normal(0, 0.05, int(rng.uniform(45, 90))))
        lefts, tops = left + np.cumsum(np.cos(angles)) / 1000, top + np.cumsum(np.sin(angles)) / 1000
        columns, rows = ((lefts + 0.5) * size).astype(int), (tops * size).astype(int)
        inside = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size)
        layers[generation][rows[inside], columns[inside]] = 1
        if generation < 3:
            tips += [(lefts[-1], tops[-1], angles[-1] + turn, generation + 1) for turn in rng.normal(0, 0.5, 2)]
    hila = 0.09 * np.exp(-(((np.abs(x) - 0.08) / 0.028) ** 2) - ((y - 0.45) / 0.055) ** 2)
    for layer, width, strength in zip(layers, widths, strengths, strict=True):
        sigma = width * size / 2
        hila = hila + strength * np.clip(_blur(layer, sigma) * sigma * 2.5, 0, 1)
    return hila


def _step(higher: Any, lower: Any, softness: float) -> Plane:
    """1 where `higher` exceeds `lower`, else 0, with an edge about `softness` wide."""
    return np.asarray(0.5 + 0.5 * np.tanh((higher - lower) / softness))


def _ellipse(x: Plane, y: Plane, half_width: float, half_height: float, tilt: float) -> Plane:
    across, down = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
    return _step(1, np.sqrt((across / half_width) ** 2 + (down / half_height) ** 2), 0.1)


def _tube(distance: Plane) -> Plane:
    """A bone's cross-section at `distance` half widths from its middle: the cortex is brightest."""
    squared = distance * distance
    return np.asarray(np.clip(1 - squared * squared * squared, 0, 1) * (0.65 + 0.35 * squared))


def _clouds(rng: np.random.Generator, size: int, cells: int) -> Plane:
    return _enlarge(rng.standard_normal((cells, cells), dtype=np.float32), size, size)


def _blur(plane: Plane, sigma: float) -> Plane:
    """A Gaussian of `sigma` pixels along both axes."""
    ticks = np.arange(plane.shape[0])
    kernel = np.exp(-(((ticks[:, None] - ticks) / sigma) ** 2) / 2)
    kernel /= kernel.sum(axis=1, keepdims=True)
    return np.asarray(kernel @ plane @ kernel.T)


def _enlarge(plane: Plane, rows: int, columns: int) -> Plane:
    """`plane` stretched to (rows, columns), linear between its points."""
    return np.asarray(_weights(plane.shape[0], rows) @ plane @ _weights(plane.shape[1], columns).T)


def _weights(old: int, new: int) -> Plane:
    places = np.linspace(0, old - 1, new)[:, None]
    return (1 - np.abs(places - np.arange(old))).clip(0, 1)
