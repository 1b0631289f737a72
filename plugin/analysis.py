"""The whole way of one image, pure: the bytes of a DICOM file in, a report and its SR out. Read this first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO

import pydicom
from pydicom import Dataset

from plugin import eligibility, pixels, sr
from plugin.classifier import Classifier
from plugin.report import Image, Report


class Skipped(Exception):
    """The instance is not ours to classify; the sentence says why."""


class Failed(Exception):
    """The instance is ours but cannot be classified; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was found, and the SR that says it; `milliseconds` holds each step's time."""

    report: Report
    document: sr.Document
    milliseconds: dict[str, float]


def analyse(data: bytes, classify: Classifier, created: datetime, body_parts: Sequence[str] = ()) -> Analysis:
    """Classify one DICOM file.

    :param created: the moment that the report is to carry; nothing else depends on it.
    :param body_parts: further values of BodyPartExamined that are skipped.
    :raises Skipped, Failed: with a sentence for the reader.
    """
    clock = Stopwatch()
    with clock("parse"):
        source = parse(data)
        if reason := eligibility.why_not(source, body_parts):
            raise Skipped(reason)
    try:
        with clock("decode"):
            decoded = pixels.decode(source)
        with clock("resize"):
            image = pixels.prepare(decoded)
    except pixels.UnreadablePixels as problem:
        raise Failed(str(problem)) from None
    with clock("model"):
        prediction = classify(image.array[None])
    with clock("report"):
        report = Report(
            image=describe(source, image.sha256),
            model=classify.model,
            scores={
                label: float(score)
                for label, score in zip(classify.model.labels, prediction.scores[0], strict=True)
                if label
            },
            settings={"crop": "center", "resize": "224x224", "voi_lut": False},
            warnings=(*eligibility.warnings(source), *image.warnings),
        )
        try:
            document = sr.structured_report(source, report, created)
        except sr.CannotReport as problem:
            raise Failed(str(problem)) from None
    return Analysis(report, document, clock.milliseconds)


def parse(data: bytes) -> Dataset:
    """:raises Failed: if this is not a DICOM file that pydicom can read."""
    try:
        return pydicom.dcmread(BytesIO(data), force=True)
    except Exception as problem:  # whatever a malformed header makes a parser raise
        raise Failed(f"The DICOM header cannot be read: {problem}") from None


def describe(source: Dataset, pixels_sha256: str) -> Image:
    """The identifiers that a result carries, as text; '' where the image has none."""

    def text(keyword: str) -> str:
        value = source.get(keyword)
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
