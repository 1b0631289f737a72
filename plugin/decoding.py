"""From a radiograph's Dataset to its stored values, whatever the transfer syntax.

Pure. The values are those of pydicom's `pixel_array`, which TorchXRayVision uses, got from faster decoders.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSNearLossless,
)

from plugin import codestreams
from plugin.codestreams import Array, NoDecoder, UnreadablePixels, first_line

__all__ = ["NoDecoder", "Pixels", "UnreadablePixels", "decode", "decoded_elsewhere", "fingerprint"]

LARGEST = 200_000_000
"""Pixels. A header that claims more is refused before memory is taken; the largest detectors have 20 million."""

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)

# Came into the standard after pydicom 3.0.
JPEGXL = UID("1.2.840.10008.1.2.4.112")

# Their codestreams may be deeper than BitsStored, so that compression can lift a stored value above its maximum.
# (TorchXRayVision raises for those; for the other lossy syntax, JPEG extended, it has pydicom cut the upper bits.)
OVERSHOOTING = (JPEGLSNearLossless, JPEG2000, HTJ2K, JPEGXL)


@dataclass(frozen=True, slots=True)
class Pixels:
    """One decoded image.

    `stored` holds the stored values, (Rows, Columns), integers of any width and byte order, possibly read-only.
    `bits` is BitsStored; `inverted` tells MONOCHROME1. `warnings` are whole sentences for the reader of the result.
    """

    stored: Array
    bits: int
    inverted: bool
    warnings: tuple[str, ...]


def decode(ds: Dataset, threads: int = 1) -> Pixels:
    """Read the stored values of a single-frame grey image in any transfer syntax that CR and DX come in.

    Bits above BitsStored are no pixel data (PS3.5 section 8.1.1) and are dropped, with a warning where they were
    set: old overlays live there, and so pydicom and with it TorchXRayVision treat uncompressed, RLE and JPEG
    images. For JPEG 2000, JPEG-LS and their kin TorchXRayVision raises instead. There, the same rule makes the same
    image give the same scores however it is compressed; only after a lossy compression a value above the maximum
    is an overshoot of that maximum, and is clipped to it.

    `threads` is for JPEG 2000 and JPEG XL; the other decoders have one.

    Raises `UnreadablePixels` for anything that the header or a decoder makes impossible, `NoDecoder` where decoders
    of other programs remain to be tried.
    """
    try:
        header = _header(ds)
        stored = _native(ds, header) if header.syntax in NATIVE else _decompressed(ds, header, threads)
        return _pixels(stored, header)
    except (UnreadablePixels, MemoryError):
        raise
    except Exception as error:  # pydicom raises whatever it likes at a malformed file
        raise UnreadablePixels(f"The pixel data cannot be decoded: {first_line(error)}.") from error


def decoded_elsewhere(ds: Dataset, values: bytes) -> Pixels:
    """The same from the stored values that another program has decoded, for which `decode` raises `NoDecoder`.

    `values` is an array in NumPy's file format, or the whole image as a DICOM file without compression.
    """
    header = _header(ds)
    try:
        if values.startswith(b"\x93NUMPY"):
            stored = np.load(BytesIO(values), allow_pickle=False)
        else:
            transcoded = dcmread(BytesIO(values))
            if transcoded.file_meta.TransferSyntaxUID not in NATIVE:
                raise UnreadablePixels("it was not transcoded")
            stored = _native(transcoded, _header(transcoded))
        pixels = _pixels(_as_declared(stored, header, header.bits_stored), header)
    except Exception as error:  # whatever the other program made of it
        sentence = f"The pixel data ({header.syntax.name}) cannot be decoded, by Orthanc neither: {first_line(error)}."
        raise UnreadablePixels(sentence) from error
    warning = f"No decoder of this program reads the pixel data ({header.syntax.name}); Orthanc decoded them."
    return replace(pixels, warnings=(*pixels.warnings, warning))


def _pixels(stored: Array, header: _Header) -> Pixels:
    stored, warnings = _within_bits_stored(stored, header)
    return Pixels(stored, header.bits_stored, header.inverted, warnings)


def fingerprint(ds: Dataset) -> str:
    """SHA-256 (hex) of the pixel data as stored, with the attributes that give it its meaning; `ds` was decoded."""
    digest = hashlib.sha256(repr(_header(ds)).encode())
    digest.update(ds.PixelData)
    return digest.hexdigest()


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
        found = photometric or "missing"
        raise UnreadablePixels(f"PhotometricInterpretation is {found}, not MONOCHROME1 or MONOCHROME2.")
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
    as_view: Any = {"view_only": True, "correct_unused_bits": False}
    array, _ = get_decoder(header.syntax).as_array(ds, index=0, raw=True, validate=False, **as_view)
    return array


def _decompressed(ds: Dataset, header: _Header, threads: int) -> Array:
    """The values of a compressed image."""
    frame = get_frame(ds.PixelData, 0, number_of_frames=1)
    rows, columns, precision = codestreams.claims(frame) or (header.rows, header.columns, header.bits_stored)
    if (rows, columns) != (header.rows, header.columns):
        raise UnreadablePixels(
            f"The compressed image has {rows} rows and {columns} columns where "
            f"the header says {header.rows} and {header.columns}."
        )
    decoded = codestreams.decode(frame, header.syntax, header.bits_allocated, threads)
    return _as_declared(decoded, header, precision)


def _as_declared(decoded: Array, header: _Header, precision: int) -> Array:
    """Decoded values in the shape and the signedness that the header declares."""
    array = decoded.squeeze()
    if array.size != header.rows * header.columns or array.dtype.kind not in "iu":
        raise UnreadablePixels(
            f"The decoded image has the shape {array.shape} and type {array.dtype} where "
            f"the header says {header.rows} rows and {header.columns} columns of integers."
        )
    # The signedness of a codestream is often wrong, and JPEG-LS knows none: the header decides.
    kind = "i" if header.signed else "u"
    if array.dtype.kind != kind:
        unused = max(0, 8 * array.dtype.itemsize - precision)
        array = array.view(f"{kind}{array.dtype.itemsize}") << unused >> unused
    return array.reshape(header.rows, header.columns)


def _within_bits_stored(stored: Array, header: _Header) -> tuple[Array, tuple[str, ...]]:
    """The values that BitsStored allows, and what is to be said about those that it did not."""
    warnings = []
    if header.high_bit != header.bits_stored - 1:
        warnings.append(f"HighBit is {header.high_bit} but was taken as BitsStored - 1, as DICOM demands.")
    unused = 8 * stored.dtype.itemsize - header.bits_stored
    greatest = (1 << header.bits_stored) - 1
    beyond = unused > 0 and (stored.max() > greatest or (header.signed and stored.min() < -greatest // 2))
    if header.syntax in OVERSHOOTING:
        if beyond:
            stored = np.minimum(stored, greatest)
            warnings.append(
                f"Stored values above the maximum of {header.bits_stored} bits (BitsStored) were clipped to it: "
                "overshoots of the lossy compression."
            )
    elif beyond or (unused > 0 and header.signed):
        stored = stored << unused >> unused  # extends the sign, too
        if beyond:
            warnings.append(
                f"Stored values used more than {header.bits_stored} bits (BitsStored); the bits above were ignored, "
                "as DICOM demands. If they belong to the image, BitsStored is wrong and the scores mean nothing."
            )
    if header.signed and stored.min() < 0:
        warnings.append("Stored values are negative, below the range that the model was trained on.")
    return stored, tuple(warnings)
