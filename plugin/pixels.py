"""From a radiograph's Dataset to the model's input: decode, crop to the centre square, resize, scale.

    Dataset --decode--> Pixels --prepare--> ModelInput

Pure. The result equals what TorchXRayVision makes of the same file (`utils.read_xray_dcm` with its defaults, then
`datasets.XRayCenterCrop` and `datasets.XRayResizer(224)`) to 1e-3 on the scale from -1024 to 1024, many times
faster: its anti-aliased resize is linear, so it is two multiplications by one small banded matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from plugin.decoding import NoDecoder, Pixels, UnreadablePixels, decode, decoded_elsewhere, fingerprint

__all__ = [
    "SIZE",
    "ModelInput",
    "NoDecoder",
    "Pixels",
    "UnreadablePixels",
    "decode",
    "decoded_elsewhere",
    "fingerprint",
    "model_input",
    "prepare",
]

SIZE = 224
"""Rows and columns of the model's input."""

ROWS_PER_BLOCK = 4
"""Output rows computed at once: few enough that their source rows stay in the processor's cache (4 was the fastest)."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What the model is given, and what is to be remembered about it.

    `array` is float32, (1, 224, 224), where 0..2^BitsStored-1 is mapped to -1024..1024 with bone bright. `crop` is
    the square of the source image that the array shows: its first row, its first column and its size in pixels.
    `warnings` are whole sentences for the reader of the result.
    """

    array: npt.NDArray[np.float32]
    crop: tuple[int, int, int]
    warnings: tuple[str, ...]


def model_input(ds: Dataset, threads: int = 1) -> ModelInput:
    """The model's input for a single-frame MONOCHROME1 or MONOCHROME2 image; raises `UnreadablePixels`."""
    return prepare(decode(ds, threads))


def prepare(pixels: Pixels) -> ModelInput:
    """Crop to the centre square, resize to 224x224 and scale to -1024..1024.

    Equals TorchXRayVision's `normalize`, `XRayCenterCrop` and `XRayResizer(224)` to 1e-3, and goes on where
    `normalize` raises: MONOCHROME1 with negative values gives more than 1024.
    """
    crop = row, column, size = center_crop(*pixels.stored.shape)
    middle, scale = to_model_range(pixels)
    resized, extent = _resize(pixels.stored[row : row + size, column : column + size], middle)
    array = resized * np.float32(scale)
    return ModelInput(array[None], crop, (*pixels.warnings, *_warnings(size, extent)))


def _warnings(size: int, extent: float) -> Iterator[str]:
    """Of images that the model can make little of, though TorchXRayVision scores them like any other."""
    if size < SIZE:
        yield f"The image has {size} pixels along its shorter side; it was enlarged to the model's {SIZE}."
    if not extent:
        yield "All pixels that the model saw have the same value."


def center_crop(rows: int, columns: int) -> tuple[int, int, int]:
    """First row, first column and size of the centre square, as TorchXRayVision's `XRayCenterCrop` has it."""
    size = min(rows, columns)
    return rows // 2 - size // 2, columns // 2 - size // 2, size


def to_model_range(pixels: Pixels) -> tuple[float, float]:
    """`middle` and `scale`: (stored value - middle) * scale lies in -1024..1024, with bone bright."""
    greatest = (1 << pixels.bits) - 1
    return greatest / 2, (-2048 if pixels.inverted else 2048) / greatest


def _resize(square: npt.NDArray[Any], middle: float) -> tuple[npt.NDArray[np.float32], float]:
    """(n, n) to (224, 224): `square - middle`, smoothed and interpolated along both axes; highest less lowest value."""
    n = len(square)
    blocks = _blocks(n)
    rows = np.empty((SIZE, n), np.float32)
    scratch = np.empty((max(weights.shape[1] for _, _, weights in blocks), n), np.float32)
    low, high = np.inf, -np.inf
    for output, source, weights in blocks:
        block = scratch[: weights.shape[1]]
        np.copyto(block, square[source], casting="unsafe")
        block -= np.float32(middle)  # before the sum, where it is exact: 16 bits and a half fit into a float32
        low, high = min(low, block.min()), max(high, block.max())  # here, while it is in the processor's cache
        np.matmul(weights, block, out=rows[output])
    resized = np.empty((SIZE, SIZE), np.float32)
    for output, source, weights in blocks:
        np.matmul(rows[:, source], weights.T, out=resized[:, output])
    # scikit-image clips to the source's own range; this is felt at the border, where the image fades to zero.
    return np.clip(resized, low, high), float(high - low)


@lru_cache(maxsize=32)
def _blocks(n: int) -> list[tuple[slice, slice, npt.NDArray[np.float32]]]:
    """The resize of n pixels as blocks of (output rows, source rows, weights), since its matrix is banded."""
    matrix = resize_matrix(n)
    blocks = []
    for first in range(0, SIZE, ROWS_PER_BLOCK):
        output = slice(first, first + ROWS_PER_BLOCK)
        used = np.flatnonzero(matrix[output].any(axis=0))
        source = slice(int(used[0]), int(used[-1]) + 1)
        blocks.append((output, source, np.ascontiguousarray(matrix[output, source], np.float32)))
    return blocks


def resize_matrix(n: int) -> npt.NDArray[np.float64]:
    """The (224, n) matrix of `skimage.transform.resize(..., mode="constant")` along one axis.

    A Gaussian with sigma (n/224 - 1)/2, cut at 4 sigma (none when enlarging), then linear interpolation between
    pixel centres. Outside the image everything is 0: rows near the border sum to less than 1.
    """
    step = n / SIZE
    centre = (np.arange(SIZE) + 0.5) * step - 0.5
    left = np.floor(centre).astype(int)
    right_weight = centre - left

    sigma = max(0.0, (step - 1) / 2)
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2) if radius else np.ones(1)
    kernel /= kernel.sum()

    matrix = np.zeros((SIZE, n))
    outputs = np.arange(SIZE)
    for offset, weight in zip(offsets, kernel, strict=True):
        for neighbour, share in ((left, 1 - right_weight), (left + 1, right_weight)):
            source = neighbour + offset
            inside = (source >= 0) & (source < n)
            matrix[outputs[inside], source[inside]] += weight * share[inside]
    return matrix
