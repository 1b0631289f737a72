"""From a radiograph's Dataset to the model's input: decode, crop to the centre square, resize, scale.

    Dataset --decode--> Pixels --prepare--> ModelInput

Pure. The result equals what TorchXRayVision makes of the same file (`utils.read_xray_dcm` with its defaults, then
`datasets.XRayCenterCrop` and `datasets.XRayResizer(224)`) to 1e-3 on the scale from -1024 to 1024, many times
faster: its anti-aliased resize is linear, so it is two multiplications by one small banded matrix.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.uid import (
    UID,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
)
from pydicom.uid import HTJ2K, ImplicitVRLittleEndian, JPEGLSNearLossless, RLELossless

Array = npt.NDArray[Any]

SIZE = 224
"""Rows and columns of the model's input."""

LARGEST = 200_000_000
"""Pixels. A header that claims more is refused before memory is taken; the largest detectors have 20 million."""

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)

# JPEG XL came into the standard after pydicom 3.0.
JPEGXLLossless, JPEGXLJPEGRecompression, JPEGXL = (UID(f"1.2.840.10008.1.2.4.{n}") for n in (110, 111, 112))

# Their codestreams may be deeper than BitsStored, so that compression can lift a stored value above its maximum.
# (TorchXRayVision raises for those; for the other lossy syntax, JPEG extended, it has pydicom cut the upper bits.)
OVERSHOOTING = (JPEGLSNearLossless, JPEG2000, HTJ2K, JPEGXL)

ROWS_PER_BLOCK = 8
"""Output rows computed at once: few enough that their source rows stay in the processor's cache."""


class UnreadablePixels(ValueError):
    """The pixel data cannot be turned into an image; the message is one sentence that says why."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """One decoded image.

    `stored` holds the stored values, (Rows, Columns), integers of any width and byte order, possibly read-only.
    `bits` is BitsStored; `inverted` tells MONOCHROME1. `sha256` and `warnings` are as in `ModelInput`.
    """

    stored: Array
    bits: int
    inverted: bool
    sha256: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What the model is given, and what is to be remembered about it.

    `array` is float32, (1, 224, 224), where 0..2^BitsStored-1 is mapped to -1024..1024 with bone bright. `sha256`
    (hex) identifies the pixel data as stored together with the attributes that give it its meaning. `crop` is the
    square of the source image that the array shows: its first row, its first column and its size in pixels.
    `warnings` are whole sentences for the reader of the result.
    """

    array: npt.NDArray[np.float32]
    sha256: str
    crop: tuple[int, int, int]
    warnings: tuple[str, ...]


def model_input(ds: Dataset) -> ModelInput:
    """The model's input for a single-frame MONOCHROME1 or MONOCHROME2 image; raises `UnreadablePixels`."""
    return prepare(decode(ds))


# Decoding


def decode(ds: Dataset) -> Pixels:
    """Read the stored values of a single-frame grey image in any transfer syntax that CR and DX come in.

    Bits above BitsStored are no pixel data (PS3.5 section 8.1.1) and are dropped, with a warning where they were
    set: old overlays live there, and so pydicom and with it TorchXRayVision treat uncompressed, RLE and JPEG
    images. For JPEG 2000, JPEG-LS and their kin TorchXRayVision raises instead. There, the same rule makes the same
    image give the same scores however it is compressed; only after a lossy compression a value above the maximum
    is an overshoot of that maximum, and is clipped to it.

    Raises `UnreadablePixels` for anything that the header or a decoder makes impossible.
    """
    try:
        header = _header(ds)
        stored = _native(ds, header) if header.syntax in NATIVE else _decompressed(ds, header)
        stored, warnings = _within_bits_stored(stored, header)
    except UnreadablePixels:
        raise
    except Exception as error:  # decoders and pydicom raise whatever they like at a malformed file
        raise UnreadablePixels(f"The pixel data cannot be decoded: {_first_line(error)}.") from error
    return Pixels(stored, header.bits_stored, header.inverted, _sha256(ds, header), warnings)


@dataclass(frozen=True, slots=True)
class _Header:
    """The attributes that decide how PixelData is to be read, checked."""

    syntax: UID
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    inverted: bool


