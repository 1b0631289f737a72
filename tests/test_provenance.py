"""What a document says of itself, as we write it and as others leave it."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid

from demo.phantoms import to_bytes
from plugin import outputs, provenance, sr
from plugin.pixels import Pixels
from plugin.provenance import ORTHANCS_ROOT, Provenance
from tests.sr_reports import NOON, report_on
from tests.sr_sources import dataset
from tests.test_outputs import spot

SOURCE = dataset()
KINDS = ("sr", "secondary-capture", "pdf")


@pytest.fixture(scope="module")
def documents() -> dict[str, bytes]:
    report = report_on(SOURCE)
    black = Pixels(np.zeros((40, 30), np.uint16), 12, False, ())
    made = outputs.documents(KINDS, SOURCE, report, black, spot(3, 3, 40, 30), NOON)
    return {kind: one.data for kind, one in {"sr": sr.structured_report(SOURCE, report, NOON), **made}.items()}


def changed(data: bytes, change: Callable[[Dataset], object]) -> Provenance | None:
    ds = pydicom.dcmread(BytesIO(data))
    change(ds)
    return provenance.read(to_bytes(ds))


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_as_we_write_it(documents: dict[str, bytes], kind: str) -> None:
    series = pydicom.dcmread(BytesIO(documents[kind])).SeriesInstanceUID
    assert provenance.read(documents[kind]) == Provenance(kind, SOURCE.SOPInstanceUID, series, unchanged=True)


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_is_recognised_by_each_of_its_identifiers(documents: dict[str, bytes], kind: str, keyword: str) -> None:
    said = changed(documents[kind], lambda ds: setattr(ds, keyword, generate_uid(ORTHANCS_ROOT)))
    assert said
    assert (said.kind, said.image, said.unchanged) == (kind, SOURCE.SOPInstanceUID, False)


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_a_uid_of_somebody_else_is_somebodys(documents: dict[str, bytes], kind: str) -> None:
    assert changed(documents[kind], lambda ds: setattr(ds, "SOPInstanceUID", generate_uid())) is None


@pytest.mark.parametrize("kind", KINDS)
def test_another_manufacturer_is_believed_unless_orthanc_wrote_it_here(documents: dict[str, bytes], kind: str) -> None:
    ds = pydicom.dcmread(BytesIO(documents[kind]))
    ds.Manufacturer = "Another one"
    assert provenance.read(to_bytes(ds)) is None
    said = provenance.read(to_bytes(ds), changed_here=True)
    assert said and not said.unchanged


def anonymise(ds: Dataset) -> None:
    ds.Manufacturer = "Another one"
    for element in list(ds):
        if element.VR == "SQ" or element.keyword == "DeviceSerialNumber":
            del ds[element.tag]


@pytest.mark.parametrize("kind", KINDS)
def test_of_what_orthanc_anonymised_the_model_is_left(documents: dict[str, bytes], kind: str) -> None:
    ds = pydicom.dcmread(BytesIO(documents[kind]))
    anonymise(ds)
    said = provenance.read(to_bytes(ds), changed_here=True)
    assert said == Provenance(kind, "", ds.SeriesInstanceUID, unchanged=False)
    assert provenance.read(to_bytes(ds)) is None


def verify(ds: Dataset) -> None:
    ds.VerificationFlag = "VERIFIED"


def observe(ds: Dataset) -> None:
    ds.VerifyingObserverSequence = [Dataset()]


def replace(ds: Dataset) -> None:
    ds.PredecessorDocumentsSequence = [Dataset()]


def write(ds: Dataset) -> None:
    ds.AuthorObserverSequence = [Dataset()]


@pytest.mark.parametrize("take_over", [verify, observe, replace, write])
def test_what_a_person_took_over_is_not_ours_any_more(
    documents: dict[str, bytes], take_over: Callable[[Dataset], object]
) -> None:
    assert changed(documents["sr"], take_over) is None


def test_what_is_not_ours_is_left_to_others(documents: dict[str, bytes]) -> None:
    def disguise(ds: Dataset) -> None:
        ds.Manufacturer = "Another one"
        del ds.ContributingEquipmentSequence

    assert changed(documents["sr"], disguise) is None
    assert provenance.read(b"no DICOM") is None
    assert provenance.read(to_bytes(SOURCE)) is None
