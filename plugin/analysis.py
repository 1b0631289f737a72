"""The whole way of one image, pure: the bytes of a DICOM file in, a report and its SR out. Read this first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from typing import Final, Literal

import pydicom
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from plugin import eligibility, pixels, sr
from plugin.activation import ActivationMaps
from plugin.classifier import Classifier, Prediction
from plugin.report import Image, Report

SETTINGS: Final[dict[str, str | int | float | bool]] = {"crop": "center", "resize": "224x224", "voi_lut": False}
"""What else determines the scores: TorchXRayVision's XRayCenterCrop, XRayResizer(224), and read_xray_dcm's default."""


class NotClassified(Exception):
    """There is no report on this instance; the sentence says why.

    `state` is `skipped` if it is not ours to classify and `failed` if it is ours but cannot be classified; `image`
    holds its identifiers, unless not even they can be read.
    """

    def __init__(self, state: Literal["skipped", "failed"], reason: str, image: Image | None) -> None:
        super().__init__(reason)
        self.state, self.image = state, image


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was found, where, the SR and other outputs that say it; `milliseconds` holds each step's time."""

    report: Report
    activation: ActivationMaps
    document: sr.Document
    outputs: dict[str, sr.Document]
    milliseconds: dict[str, float]

    @property
    def documents(self) -> dict[str, sr.Document]:
        """All that is to be stored, by kind."""
        return {"sr": self.document, **self.outputs}


def analyse(
    data: bytes,
    classify: Classifier,
    created: datetime,
    body_parts: Sequence[str] = (),
    elsewhere: Callable[[], bytes | None] = lambda: None,
    also: Sequence[str] = (),
    threads: int = 1,
) -> Analysis:
    """Classify one DICOM file.

    :param created: the moment that the report is to carry; nothing else depends on it.
    :param body_parts: further values of BodyPartExamined that are skipped.
    :param elsewhere: has another program decode the image where no decoder here can (see `pixels.decoded_elsewhere`).
    :param also: outputs beside the SR (see `outputs`).
    :param threads: for decoders that can share an image out among several.
    :raises NotClassified: with a sentence for the reader.
    """
    clock = Stopwatch()
    with clock("parse"):
        source = parse(data)
        if reason := eligibility.why_not(source, body_parts):
            raise NotClassified("skipped", reason, describe(source))
    try:
        with clock("decode"):
            decoded = _decode(source, elsewhere, threads)
        image, prediction, pixels_sha256 = _predict(source, decoded, classify, clock)
        with clock("report"):
            report, document = _report_on(source, pixels_sha256, image.warnings, classify, prediction, created)
            maps = ActivationMaps.of(prediction.activation[0], classify.model.labels, decoded.stored.shape, image.crop)
            outputs = _outputs(also, source, report, decoded, maps, created)
    except (pixels.UnreadablePixels, sr.CannotReport) as problem:
        raise NotClassified("failed", str(problem), describe(source)) from None
    return Analysis(report, maps, document, outputs, clock.milliseconds)


def _outputs(
    kinds: Sequence[str],
    source: Dataset,
    report: Report,
    decoded: pixels.Pixels,
    maps: ActivationMaps,
    created: datetime,
) -> dict[str, sr.Document]:
    if not set(kinds) - {"sr"}:
        return {}
    from plugin import outputs  # what draws is imported only where it is wanted

    return outputs.documents(kinds, source, report, decoded, maps, created)


def _predict(
    source: Dataset, decoded: pixels.Pixels, classify: Classifier, clock: Stopwatch
) -> tuple[pixels.ModelInput, Prediction, str]:
    """The model's input, what it says, and the pixels' `fingerprint`.

    A thread of its own hashes them, which takes as long for 15 MB as a quarter of the model; it begins with the resize,
    since the model may want all cores.
    """
    with ThreadPoolExecutor(1) as beside:
        with clock("resize"):
            fingerprint = beside.submit(pixels.fingerprint, source)
            image = pixels.prepare(decoded)
        with clock("model"):
            return image, classify(image.array[None]), fingerprint.result()


def _report_on(
    source: Dataset,
    pixels_sha256: str,
    remarks: tuple[str, ...],
    classify: Classifier,
    prediction: Prediction,
    created: datetime,
) -> tuple[Report, sr.Document]:
    """The report on one image, as a value and as DICOM; `remarks` are what its decoding warned of."""
    labelled = zip(classify.model.labels, prediction.scores[0], strict=True)
    report = Report(
        image=describe(source, pixels_sha256),
        model=classify.model,
        scores={label: float(score) for label, score in labelled if label},
        settings=SETTINGS if classify.precision == "float32" else SETTINGS | {"precision": classify.precision},
        warnings=(*eligibility.warnings(source), *remarks, *sr.repairs(source), *_caveats(classify)),
    )
    return report, sr.structured_report(source, report, created)


def _caveats(classify: Classifier) -> tuple[str, ...]:
    """What the engine makes different, in whole sentences."""
    if classify.precision == "float32":
        return ()
    return (f"The model ran in {classify.precision}: its scores differ from TorchXRayVision's by several hundredths.",)


def _decode(source: Dataset, elsewhere: Callable[[], bytes | None], threads: int) -> pixels.Pixels:
    try:
        return pixels.decode(source, threads)
    except pixels.NoDecoder:
        values = elsewhere()
        if values is None:
            raise
        return pixels.decoded_elsewhere(source, values)


def rehearse(classify: Classifier) -> None:
    """Do everything once on a small black image, so that the first real one does not wait for what is made once."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = ComputedRadiographyImageStorage, UID("2.25.1")
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.Modality = UID("2.25.2"), UID("2.25.3"), "CR"
    ds.Rows = ds.Columns = pixels.SIZE
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = bytes(pixels.SIZE * pixels.SIZE)
    file = BytesIO()
    pydicom.dcmwrite(file, ds, enforce_file_format=True)
    analyse(file.getvalue(), classify, datetime.now(UTC))


def parse(data: bytes) -> Dataset:
    """:raises NotClassified: if this is not a DICOM file that pydicom can read."""
    try:
        return pydicom.dcmread(BytesIO(data), force=True)
    except MemoryError:
        raise  # to be tried in a fresh process
    except Exception as problem:  # whatever a malformed header makes a parser raise
        raise NotClassified("failed", f"The DICOM header cannot be read: {problem}", None) from None


def describe(source: Dataset, pixels_sha256: str = "") -> Image:
    """The identifiers that a result carries, as text; '' where the image has none."""

    def text(keyword: str) -> str:
        try:
            value = source.get(keyword)
        except Exception:  # a value that contradicts its own VR
            return ""
        return "" if value is None else str(value)

    return Image(
        PatientID=text("PatientID"),
        StudyInstanceUID=text("StudyInstanceUID"),
        SeriesInstanceUID=text("SeriesInstanceUID"),
        SOPInstanceUID=text("SOPInstanceUID"),
        SOPClassUID=text("SOPClassUID"),
        Modality=text("Modality"),
        StudyDate=text("StudyDate"),
        ViewPosition=text("ViewPosition"),
        BodyPartExamined=text("BodyPartExamined"),
        pixels_sha256=pixels_sha256,
    )


class Stopwatch:
    """Milliseconds of named steps, in their order."""

    def __init__(self) -> None:
        """No step was timed yet."""
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Time what stands inside the `with`."""
        start = time.perf_counter()
        yield
        self.milliseconds[step] = round((time.perf_counter() - start) * 1000, 2)