def _header(ds: Dataset) -> _Header:
    syntax = getattr(ds, "file_meta", Dataset()).get("TransferSyntaxUID")
    if not syntax:
        raise UnreadablePixels("TransferSyntaxUID is missing.")
    photometric = ds.get("PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise UnreadablePixels(
            f"PhotometricInterpretation is {photometric!r}, not MONOCHROME1 or MONOCHROME2."
        )
    for keyword in ("SamplesPerPixel", "NumberOfFrames"):
        if (count := _integer(ds, keyword, 1)) != 1:
            raise UnreadablePixels(f"{keyword} is {count}, not 1.")
    rows, columns = _integer(ds, "Rows"), _integer(ds, "Columns")
    if not 0 < rows * columns <= LARGEST:
        raise UnreadablePixels(
            f"The image is said to have {rows} rows and {columns} columns; 1 to {LARGEST:,} pixels can be read."
        )
    allocated, stored = _integer(ds, "BitsAllocated"), _integer(ds, "BitsStored")
    if allocated not in (1, 8, 16, 32):
        raise UnreadablePixels(f"BitsAllocated is {allocated}, not 1, 8, 16 or 32.")
    if not 1 <= stored <= allocated:
        raise UnreadablePixels(f"BitsStored is {stored}, not 1 to BitsAllocated, which is {allocated}.")
    if (representation := _integer(ds, "PixelRepresentation")) not in (0, 1):
        raise UnreadablePixels(f"PixelRepresentation is {representation}, not 0 or 1.")
    if not ds.get("PixelData"):
        raise UnreadablePixels("PixelData is missing or empty.")
    high_bit = _integer(ds, "HighBit", stored - 1)
    return _Header(
        syntax, rows, columns, allocated, stored, high_bit, representation == 1, photometric == "MONOCHROME1"
    )


def _integer(ds: Dataset, keyword: str, default: int | None = None) -> int:
    value = ds.get(keyword)
    if value is None and default is not None:
        return default
    if not isinstance(value, int):
        raise UnreadablePixels(f"{keyword} is {'missing' if value is None else f'{value!r}, not a number'}.")
    return int(value)


def _native(ds: Dataset, header: _Header) -> Array:
    """The uncompressed values, as a view of PixelData where possible."""
    needed = (header.rows * header.columns * header.bits_allocated + 7) // 8
    if len(ds.PixelData) < needed:
        raise UnreadablePixels(
            f"PixelData has {len(ds.PixelData)} bytes where {header.rows} rows and {header.columns} columns "
            f"of {header.bits_allocated} bits need {needed}."
        )
    array, _ = get_decoder(header.syntax).as_array(
        ds, index=0, raw=True, validate=False, view_only=True, correct_unused_bits=False
    )
    return array


def _decompressed(ds: Dataset, header: _Header) -> Array:
    """The decoder's values in the signedness that the header declares."""
    frame = get_frame(ds.PixelData, 0, number_of_frames=1)
    declared = _codestream_size(frame)
    if declared not in (None, (header.rows, header.columns)):
        raise UnreadablePixels(
            f"The compressed image has {declared[0]} rows and {declared[1]} columns where "
            f"the header says {header.rows} and {header.columns}."
        )
    array = _codec(frame, header).squeeze()
    if array.size != header.rows * header.columns or array.dtype.kind not in "iu":
        raise UnreadablePixels(
            f"The decoded image has the shape {array.shape} and type {array.dtype} where "
            f"the header says {header.rows} rows and {header.columns} columns of integers."
        )
    # The signedness of a codestream is often wrong, and JPEG-LS knows none: the header decides.
    kind = "i" if header.signed else "u"
    return array.reshape(header.rows, header.columns).view(f"{kind}{array.dtype.itemsize}")


def _codec(frame: bytes, header: _Header) -> Array:
    """Decode a frame with the fastest decoder for its transfer syntax."""
    match str(header.syntax).removeprefix("1.2.840.10008.1.2."):
        case "5":
            data = imagecodecs.dicomrle_decode(frame, f"<u{header.bits_allocated // 8}")
            return np.frombuffer(data, f"<u{header.bits_allocated // 8}")
        case "4.50" | "4.51" | "4.57" | "4.70":
            return imagecodecs.jpeg8_decode(_complete(frame))
        case "4.80" | "4.81":
            return imagecodecs.jpegls_decode(_complete(frame))
        case "4.90" | "4.91":
            return imagecodecs.jpeg2k_decode(_complete(frame))
        case "4.201" | "4.202" | "4.203":
            return imagecodecs.htj2k_decode(_complete(frame))
        case "4.110" | "4.112":
            return imagecodecs.jpegxl_decode(frame)
        case "4.111":
            # The JPEG image inside is restored bit by bit, so that it decodes as it did before its recompression.
            return imagecodecs.jpeg8_decode(imagecodecs.jpegxl_decode_jpeg(frame))
        case _:
            raise UnreadablePixels(f"The transfer syntax {header.syntax.name} cannot be decoded.")


