"""The torch engine gives the same scores, alone and as a process that many workers share."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Listener
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from pydicom.dataset import Dataset

from plugin import engine, pixels, torch_engine
from plugin.classifier import Classifier, Floats, ModelUnavailable, Prediction
from plugin.engine import ENGINES, RemoteClassifier
from plugin.stand_in import plausible_inputs
from plugin.torch_engine import TorchClassifier
from tests import images, oracle
from tests.pacs import Pacs

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(scope="module", params=DEVICES)
def in_torch(request: pytest.FixtureRequest, prepared_model: Path) -> TorchClassifier:
    return torch_engine.load(prepared_model, request.param)


# The model in torch


def test_scores_and_maps_are_those_of_onnx_runtime_and_of_torchxrayvision(
    in_torch: TorchClassifier, classify: Classifier, densenet: Any
) -> None:
    batch = plausible_inputs(5)
    ours, onnx_runtime = in_torch(batch), classify(batch)
    assert ours.scores == pytest.approx(onnx_runtime.scores, abs=1e-4)
    assert ours.scores == pytest.approx(np.stack([oracle.scores(densenet, image) for image in batch]), abs=1e-4)
    assert ours.activation == pytest.approx(onnx_runtime.activation, abs=1e-2)
    assert ours.scores.dtype == ours.activation.dtype == np.float32
    assert in_torch.model == classify.model
    assert in_torch.precision == classify.precision == "float32"


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("bits", [1, 8, 12, 16, 32])
def test_inputs_prepared_on_the_device_are_those_of_the_processor(
    in_torch: TorchClassifier, bits: int, signed: bool, photometric: str
) -> None:
    sizes = [(300, 260), (90, 100), (225, 1000)]
    datasets = [images.dataset(images.pattern(*size, bits, signed), bits, photometric=photometric) for size in sizes]
    decoded = [pixels.decode(ds) for ds in datasets]
    prepared = in_torch.prepare(decoded)
    assert prepared.shape == (3, 1, 224, 224)
    expected = np.stack([pixels.prepare(image).array for image in decoded])
    assert np.abs(prepared.cpu().numpy() - expected).max() < 1e-3


def test_a_big_endian_image_and_one_that_is_bright_at_its_border(in_torch: TorchClassifier) -> None:
    big_endian = np.arange(300 * 300, dtype=">u2").reshape(300, 300)
    for stored in (big_endian, np.full((300, 300), 4000, np.uint16)):
        image = pixels.Pixels(stored, 16, False, ())
        assert np.abs(in_torch.prepare([image])[0].cpu().numpy() - pixels.prepare(image).array).max() < 1e-3


def test_pixels_to_scores_as_torchxrayvision(in_torch: TorchClassifier, densenet: Any) -> None:
    datasets: list[Dataset] = [images.dataset(images.pattern(400, 330, 12, seed=seed), 12) for seed in range(3)]
    scores = in_torch(in_torch.prepare([pixels.decode(ds) for ds in datasets])).scores
    expected = [oracle.scores(densenet, oracle.model_input(images.dicom(ds))) for ds in datasets]
    assert scores == pytest.approx(np.stack(expected), abs=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_is_near_and_says_what_it_is(prepared_model: Path, classify: Classifier, device: str) -> None:
    coarse = torch_engine.load(prepared_model, device, "bfloat16")
    batch = plausible_inputs(2)
    difference = np.abs(coarse(batch).scores - classify(batch).scores)
    assert 1e-4 < difference.max() < 0.2
    assert coarse.precision == "bfloat16"


def test_float32_means_float32_on_a_gpu_too(in_torch: TorchClassifier) -> None:
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_models_that_cannot_be_used(prepared_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelUnavailable, match=r"none\.onnx cannot be read: No such file"):
        torch_engine.load(tmp_path / "none.onnx", "cpu")
    (tmp_path / "half.onnx").write_bytes(prepared_model.read_bytes()[:10_000_000])
    other = onnx.load(prepared_model)
    other.graph.node[5].op_type = "Softplus"
    onnx.save(other, tmp_path / "other.onnx")
    for name in ("half", "other"):
        with pytest.raises(ModelUnavailable, match=rf"{name}\.onnx is no model that was prepared by this program"):
            torch_engine.load(tmp_path / f"{name}.onnx", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ModelUnavailable, match="torch finds no CUDA device here"):
        torch_engine.load(prepared_model, "cuda")


# The process that workers share


def test_requests_that_wait_are_answered_together(classify: Classifier) -> None:
    seen = []

    class Counting:
        model, precision = classify.model, classify.precision

        def __call__(self, batch: Floats) -> Prediction:
            seen.append(len(batch))
            return classify(batch)

    batch = plausible_inputs(4)
    requests: list[engine.Request] = [(batch[:1], Future()), (batch[1:3], Future()), (batch[3:], Future())]
    waiting: SimpleQueue[engine.Request] = SimpleQueue()
    for request in requests[1:]:
        waiting.put(request)
    engine.answer_together(Counting(), [requests[0]], waiting)
    assert seen == [4]
    together = np.concatenate([future.result().scores for _, future in requests])
    assert together == pytest.approx(classify(batch).scores, abs=1e-5)


@contextmanager
def serving(classify: Classifier, address: Path) -> Iterator[None]:
    """A server in this process."""
    with Listener(str(address), "AF_UNIX", backlog=16) as listener:
        threading.Thread(target=engine.serve, args=(classify, listener), daemon=True).start()
        yield


def test_workers_get_their_own_scores(classify: Classifier, tmp_path: Path) -> None:
    address, batch = tmp_path / "engine", plausible_inputs(6)

    def work(number: int) -> tuple[RemoteClassifier, list[Prediction]]:
        remote = RemoteClassifier(str(address))
        return remote, [remote(batch[number : number + 1]) for _ in range(3)]

    expected = classify(batch)
    with serving(classify, address), ThreadPoolExecutor(6) as workers:
        for number, (remote, predictions) in enumerate(workers.map(work, range(6))):
            assert remote.model == classify.model
            assert remote.precision == "float32"
            for prediction in predictions:
                assert prediction.scores[0] == pytest.approx(expected.scores[number], abs=1e-5)
                assert prediction.activation.shape == (1, 18, 7, 7)
                assert prediction.activation[0] == pytest.approx(expected.activation[number], abs=1e-2)


@pytest.mark.parametrize("device", DEVICES)
def test_a_process_that_ended_is_found_again_after_its_restart(
    prepared_model: Path, tmp_path: Path, classify: Classifier, device: str
) -> None:
    address, image = tmp_path / "engine", plausible_inputs(1)
    with pytest.raises(ModelUnavailable, match="does not answer"):
        RemoteClassifier(str(address))
    command = [sys.executable, "-m", "plugin.engine", str(prepared_model), f"torch-{device}", str(address)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        remote = RemoteClassifier(str(address))
        assert remote(image).scores == pytest.approx(classify(image).scores, abs=1e-4)
        process.kill()
    with pytest.raises(ModelUnavailable, match="has ended; it is started again"):
        remote(image)
    with pytest.raises(ModelUnavailable, match="does not answer"):
        remote(image)
    address.unlink()
    with serving(classify, address):
        assert remote(image).scores == pytest.approx(classify(image).scores, abs=1e-5)


@pytest.mark.parametrize("name", [name for name, (device, _) in ENGINES.items() if device == "cuda"])
def test_without_a_gpu_one_sentence_says_so(prepared_model: Path, tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "plugin.engine", str(prepared_model), name, str(tmp_path / "engine")]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=hidden)
    assert done.returncode == 2
    assert done.stdout.startswith("torch finds no CUDA device here: set Engine to onnx")
    assert done.stdout.count("\n") == 1


# In Orthanc


def test_a_pacs_with_the_torch_engine(prepared_model: Path, tmp_path: Path, densenet: Any) -> None:
    options = {"ChestXRay": {"Engine": "torch-cpu", "Workers": 2}}
    with Pacs(tmp_path, options, MODEL_FOLDER=str(prepared_model.parent)) as pacs:
        pacs.wait_until_ready()
        for seed in range(2):  # the second one after the engine was killed
            ds = images.dataset(images.pattern(300, 260, 12, seed=seed), 12)
            ds.PatientID, ds.Modality = "1", "DX"
            ds.StudyInstanceUID = ds.SeriesInstanceUID = ds.SOPInstanceUID = f"1.2.3.{seed + 1}"
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            data = images.dicom(ds)
            result = pacs.result(pacs.upload(data))
            assert result["state"] == "done", result
            expected = oracle.scores(densenet, oracle.model_input(data))
            assert list(result["scores"].values()) == pytest.approx(expected.tolist(), abs=1e-4)
            assert "precision" not in result["settings"]
            (engine_process,) = [process for process in pacs.family() if "plugin.engine" in process.cmdline()]
            engine_process.kill()
