"""What is said about one image: the `Report` value, and its JSON form.

Pure: no I/O, no clock. Everything that a reader of a result must know stands in here; how it is written down as
DICOM is `plugin/sr.py`'s business.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

OPERATING_POINT = 0.5
"""Scores are calibrated so that the model's operating point lies here (`torchxrayvision.models.op_norm`)."""

DISCLAIMER = (
    "Not a medical device and not for diagnosis. A score is not a probability of disease: "
    "0.5 is the operating point that TorchXRayVision chose for each finding."
)


@dataclass(frozen=True, slots=True)
class Model:
    """A classifier's identity, as it is written into the exported model's own metadata.

    `labels` are TorchXRayVision's names in the order of the model's outputs (18 of them for
    `densenet121-res224-all`); `thresholds` are the raw sigmoid values that the calibration maps to 0.5.
    `trained` is False for stand-in weights, whose scores mean nothing.
    """

    name: str
    version: str
    weights_sha256: str
    trained: bool
    labels: tuple[str, ...]
    thresholds: tuple[float, ...]

    @property
    def weights(self) -> str:
        """`trained` or `stand-in`."""
        return "trained" if self.trained else "stand-in"


@dataclass(frozen=True, slots=True)
class Image:
    """The classified image's identifiers, under their DICOM keywords; '' where the image has none.

    `pixels_sha256` identifies the stored pixel data, since two images can share one SOPInstanceUID.
    """

    PatientID: str
    StudyInstanceUID: str
    SeriesInstanceUID: str
    SOPInstanceUID: str
    SOPClassUID: str
    Modality: str
    StudyDate: str
    ViewPosition: str
    BodyPartExamined: str
    pixels_sha256: str


@dataclass(frozen=True, slots=True)
class Report:
    """One image's result.

    `scores` maps each of the model's labels to a float in 0..1, in the model's order; `settings` holds whatever
    else determines the scores; `warnings` are whole sentences for the reader.
    """

    image: Image
    model: Model
    scores: Mapping[str, float]
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse scores that are not the model's."""
        if tuple(self.scores) != tuple(label for label in self.model.labels if label):
            raise ValueError(f"the scores' labels {list(self.scores)} are not the model's {list(self.model.labels)}")

    def present(self, label: str) -> bool:
        """Whether the finding reaches the operating point; from the unrounded score."""
        return self.scores[label] >= OPERATING_POINT

    @property
    def digest(self) -> bytes:
        """32 bytes that differ for any two reports on different pixels, images, models or settings."""
        text = repr((asdict(self.image), asdict(self.model), dict(self.settings), self.warnings))
        return hashlib.sha256(text.encode()).digest()

    def as_json(self) -> dict[str, Any]:
        """The part of a result's JSON that depends on the image, the model and the settings alone."""
        model = self.model
        return {
            "scores": dict(self.scores),
            "findings": [label for label in self.scores if self.present(label)],
            "operating_point": OPERATING_POINT,
            "image": asdict(self.image),
            "model": {
                "name": model.name,
                "version": model.version,
                "weights": model.weights,
                "weights_sha256": model.weights_sha256,
            },
            "settings": dict(self.settings),
            "warnings": list(self.warnings),
            "disclaimer": DISCLAIMER,
        }
