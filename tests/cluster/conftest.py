"""What the tests of several machines share, and what differs from the other tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from plugin import model_repository
from tests.cluster.inference_server import InferenceServer, MLServer, Triton


@pytest.fixture(scope="session", autouse=True)
def every_report_is_valid() -> None:
    """Nothing of a report depends on what is tested here, and to validate hundreds takes longer than to make them."""


@pytest.fixture(scope="session")
def repository(prepared_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prepared model, and beside it two others under the names of models that they are not."""
    folder = tmp_path_factory.mktemp("servers") / "repository"
    model_repository.write(prepared_model, folder)
    for name in ("other-weights", "other-scores"):
        wrong = onnx.load(prepared_model)
        if name == "other-weights":
            (entry,) = [one for one in wrong.metadata_props if one.key == "weights_sha256"]
            entry.value = "ab" * 32
        else:
            bias = next(one for one in wrong.graph.initializer if list(one.dims) == [18])
            bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
        path = folder.parent / f"{name}.onnx"
        onnx.save(wrong, path)
        model_repository.write(path, folder)
    return folder


@pytest.fixture(scope="session")
def mlserver(repository: Path) -> Iterator[InferenceServer]:
    with MLServer(repository) as running:
        yield running


@pytest.fixture(scope="session")
def triton(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceServer]:
    with Triton(repository, tmp_path_factory.mktemp("triton")) as running:
        yield running


@pytest.fixture
def server(request: pytest.FixtureRequest) -> InferenceServer:
    """One of them, by its name."""
    running: InferenceServer = request.getfixturevalue(request.param)
    return running