def _complete(frame: bytes) -> bytes:
    """Refuse a JPEG family frame that was cut off: libjpeg and OpenJPH would silently invent what is missing."""
    if b"\xff\xd9" not in frame[-16:]:
        raise UnreadablePixels("The compressed pixel data is cut off: it has no end marker.")
    return frame


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 codestream claims; decoders take memory for as many."""
    if frame.startswith(b"\xff\x4f\xff\x51"):
        width, height, left, top = struct.unpack_from(">4I", frame, 8)
        return height - top, width - left
    position = 2
    while frame.startswith(b"\xff\xd8") and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xF7 or 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            rows, columns = struct.unpack_from(">2H", frame, position + 5)
            return rows, columns
        position += 2 + struct.unpack_from(">H", frame, position + 2)[0] if marker != 0xFF else 1
    return None


def _within_bits_stored(stored: Array, header: _Header) -> tuple[Array, tuple[str, ...]]:
    """The values that BitsStored allows, and what is to be said about those that it did not."""
    warnings = []
    if header.high_bit != header.bits_stored - 1:
        warnings.append(f"HighBit is {header.high_bit} but was taken as BitsStored - 1, as DICOM demands.")
    unused = 8 * stored.dtype.itemsize - header.bits_stored
    limits = (-(1 << header.bits_stored - 1), (1 << header.bits_stored - 1) - 1)
    least, greatest = limits if header.signed else (0, (1 << header.bits_stored) - 1)
    if unused > 0 and (stored.max() > greatest or stored.min() < least):
        if header.syntax in OVERSHOOTING and not header.signed:
            stored, done = (
                np.minimum(stored, greatest),
                "clipped to it, as overshoots of the lossy compression",
            )
        else:
            stored, done = stored << unused >> unused, "cut to these bits, as DICOM demands of a reader"
        warnings.append(
            f"Stored values above the maximum of {header.bits_stored} bits (BitsStored) were {done}."
        )
    if header.signed and stored.min() < 0:
        warnings.append("Stored values are negative, below the range that the model was trained on.")
    return stored, tuple(warnings)


def _sha256(ds: Dataset, header: _Header) -> str:
    digest = hashlib.sha256(repr(header).encode())
    digest.update(ds.PixelData)
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


# Preparing


def prepare(pixels: Pixels) -> ModelInput:
    """Crop to the centre square, resize to 224x224 and scale to -1024..1024.

    Equals TorchXRayVision's `normalize`, `XRayCenterCrop` and `XRayResizer(224)` to 1e-3, and goes on where
    `normalize` raises: MONOCHROME1 with negative values gives more than 1024.
    """
    rows, columns = pixels.stored.shape
    size = min(rows, columns)
    row, column = rows // 2 - size // 2, columns // 2 - size // 2
    square = pixels.stored[row : row + size, column : column + size]

    greatest = (1 << pixels.bits) - 1
    middle = greatest / 2
    resized = _resize(_resize(square, middle).T, 0).T
    # scikit-image clips to the source's own range; this is felt at the border, where the image fades to zero.
    resized = np.clip(resized, float(square.min()) - middle, float(square.max()) - middle)
    scale = (-2048 if pixels.inverted else 2048) / greatest
    return ModelInput(
        (resized * np.float32(scale))[None].astype(np.float32),
        pixels.sha256,
        (row, column, size),
        pixels.warnings,
    )


def _resize(image: Array, middle: float) -> npt.NDArray[np.float32]:
    """(n, m) to (224, m): `image - middle`, smoothed and interpolated along its first axis."""
    resized = np.empty((SIZE, image.shape[1]), np.float32)
    for output, source, weights in _blocks(image.shape[0]):
        block = image[source].astype(np.float32)
        block -= np.float32(
            middle
        )  # before the sum, where it is exact: 16 bits and a half fit into a float32
        np.matmul(weights, block, out=resized[output])
    return resized


@lru_cache(maxsize=32)
def _blocks(n: int) -> list[tuple[slice, slice, npt.NDArray[np.float32]]]:
    """The resize of n pixels as blocks of (output rows, source rows, weights), since its matrix is banded."""
    matrix = _resize_matrix(n)
    blocks = []
    for first in range(0, SIZE, ROWS_PER_BLOCK):
        output = slice(first, first + ROWS_PER_BLOCK)
        used = np.flatnonzero(matrix[output].any(axis=0))
        source = slice(int(used[0]), int(used[-1]) + 1)
        blocks.append((output, source, np.ascontiguousarray(matrix[output, source], np.float32)))
    return blocks


def _resize_matrix(n: int) -> npt.NDArray[np.float64]:
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
