"""Sample radiographs that belong to nobody: drawings of a chest as complete CR and DX objects.

`demo/chest.py` draws the picture, `radiograph` makes the DICOM object around it, `to_bytes` the file.
Everything follows from the arguments: the same seed is the same anatomy, patient and study, with the same
UIDs. Nothing in a drawing that looks like a finding is one.

    python -m demo.phantoms FOLDER [--count N]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder

from demo.chest import draw

__all__ = ["TRANSFER_SYNTAXES", "draw", "radiograph", "samples", "to_bytes"]

SOP_CLASSES = {"CR": uid.ComputedRadiographyImageStorage, "DX": uid.DigitalXRayImageStorageForPresentation}

PROJECTIONS = {
    "PA": ("272479007", "postero-anterior"),
    "AP": ("399348003", "antero-posterior"),
    "LL": ("399173006", "left lateral"),
    "RL": ("399198007", "right lateral"),
}
"""ViewPosition, and its code in CID 4010."""

Encode = Callable[[NDArray[Any], int], bytes | bytearray]
"""Turns stored values (rows, columns) of so many bits into one frame."""


def _pydicom(syntax: uid.UID) -> Encode:
    return lambda stored, bits: get_encoder(syntax).encode(
        stored,
        rows=stored.shape[0],
        columns=stored.shape[1],
        samples_per_pixel=1,
        bits_allocated=stored.itemsize * 8,
        bits_stored=bits,
        pixel_representation=0,
        number_of_frames=1,
        photometric_interpretation="MONOCHROME2",
    )


def _jpeg(**options: Any) -> Encode:
    """Lossless JPEG has any precision, the others 8 and 12 bit only."""

    def encode(stored: NDArray[Any], bits: int) -> bytes:
        precision = bits if "lossless" in options else 8 if bits <= 8 else 12
        return bytes(imagecodecs.jpeg8_encode(stored, bitspersample=precision, **options))

    return encode


def _jpeg2000(**options: Any) -> Encode:
    return lambda stored, bits: imagecodecs.jpeg2k_encode(stored, codecformat="j2k", bitspersample=bits, **options)


TRANSFER_SYNTAXES: Mapping[str, Encode | None] = {
    uid.ImplicitVRLittleEndian: None,
    uid.ExplicitVRLittleEndian: None,
    uid.DeflatedExplicitVRLittleEndian: None,
    uid.ExplicitVRBigEndian: None,
    uid.JPEGBaseline8Bit: _jpeg(level=95),
    uid.JPEGExtended12Bit: _jpeg(level=95),
    uid.JPEGLossless: _jpeg(lossless=True, predictor=6),
    uid.JPEGLosslessSV1: _jpeg(lossless=True, predictor=1),
    uid.JPEGLSLossless: _pydicom(uid.JPEGLSLossless),
    uid.JPEG2000Lossless: _jpeg2000(level=0, reversible=True),
    uid.JPEG2000: _jpeg2000(level=50),
    uid.HTJ2KLossless: lambda stored, bits: imagecodecs.htj2k_encode(stored, reversible=True),
    uid.RLELossless: _pydicom(uid.RLELossless),
}
"""What `radiograph` can write; None where the values stand uncompressed."""

LOSSY = {
    uid.JPEGBaseline8Bit: "ISO_10918_1",
    uid.JPEGExtended12Bit: "ISO_10918_1",
    uid.JPEG2000: "ISO_15444_1",
}

MOST_BITS: Mapping[str, int] = {uid.JPEGBaseline8Bit: 8, uid.JPEGExtended12Bit: 12}


def radiograph(
    seed: int = 0,
    *,
    rows: int = 1024,
    columns: int = 1024,
    modality: str = "DX",
    bits_stored: int = 12,
    photometric: str = "MONOCHROME2",
    transfer_syntax: str = uid.ExplicitVRLittleEndian,
    patient_id: str | None = None,
    view: str = "PA",
    **overrides: Any,
) -> Dataset:
    """A whole CR or DX object (PS3.3 A.2 and A.26) around `draw(seed, rows, columns, view)`.

    `modality` is CR or DX, `bits_stored` 6..16 (up to 8 in one byte, else two), `photometric` MONOCHROME1 or
    MONOCHROME2, `transfer_syntax` one of `TRANSFER_SYNTAXES`, `view` one of `PROJECTIONS`. `overrides` set
    attributes by DICOM keyword, and None removes one; they do not change the pixels. Images of one seed,
    patient and StudyDate share a study, each in a series of its own.

    Raises ValueError for what cannot be written.
    """
    _check(modality, bits_stored, photometric, transfer_syntax, view)
    patient_id = f"PHANTOM-{seed}" if patient_id is None else patient_id
    study = (seed, patient_id, overrides.get("StudyDate"))
    form = (rows, columns, modality, bits_stored, photometric, str(transfer_syntax), view)
    image = (study, form, sorted((keyword, str(value)) for keyword, value in overrides.items()))

    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.UID(transfer_syntax)
    ds.file_meta.ImplementationClassUID = _uid("implementation")
    ds.SOPClassUID = SOP_CLASSES[modality]
    ds.StudyInstanceUID, ds.SeriesInstanceUID = _uid("study", study), _uid("series", image)
    ds.SOPInstanceUID = _uid("image", image)
    _describe(ds, seed, patient_id, modality, view)
    _put_pixels(ds, draw(seed, rows, columns, view), bits_stored, photometric)
    for keyword, value in overrides.items():
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            delattr(ds, keyword)
    return ds


def to_bytes(ds: Dataset) -> bytes:
    """The DICOM file (PS3.10), with preamble. Raises ValueError if `ds` has no SOP Class or Instance UID."""
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _check(modality: str, bits_stored: int, photometric: str, transfer_syntax: str, view: str) -> None:
    allowed = {
        "modality": (modality, SOP_CLASSES),
        "photometric": (photometric, ("MONOCHROME1", "MONOCHROME2")),
        "transfer_syntax": (transfer_syntax, TRANSFER_SYNTAXES),
        "view": (view, PROJECTIONS),
        "bits_stored": (bits_stored, range(6, MOST_BITS.get(transfer_syntax, 16) + 1)),
    }
    for name, (value, values) in allowed.items():
        if value not in values:
            raise ValueError(f"{name} is {value!r}, not one of {[str(each) for each in values]}")


def _uid(*what: object) -> uid.UID:
    """A UID under 2.25 (PS3.5 B.2) that depends on nothing but `what`."""
    return uid.UID(f"2.25.{int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:16])}")


def _describe(ds: Dataset, seed: int, patient_id: str, modality: str, view: str) -> None:
    """Set everything but the UIDs and the pixels."""
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.PatientName, ds.PatientID = f"PHANTOM^SEED{seed}", patient_id
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19700101", "FMO"[seed % 3], "055Y"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20250110"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = f"{8 + seed % 10:02d}1500"
    ds.AccessionNumber, ds.StudyID, ds.ReferringPhysicianName = f"P{seed}", f"{seed}", ""
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    ds.Modality = modality
    ds.StudyDescription, ds.SeriesDescription = (
        "Chest (generated drawing)",
        f"Chest {view} (generated drawing)",
    )
    ds.Manufacturer, ds.ManufacturerModelName = "Generated", "demo/phantoms.py"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "0", "1"
    ds.BodyPartExamined, ds.ViewPosition = "CHEST", view
    ds.PatientOrientation = {"LL": ["P", "F"], "RL": ["A", "F"]}.get(view, ["L", "F"])
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.BurnedInAnnotation = "NO"
    ds.ImageComments = "A drawing made by a program. It shows no patient."
    if modality == "DX":
        code, meaning = PROJECTIONS[view]
        ds.PresentationIntentType = "FOR PRESENTATION"
        ds.DetectorType, ds.PositionerType = "DIRECT", "NONE"
        ds.ImageLaterality = "U"
        ds.AnatomicRegionSequence = [_code("816094009", "Chest")]
        ds.ViewCodeSequence = [_code(code, meaning)]
        ds.ViewCodeSequence[0].ViewModifierCodeSequence = []
        ds.AcquisitionContextSequence = []


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _put_pixels(ds: Dataset, picture: NDArray[Any], bits_stored: int, photometric: str) -> None:
    """Set the pixels in the file's transfer syntax, and what depends on their values."""
    bright_is_dense = photometric == "MONOCHROME2"
    highest = 2**bits_stored - 1
    stored = np.round((picture if bright_is_dense else 1 - picture) * highest)
    stored = stored.astype(np.uint8 if bits_stored <= 8 else np.uint16)

    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, photometric
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = stored.itemsize * 8, bits_stored, bits_stored - 1
    ds.PixelRepresentation = 0
    ds.ImagerPixelSpacing = [f"{430 / max(stored.shape):.6f}"] * 2
    ds.WindowCenter, ds.WindowWidth = (highest + 1) / 2, highest + 1
    ds.LossyImageCompression = "00"
    if ds.Modality == "DX":
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
        ds.PixelIntensityRelationship = "LOG"
        ds.PixelIntensityRelationshipSign = -1 if bright_is_dense else 1
        ds.PresentationLUTShape = "IDENTITY" if bright_is_dense else "INVERSE"

    syntax = ds.file_meta.TransferSyntaxUID
    encode = TRANSFER_SYNTAXES[syntax]
    if encode is None:
        values = stored.astype(stored.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes()
        ds.PixelData = values + b"\0" * (len(values) % 2)
        ds["PixelData"].VR = "OB" if stored.itemsize == 1 and not syntax.is_implicit_VR else "OW"
        return
    frame = bytes(encode(stored, bits_stored))
    ds.PixelData = encapsulate([frame])
    ds["PixelData"].VR = "OB"
    if syntax in LOSSY:
        ds.LossyImageCompression, ds.LossyImageCompressionMethod = "01", LOSSY[syntax]
        ds.LossyImageCompressionRatio = f"{stored.nbytes / len(frame):.2f}"


FILM: Mapping[str, Any] = {"rows": 900, "columns": 732}
"""One of 35 x 43 cm, in as many pixels as a repository has room for."""

CR_OF_SEED_2: Mapping[str, Any] = {
    **FILM,
    "seed": 2,
    "modality": "CR",
    "bits_stored": 10,
    "photometric": "MONOCHROME1",
    "transfer_syntax": uid.JPEGLSLossless,
}

SAMPLES: Mapping[str, Mapping[str, Any]] = {
    "dx-pa-12bit": {**FILM, "seed": 1},
    "dx-lateral-12bit-jpeg-lossless": {**FILM, "seed": 1, "view": "LL", "transfer_syntax": uid.JPEGLosslessSV1},
    "cr-pa-10bit-monochrome1-jpeg-ls": {**CR_OF_SEED_2, "rows": 960},
    "cr-pa-10bit-monochrome1-jpeg-ls-a-year-later": {**CR_OF_SEED_2, "StudyDate": "20260114"},
    "dx-ap-16bit-jpeg-2000": {
        **FILM,
        "seed": 3,
        "view": "AP",
        "bits_stored": 16,
        "transfer_syntax": uid.JPEG2000Lossless,
    },
    "cr-pa-8bit-rle": {**FILM, "seed": 4, "modality": "CR", "bits_stored": 8, "transfer_syntax": uid.RLELossless},
    "dx-pa-14bit-monochrome1-jpeg-2000-lossy": {
        "rows": FILM["columns"],
        "columns": FILM["rows"],
        "seed": 5,
        "bits_stored": 14,
        "photometric": "MONOCHROME1",
        "transfer_syntax": uid.JPEG2000,
    },
    "dx-pa-8bit-jpeg-baseline": {**FILM, "seed": 6, "bits_stored": 8, "transfer_syntax": uid.JPEGBaseline8Bit},
}
"""File names that say what the file holds, with the arguments of `radiograph`."""


def samples(count: int = len(SAMPLES)) -> Iterator[tuple[str, Dataset]]:
    """So many different radiographs with their file names."""
    plain = ((f"dx-pa-12bit-seed{seed}", {"seed": seed}) for seed in range(7, 7 + max(0, count - len(SAMPLES))))
    for name, arguments in islice(chain(SAMPLES.items(), plain), count):
        yield f"{name}.dcm", radiograph(**arguments)


def main(args: Sequence[str] | None = None) -> int:
    """Write the sample set."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.phantoms",
        description="Write generated sample radiographs, which show no patient.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where to write them; made if it is missing")
    parser.add_argument(
        "--count",
        type=int,
        default=len(SAMPLES),
        metavar="N",
        help="how many (default: %(default)s, all different)",
    )
    options = parser.parse_args(args)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, ds in samples(options.count):
        (options.folder / name).write_bytes(to_bytes(ds))
        print(options.folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
