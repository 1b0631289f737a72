"""The prepared model's scores are TorchXRayVision's, and it says which model it is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pydicom import dcmread, uid

from plugin import classifier, pixels
from plugin.classifier import Classifier, ModelUnavailable
from plugin.stand_in import plausible_inputs
from plugin.weights import torchxrayvision
from tests import images, oracle


@pytest.mark.parametrize(
    ("rows", "columns", "bits", "photometric", "syntax"),
    [
        (1024, 1024, 8, "MONOCHROME2", uid.JPEGBaseline8Bit),
        (1000, 801, 12, "MONOCHROME1", uid.ImplicitVRLittleEndian),
        (512, 620, 10, "MONOCHROME1", uid.JPEGLosslessSV1),
        (224, 224, 16, "MONOCHROME2", uid.JPEG2000Lossless),
        (101, 77, 15, "MONOCHROME2", uid.RLELossless),
        (640, 641, 16, "MONOCHROME1", uid.JPEGLSLossless),
        (500, 500, 8, "MONOCHROME2", uid.JPEG2000),
    ],
)
def test_scores_from_file_to_end(
    classify: Classifier, densenet: Any, rows: int, columns: int, bits: int, photometric: str, syntax: uid.UID
) -> None:
    dicom = images.dicom(images.dataset(images.pattern(rows, columns, bits), bits, syntax, photometric))
    ours = classify(pixels.model_input(dcmread(io.BytesIO(dicom))).array[None]).scores[0]
    expected = oracle.scores(densenet, oracle.model_input(dicom))
    assert ours == pytest.approx(expected, abs=1e-4)


def test_scores_of_a_batch_spread_over_findings_and_images(classify: Classifier, densenet: Any) -> None:
    batch = plausible_inputs(5)
    scores = classify(batch).scores
    assert scores.shape == (5, 18)
    assert scores.dtype == np.float32
    assert scores == pytest.approx(np.stack([oracle.scores(densenet, image) for image in batch]), abs=1e-4)
    assert scores.min() >= 0
    assert scores.max() <= 1
    assert scores.std(axis=0).min() > 0.05
    assert scores.std(axis=1).min() > 0.05


def test_scores_do_not_depend_on_the_number_of_threads(classify: Classifier, prepared_model: Path) -> None:
    image = plausible_inputs(1)
    expected = classify(image)
    for threads in (2, 3, 4):
        found = classifier.load(prepared_model, threads)(image)
        assert found.scores == pytest.approx(expected.scores, abs=1e-6)
        assert found.activation == pytest.approx(expected.activation, abs=1e-3)


def test_activation_maps_average_to_the_logits(classify: Classifier, densenet: Any) -> None:
    import torch

    batch = plausible_inputs(3)
    activation = classify(batch).activation
    assert activation.shape == (3, 18, 7, 7)
    with torch.inference_mode():
        logits = densenet.classifier(densenet.features2(torch.from_numpy(batch))).numpy()
    bias = densenet.classifier.bias.detach().numpy()
    assert activation.mean(axis=(2, 3)) + bias == pytest.approx(logits, abs=1e-3)


def test_the_model_says_what_it_is(classify: Classifier, checkpoint: tuple[Path, str], densenet: Any) -> None:
    model = classify.model
    assert model.name == "densenet121-res224-all"
    assert model.version == torchxrayvision().__version__
    assert model.weights_sha256 == checkpoint[1]
    assert model.weights == "stand-in"
    assert list(model.labels) == densenet.targets
    assert model.thresholds == pytest.approx(densenet.op_threshs.tolist())


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"none\.onnx cannot be read: No such file"):
        classifier.load(tmp_path / "none.onnx")


def test_a_truncated_model(tmp_path: Path, prepared_model: Path) -> None:
    path = tmp_path / "half.onnx"
    path.write_bytes(prepared_model.read_bytes()[:10_000_000])
    with pytest.raises(ModelUnavailable, match=r"half\.onnx is not a whole ONNX model"):
        classifier.load(path)


def test_a_model_that_does_not_say_what_it_is(tmp_path: Path, prepared_model: Path) -> None:
    model = onnx.load(prepared_model)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "anonymous.onnx")
    with pytest.raises(ModelUnavailable, match=r"anonymous\.onnx does not say which model it is"):
        classifier.load(tmp_path / "anonymous.onnx")
