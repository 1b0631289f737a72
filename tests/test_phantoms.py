"""The generated sample radiographs are whole, readable and always the same."""

import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from demo import phantoms
from demo.phantoms import LOSSY, SAMPLES, TRANSFER_SYNTAXES, draw, radiograph, samples, to_bytes
from demo.serve import ROOT

KEPT = sorted((ROOT / "samples").iterdir())


def small(seed: int = 0, **arguments: Any) -> pydicom.Dataset:
    return radiograph(seed, rows=96, columns=80, **arguments)


def read(ds: pydicom.Dataset) -> pydicom.Dataset:
    return pydicom.dcmread(BytesIO(to_bytes(ds)))


def values(ds: pydicom.Dataset) -> np.ndarray[Any, Any]:
    """The stored values; pydicom's own decoders do not know every syntax here."""
    syntax = ds.file_meta.TransferSyntaxUID
    if syntax in (uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGBaseline8Bit):
        return imagecodecs.jpeg8_decode(next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)))
    if syntax in (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless):
        return imagecodecs.jpeg2k_decode(next(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=1)))
    return ds.pixel_array


def difference(ds: pydicom.Dataset, plain: np.ndarray[Any, Any]) -> int:
    """The largest between the stored values and those that were to be stored."""
    return int(np.abs(values(ds).astype(int) - plain).max())


def test_a_chest_has_dark_lungs_between_bright_spine_and_dark_air() -> None:
    for seed in range(5):
        picture = draw(seed, 200, 200)
        assert picture.min() >= 0
        assert picture.max() <= 1
        air, lung, spine = picture[10:30, 5:30], picture[80:120, 40:60], picture[80:120, 96:104]
        assert air.mean() < lung.mean() < spine.mean() - 0.3


def test_the_side_view_is_another_picture_and_right_mirrors_left() -> None:
    left, right = draw(3, 64, 64, "LL"), draw(3, 64, 64, "RL")
    assert np.corrcoef(left.ravel(), draw(3, 64, 64).ravel())[0, 1] < 0.8
    assert np.corrcoef(left.ravel(), right[:, ::-1].ravel())[0, 1] > 0.99


@pytest.mark.parametrize("rows, columns", [(1, 1), (7, 300), (301, 255)])
def test_any_size_can_be_drawn(rows: int, columns: int) -> None:
    assert draw(0, rows, columns).shape == (rows, columns)
    ds = read(radiograph(rows=rows, columns=columns, bits_stored=8))
    assert ds.pixel_array.size == rows * columns


def test_the_same_arguments_give_the_same_bytes_and_others_give_another_image() -> None:
    one = to_bytes(small(4))
    assert to_bytes(small(4)) == one
    assert read(small(4)).SOPInstanceUID != small(4, bits_stored=10).SOPInstanceUID
    assert small(4).SOPInstanceUID != small(4, PatientSex="O").SOPInstanceUID


def test_one_seed_is_one_patient_and_study_unless_the_date_differs() -> None:
    frontal, lateral = small(1), small(1, view="LL")
    later = small(1, StudyDate="20260101")
    assert frontal.StudyInstanceUID == lateral.StudyInstanceUID != later.StudyInstanceUID
    assert frontal.PatientID == lateral.PatientID == later.PatientID == "PHANTOM-1"
    assert frontal.SeriesInstanceUID != lateral.SeriesInstanceUID
    assert small(2).StudyInstanceUID != frontal.StudyInstanceUID


