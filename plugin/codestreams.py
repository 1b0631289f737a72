"""A compressed frame to an array, by the fastest well-kept decoder for its transfer syntax. Pure."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.uid import UID

Array = npt.NDArray[Any]


STRICT = Lock()
"""For `_strict`, which puts a hook of its own where the whole process has one."""


class UnreadablePixels(ValueError):
    """The pixel data cannot be turned into an image; the message is one sentence that says why."""


class NoDecoder(UnreadablePixels):
    """No decoder here can read the compressed pixel data, but another program's may."""


def decode(frame: bytes, syntax: UID, bits_allocated: int, threads: int) -> Array:
    """The values of one frame, in whatever shape and integer type the decoder gives.

    They are the values that pydicom gives with its own plugins, of which these are the fastest against imagecodecs
    (milliseconds, 2048x2048, 12 bits where the syntax allows it, one thread):

    | | pydicom | here |
    |---|---|---|
    | RLE | 130, its own | 9 |
    | JPEG baseline | 9, Pillow | 7 |
    | JPEG lossless (.57, .70) | 144, pylibjpeg | 28 |
    | JPEG-LS | 83, pyjpegls | 73 |
    | JPEG 2000 | 430, pylibjpeg | 440; both are OpenJPEG |
    | HTJ2K | 48, pylibjpeg | 24 |
    | JPEG XL lossless | none | 224 |

    JPEG: libjpeg-turbo equals Pillow and GDCM bit by bit. (pylibjpeg-libjpeg rounds otherwise, by one grey level in
    one of thirty pixels, which moves scores by as much as 0.01.)

    Raises `NoDecoder` for an unknown transfer syntax or a frame that the decoder refuses, `UnreadablePixels` for one
    that was cut off.
    """
    try:
        match str(syntax).removeprefix("1.2.840.10008.1.2."):
            case "5":
                data = imagecodecs.dicomrle_decode(frame, f"<u{bits_allocated // 8}")
                return np.frombuffer(data, f"<u{bits_allocated // 8}")
            case "4.50" | "4.51" | "4.57" | "4.70":
                return imagecodecs.jpeg8_decode(_complete(frame))
            case "4.80" | "4.81":
                return imagecodecs.jpegls_decode(_complete(frame))
            case "4.90" | "4.91":
                return imagecodecs.jpeg2k_decode(_complete(frame), numthreads=threads)
            case "4.201" | "4.202":
                with STRICT, _strict():
                    return imagecodecs.htj2k_decode(_complete(frame))
            case "4.203":
                # OpenJPEG, as pydicom: OpenJPH is faster but rounds lossy images differently.
                return imagecodecs.jpeg2k_decode(_complete(frame), numthreads=threads)
            case "4.110" | "4.112":
                return imagecodecs.jpegxl_decode(frame, numthreads=threads)
            case "4.111":
                # The JPEG image inside is restored bit by bit, so that it decodes as it did before its recompression.
                return imagecodecs.jpeg8_decode(imagecodecs.jpegxl_decode_jpeg(frame, numthreads=threads))
    except (UnreadablePixels, MemoryError):  # what is too large for us is too large for Orthanc's own process
        raise
    except Exception as error:  # whatever the decoders raise
        raise NoDecoder(f"The pixel data cannot be decoded: {first_line(error)}.") from error
    raise NoDecoder(f"The transfer syntax {syntax.name} cannot be decoded.")


@contextmanager
def _strict() -> Iterator[None]:
    """Raise what imagecodecs prints and ignores: OpenJPH's error in an image of which it returns a part."""
    ignored: list[BaseException] = []
    hook, thread = sys.unraisablehook, get_ident()

    def keep(unraisable: sys.UnraisableHookArgs) -> None:
        if get_ident() == thread:
            ignored.append(unraisable.exc_value or RuntimeError("OpenJPH failed"))
        else:
            hook(unraisable)

    sys.unraisablehook = keep
    try:
        yield
    finally:
        sys.unraisablehook = hook
    if ignored:
        raise ignored[0]


def _complete(frame: bytes) -> bytes:
    """Refuse a JPEG family frame that was cut off: libjpeg and OpenJPH would silently invent what is missing."""
    if b"\xff\xd9" not in frame[-16:]:
        raise UnreadablePixels("The compressed pixel data is cut off: it has no end marker.")
    return frame


def claims(frame: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and bits that a JPEG, JPEG-LS or JPEG 2000 codestream claims; decoders take memory for as many."""
    if frame.startswith(b"\xff\x4f\xff\x51"):
        width, height, left, top = struct.unpack_from(">4I", frame, 8)
        return height - top, width - left, (frame[42] & 0x7F) + 1
    position = 2
    while frame.startswith(b"\xff\xd8") and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            precision, rows, columns = struct.unpack_from(">B2H", frame, position + 4)
            return rows, columns, precision
        position += 2 + struct.unpack_from(">H", frame, position + 2)[0] if marker != 0xFF else 1
    return None


def first_line(error: Exception) -> str:
    """What a library's exception says, in one line without a full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
