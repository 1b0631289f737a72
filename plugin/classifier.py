"""From the model's input to scores and activation maps: the prepared ONNX model, run by ONNX Runtime.

The model is what `plugin/weights.py` made; its file carries all that is to be known about it. Another engine
(`plugin/torch_engine.py`, reached through `plugin/engine.py`, or `plugin/servers.py`) is another `Classifier`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime

from plugin.report import Model

Floats = npt.NDArray[np.float32]
Precision = Literal["float32", "bfloat16"]


class ModelUnavailable(RuntimeError):
    """There is no usable model in the file; the message is one sentence that says why."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of n images, for each of its labels in their order.

    `scores` (n, labels) lie in 0..1 with the operating point at 0.5, as TorchXRayVision's `op_norm` calibrates them.
    `activation` (n, labels, 7, 7) are class activation maps over the model's input: the classifier's weights times
    the last feature map. Their mean plus the classifier's bias is the logit, exactly.
    """

    scores: Floats
    activation: Floats


class Classifier(Protocol):
    """An engine with a loaded model."""

    @property
    def model(self) -> Model:
        """The loaded model's identity."""

    @property
    def precision(self) -> Precision:
        """What it computes with; the scores are TorchXRayVision's in float32 alone."""

    def __call__(self, batch: Floats) -> Prediction:
        """Classify inputs made by `plugin.pixels`: float32, (n, 1, 224, 224), about -1024..1024."""


@dataclass(frozen=True, slots=True)
class OnnxClassifier:
    """A prepared model in ONNX Runtime on the CPU."""

    model: Model
    session: onnxruntime.InferenceSession
    precision: Precision = "float32"

    def __call__(self, batch: Floats) -> Prediction:
        """See `Classifier`."""
        scores, activation = self.session.run(["scores", "activation"], {"image": batch})
        return Prediction(scores, activation)


def load(path: Path, threads: int = 1) -> Classifier:
    """Load a model that `plugin.weights.prepare` made; raises `ModelUnavailable`.

    Several processes with one thread each classify more images per second than one process with several. The scores do
    not depend on the number of threads.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that wait for each other spin, by default for so long that they take the cores from everything else. If
    # they did not at all, an image that is alone would take 3 ms more.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    options.enable_cpu_mem_arena = False  # a worker has `malloc` keep memory, for whatever is done next
    options.log_severity_level = 4  # what fails is raised, and said once
    try:
        path.open("rb").close()
        # It would keep the file's bytes, if it were given those.
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise ModelUnavailable(f"The model {path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # ONNX Runtime's exceptions have no common class but this
        raise ModelUnavailable(f"{path} is not a whole ONNX model; remove it to have it prepared again.") from error
    try:
        return OnnxClassifier(model_in(session.get_modelmeta().custom_metadata_map), session)
    except (KeyError, TypeError, ValueError) as error:
        raise ModelUnavailable(
            f"{path} does not say which model it is; it was not prepared by this program."
        ) from error


def model_in(metadata: Mapping[str, str]) -> Model:
    """The identity that a prepared model's file carries; raises KeyError, TypeError or ValueError."""
    return Model(
        name=metadata["name"],
        version=metadata["version"],
        weights_sha256=metadata["weights_sha256"],
        trained=bool(json.loads(metadata["trained"])),
        labels=tuple(json.loads(metadata["labels"])),
        thresholds=tuple(json.loads(metadata["thresholds"])),
    )
