"""What many tests share: the stand-in weights, made once per version of their source and kept under build/."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugin import classifier, stand_in, weights
from plugin.classifier import Classifier
from tests import oracle, sr_reports, sr_validators
from tests.image.podman import nothing_left, podman
from tests.pacs import IMAGE

BUILD = Path(__file__).parent.parent / "build"


@pytest.fixture(scope="session")
def prepared_model() -> Path:
    """The ONNX model prepared from the stand-in weights."""
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in (stand_in, weights))
    return weights.prepare(weights.STAND_IN, "", BUILD / f"models-{hashlib.sha256(sources).hexdigest()[:12]}")


@pytest.fixture(scope="session")
def classify(prepared_model: Path) -> Classifier:
    """That model, loaded."""
    return classifier.load(prepared_model)


@pytest.fixture(scope="session")
def checkpoint(prepared_model: Path) -> tuple[Path, str]:
    """The stand-in checkpoint that `prepared_model` was made from, and its SHA-256."""
    path = prepared_model.parent / "stand-in.pt"
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="session")
def densenet(checkpoint: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same weights in TorchXRayVision's own DenseNet."""
    import torch

    torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine
    return oracle.load(checkpoint[0], tmp_path_factory.mktemp("torchxrayvision"))


@pytest.fixture(scope="session", autouse=True)
def no_mounts_are_left() -> Iterator[None]:
    """Of containers, where the tests started any and nobody else's run."""
    yield
    if IMAGE and not podman("ps", "--quiet"):
        with nothing_left():
            pass


@pytest.fixture(scope="session", autouse=True)
def every_report_is_valid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """At the end, validate all reports that the tests wrote, and those that they left in Orthanc's storage."""
    yield
    reports = [*sr_reports.WRITTEN, *sr_validators.stored_reports(tmp_path_factory.getbasetemp())]
    complaints = {"\n".join(sr_validators.complaints(report)) for report in reports}
    assert complaints <= {""}