@pytest.mark.parametrize("syntax", TRANSFER_SYNTAXES, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("bits", [8, 12, 16])
def test_every_transfer_syntax_holds_the_drawing(syntax: uid.UID, bits: int) -> None:
    bits = min(bits, phantoms.MOST_BITS.get(syntax, 16))
    plain = small(5, bits_stored=bits).pixel_array
    ds = read(small(5, bits_stored=bits, transfer_syntax=syntax))
    assert difference(ds, plain) <= (0.05 * 2**bits if syntax in LOSSY else 0)
    assert ds.LossyImageCompression == ("01" if syntax in LOSSY else "00")
    assert plain.max() > 0.9 * 2**bits


def test_monochrome1_is_the_same_picture_inverted() -> None:
    bright, dark = small(6), small(6, photometric="MONOCHROME1")
    assert (bright.pixel_array.astype(int) + dark.pixel_array == 4095).all()


@pytest.mark.parametrize(
    "view, code",
    [
        ("PA", codes.cid4010.PosteroAnterior),
        ("AP", codes.cid4010.AnteroPosterior),
        ("LL", codes.cid4010.LeftLateral),
        ("RL", codes.cid4010.RightLateral),
    ],
)
def test_the_view_is_coded(view: str, code: Code) -> None:
    item = small(view=view).ViewCodeSequence[0]
    assert (item.CodeValue, item.CodeMeaning) == (code.value, code.meaning)


def test_overrides_set_and_remove_attributes() -> None:
    ds = read(small(ViewPosition=None, PatientName="Muster^Anna", patient_id=""))
    assert "ViewPosition" not in ds
    assert (ds.PatientName, ds.PatientID) == ("Muster^Anna", "")


@pytest.mark.parametrize(
    "argument",
    [
        {"modality": "CT"},
        {"photometric": "RGB"},
        {"bits_stored": 17},
        {"view": "XX"},
        {"transfer_syntax": "1.2"},
    ],
)
def test_what_cannot_be_written_is_refused_by_name(argument: dict[str, Any]) -> None:
    (name, value) = argument.popitem()
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        radiograph(**{name: value})


def test_baseline_jpeg_holds_eight_bits_only() -> None:
    with pytest.raises(ValueError, match="bits_stored is 12"):
        radiograph(transfer_syntax=uid.JPEGBaseline8Bit)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the samples, drawn now, and one more."""
    folder = tmp_path_factory.mktemp("drawn") / "samples"
    assert phantoms.main([str(folder), "--count", str(len(SAMPLES) + 1)]) == 0
    return folder


def test_the_repository_has_the_samples_and_nothing_else_in_their_folder(drawn: Path) -> None:
    """What else lies there, `upload.py samples/` would complain of."""
    names = {file.name for file in KEPT}
    assert names == {f"{name}.dcm" for name in SAMPLES}
    assert {file.name for file in drawn.iterdir()} - names == {"dx-pa-12bit-seed7.dcm"}
    assert sum(file.stat().st_size for file in KEPT) < 5_000_000


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_they_are_what_is_drawn(file: Path, drawn: Path) -> None:
    """Else `make samples`, and `make demo` for results/. The bytes may differ: another release encodes otherwise."""
    kept, now = pydicom.dcmread(file), pydicom.dcmread(drawn / file.name)
    lossy = kept.file_meta.TransferSyntaxUID in LOSSY
    assert difference(kept, values(now)) <= (0.01 * 2**kept.BitsStored if lossy else 0)
    for ds in (kept, now):
        del ds.PixelData
        if lossy:
            del ds.LossyImageCompressionRatio
    assert kept == now
    assert kept.file_meta.TransferSyntaxUID == now.file_meta.TransferSyntaxUID


def test_they_are_varied_and_valid() -> None:
    images = [pydicom.dcmread(file) for file in KEPT]
    assert len({ds.SOPInstanceUID for ds in images}) == len(SAMPLES)
    assert len({ds.file_meta.TransferSyntaxUID for ds in images}) == 7
    assert {ds.Modality for ds in images} == {"CR", "DX"}
    assert {ds.PhotometricInterpretation for ds in images} == {"MONOCHROME1", "MONOCHROME2"}
    assert {ds.BitsStored for ds in images} == {8, 10, 12, 14, 16}
    assert all("PHANTOM" in str(ds.PatientName) and "no patient" in ds.ImageComments for ds in images)
    for file in KEPT:
        checked = subprocess.run(["dciodvfy", "-new", file], capture_output=True, text=True, check=False)
        assert "Image" in checked.stderr  # the name of the IOD that it was checked against
        assert "Error" not in checked.stdout + checked.stderr


def test_fewer_samples_than_there_are() -> None:
    assert [name for name, _ in samples(2)] == [f"{name}.dcm" for name in list(SAMPLES)[:2]]
