"""What no decoder here reads is read by Orthanc, and what even Orthanc cannot read is failed with a sentence."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from plugin import pixels
from plugin.marks import DECODING
from plugin.pixels import NoDecoder, UnreadablePixels
from tests import images, oracle
from tests.pacs import Pacs

PROGRESSIVE = uid.UID("1.2.840.10008.1.2.4.55")
"""JPEG Full Progression, Non-Hierarchical (retired): Orthanc's decoders read it, ours do not."""

HIERARCHICAL = uid.UID("1.2.840.10008.1.2.4.60")
"""JPEG Extended, Hierarchical (retired): nobody's do."""

STORED = images.pattern(240, 251, 8)


def progressive_jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(STORED).save(file, "JPEG", quality=90, progressive=True)
    return file.getvalue()


def radiograph(syntax: uid.UID, frame: bytes) -> Dataset:
    ds = images.dataset(STORED, 8, uid.JPEGBaseline8Bit)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PixelData = encapsulate([frame])
    ds.PatientID, ds.Modality = "1", "CR"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = uid.generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = uid.generate_uid(), uid.generate_uid()
    return ds


def as_numpy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


# Against a real Orthanc


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory, prepared_model: Path) -> Iterator[Pacs]:
    with Pacs(tmp_path_factory.mktemp("pacs"), MODEL_FOLDER=str(prepared_model.parent)) as running:
        running.wait_until_ready()
        yield running


def test_orthanc_decodes_what_no_decoder_here_reads(pacs: Pacs, densenet: Any) -> None:
    jpeg = progressive_jpeg()
    result = pacs.result(pacs.upload(images.dicom(radiograph(PROGRESSIVE, jpeg))))
    assert result["state"] == "done", result
    assert any("JPEG Full Progression" in warning and "Orthanc decoded" in warning for warning in result["warnings"])
    decoded = np.asarray(Image.open(io.BytesIO(jpeg)))
    expected = oracle.scores(densenet, oracle.model_input(images.dicom(images.dataset(decoded, 8))))
    assert list(result["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-4)


def test_what_nobody_reads_is_failed(pacs: Pacs) -> None:
    result = pacs.result(pacs.upload(images.dicom(radiograph(HIERARCHICAL, progressive_jpeg()))))
    assert result["state"] == "failed"
    assert "JPEG Extended, Hierarchical" in result["reason"]


def test_an_image_at_which_orthanc_ended_is_not_given_to_it_by_itself_again(pacs: Pacs) -> None:
    instance = pacs.upload(images.dicom(radiograph(HIERARCHICAL, progressive_jpeg())))
    pacs.result(instance)
    metadata = f"{pacs.url}/instances/{instance}/metadata"
    assert str(DECODING) not in pacs.session.get(metadata, timeout=10).json()

    instance = pacs.upload(images.dicom(radiograph(PROGRESSIVE, progressive_jpeg())))
    assert pacs.result(instance)["state"] == "done"
    metadata = f"{pacs.url}/instances/{instance}/metadata"
    pacs.session.put(f"{metadata}/{DECODING}", data=b"1", timeout=10).raise_for_status()
    again = f"{pacs.url}/instances/{instance}/chest-xray"
    pacs.session.post(again, timeout=10).raise_for_status()
    assert pacs.result(instance)["state"] == "failed"
    pacs.session.post(again, timeout=10).raise_for_status()
    assert pacs.result(instance)["state"] == "done"


# What another program has decoded


def test_the_decoders_here_leave_it_to_others() -> None:
    with pytest.raises(NoDecoder, match="JPEG Full Progression"):
        pixels.decode(radiograph(PROGRESSIVE, progressive_jpeg()))
    header = bytes(images.compressed(STORED, 8, uid.JPEG2000Lossless))[:60]
    with pytest.raises(NoDecoder, match="cannot be decoded: "):
        pixels.decode(radiograph(uid.JPEG2000Lossless, header + b"\xff\xd9"))


def test_what_was_cut_off_is_left_to_nobody() -> None:
    with pytest.raises(UnreadablePixels, match="cut off") as caught:
        pixels.decode(radiograph(uid.JPEGBaseline8Bit, progressive_jpeg()[:1000]))
    assert not isinstance(caught.value, NoDecoder)


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_both_forms_give_the_stored_values(signed: bool, photometric: str) -> None:
    stored = images.pattern(64, 48, 12, signed)
    ds = images.dataset(stored, 12, uid.JPEGLosslessSV1, photometric)
    numpy = as_numpy(stored[None, :, :, None] & 0xFFF)  # Orthanc 1.10 does not extend the sign
    for values in (numpy, images.dicom(images.dataset(stored, 12, photometric=photometric))):
        image = pixels.decoded_elsewhere(ds, values)
        assert (image.stored == stored).all()
        assert (image.bits, image.inverted) == (12, photometric == "MONOCHROME1")
        assert "Orthanc decoded" in image.warnings[-1]


def test_values_that_are_no_image_are_refused() -> None:
    ds = radiograph(PROGRESSIVE, progressive_jpeg())
    program = as_numpy(np.array([[{}]]))
    still_compressed = images.dicom(images.dataset(STORED, 8, uid.JPEG2000Lossless))
    for values in (as_numpy(STORED[:9]), program, b"\x93NUMPY", b"", b"no DICOM", still_compressed):
        with pytest.raises(UnreadablePixels, match=r"JPEG Full Progression.* cannot be decoded, by Orthanc neither: "):
            pixels.decoded_elsewhere(ds, values)
