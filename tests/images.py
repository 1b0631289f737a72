"""Small grey images as DICOM files in every transfer syntax that CR and DX come in."""

from __future__ import annotations

import io
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder

Array = npt.NDArray[Any]

JPEG_XL_LOSSLESS, JPEG_XL_FROM_JPEG, JPEG_XL = (uid.UID(f"1.2.840.10008.1.2.4.{n}") for n in (110, 111, 112))

LOSSLESS = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "RLE": uid.RLELossless,
    "JPEG lossless .57": uid.JPEGLossless,
    "JPEG lossless .70": uid.JPEGLosslessSV1,
    "JPEG-LS": uid.JPEGLSLossless,
    "JPEG 2000 lossless": uid.JPEG2000Lossless,
    "HTJ2K lossless": uid.HTJ2KLossless,
    "HTJ2K RPCL": uid.HTJ2KLosslessRPCL,
    "JPEG XL lossless": JPEG_XL_LOSSLESS,
}
LOSSY = {
    "JPEG baseline": uid.JPEGBaseline8Bit,
    "JPEG extended": uid.JPEGExtended12Bit,
    "JPEG-LS near": uid.JPEGLSNearLossless,
    "JPEG 2000": uid.JPEG2000,
    "HTJ2K": uid.HTJ2K,
    "JPEG XL": JPEG_XL,
    "JPEG XL from JPEG": JPEG_XL_FROM_JPEG,
}
UNKNOWN_TO_PYDICOM = (JPEG_XL_LOSSLESS, JPEG_XL_FROM_JPEG, JPEG_XL)


CONTENTS = ("noise", "collimated", "chequered", "dot", "black", "grey", "white")


def pattern(
    rows: int, columns: int, bits: int, signed: bool = False, seed: int = 0, content: str = "noise", least: float = 0
) -> Array:
    """An image over the whole range of stored values, or from `least` (a share of the range) on; see `CONTENTS`."""
    image = least + (1 - least) * _shares(content, rows, columns, np.random.default_rng(seed))
    lowest = -(1 << bits - 1) if signed else 0
    itemsize = 1 if bits <= 8 else 2 if bits <= 16 else 4
    return np.round(image * ((1 << bits) - 1) + lowest).astype(f"{'i' if signed else 'u'}{itemsize}")


def _shares(content: str, rows: int, columns: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Shares of the range, 0 to 1."""
    image = np.zeros((rows, columns))
    match content:
        case "noise" | "collimated":
            slope = np.add.outer(np.linspace(0, 0.6, rows), np.linspace(0, 0.3, columns))
            image = np.clip(slope + rng.uniform(-0.1, 0.2, (rows, columns)), 0, 1)
            image.flat[rng.integers(image.size)], image.flat[rng.integers(image.size)] = 0, 1
            if content == "collimated":
                image[: rows // 7], image[:, : columns // 5] = 0, 0
        case "chequered":
            image[::2, ::2], image[1::2, 1::2] = 1, 1
        case "dot":
            image.flat[rng.integers(image.size)] = 1
        case "grey":
            image[:] = rng.uniform()
        case "white":
            image[:] = 1
    return image


def dataset(
    stored: Array, bits: int, syntax: uid.UID = uid.ExplicitVRLittleEndian, photometric: str = "MONOCHROME2"
) -> Dataset:
    """A minimal Dataset around stored values, (rows, columns), encoded as `syntax` demands."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = uid.ComputedRadiographyImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uid.UID("1.2.3")
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = photometric
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * stored.dtype.itemsize, bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    if syntax in (*LOSSLESS.values(), *LOSSY.values()) and syntax not in list(LOSSLESS.values())[:4]:
        ds.PixelData = encapsulate([bytes(compressed(stored, bits, syntax))])
        ds["PixelData"].VR = "OB"
        ds["PixelData"].is_undefined_length = True
    else:
        swapped = syntax == uid.ExplicitVRBigEndian
        data = stored.astype(stored.dtype.newbyteorder(">" if swapped else "<")).tobytes()
        ds.PixelData = data + b"\0" * (len(data) % 2)
        ds["PixelData"].VR = "OW" if stored.dtype.itemsize > 1 else "OB"
    return ds


def compressed(stored: Array, bits: int, syntax: uid.UID) -> bytes | bytearray:
    """One frame's codestream; `bits` is the precision that it declares."""
    unsigned = stored.view(f"u{stored.dtype.itemsize}") & ((1 << bits) - 1)
    encode: Any
    match syntax:
        case uid.RLELossless:
            encode = get_encoder(syntax).encode
            return bytes(
                encode(
                    stored,
                    rows=stored.shape[0],
                    columns=stored.shape[1],
                    samples_per_pixel=1,
                    bits_allocated=8 * stored.dtype.itemsize,
                    bits_stored=8 * stored.dtype.itemsize,
                    pixel_representation=int(stored.dtype.kind == "i"),
                    photometric_interpretation="MONOCHROME2",
                    number_of_frames=1,
                )
            )
        case uid.JPEGBaseline8Bit:
            return imagecodecs.jpeg8_encode(unsigned, level=90)
        case uid.JPEGExtended12Bit:
            return imagecodecs.jpeg8_encode(unsigned, level=90, bitspersample=8 if bits <= 8 else 12)
        case uid.JPEGLossless:
            return imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=6, bitspersample=bits)
        case uid.JPEGLosslessSV1:
            return imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=1, bitspersample=bits)
        case uid.JPEGLSLossless:
            room = 2 * stored.nbytes + 4096  # what imagecodecs takes by itself is too little for some images
            return imagecodecs.jpegls_encode(stored.view(unsigned.dtype), out=room)
        case uid.JPEGLSNearLossless:
            return imagecodecs.jpegls_encode(stored.view(unsigned.dtype), level=2, out=2 * stored.nbytes + 4096)
        case uid.JPEG2000Lossless:
            return imagecodecs.jpeg2k_encode(stored, level=0, codecformat="j2k", bitspersample=bits)
        case uid.JPEG2000:
            return imagecodecs.jpeg2k_encode(stored, level=45, codecformat="j2k", bitspersample=bits)
        case uid.HTJ2KLossless | uid.HTJ2KLosslessRPCL:
            return imagecodecs.htj2k_encode(stored)
        case uid.HTJ2K:
            return imagecodecs.htj2k_encode(stored, level=0.001, reversible=False)
        case _ if syntax == JPEG_XL_LOSSLESS:
            return imagecodecs.jpegxl_encode(unsigned, lossless=True)
        case _ if syntax == JPEG_XL:
            return imagecodecs.jpegxl_encode(unsigned, distance=1.0)
        case _:
            return imagecodecs.jpegxl_encode_jpeg(imagecodecs.jpeg8_encode(unsigned, level=90), numthreads=1)


def dicom(ds: Dataset) -> bytes:
    """The Dataset as a DICOM file."""
    file = io.BytesIO()
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax not in UNKNOWN_TO_PYDICOM:
        ds.save_as(file, enforce_file_format=True)
        return file.getvalue()
    ds.file_meta.TransferSyntaxUID = uid.HTJ2KLossless  # another encapsulated one, as long
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue().replace(uid.HTJ2KLossless.encode(), syntax.encode(), 1)
