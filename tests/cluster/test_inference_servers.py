"""The model on real inference servers: the same scores, and nothing lost whatever becomes of the servers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import requests
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from bench.sizing import throughput
from demo.phantoms import radiograph, to_bytes
from plugin import servers
from plugin.analysis import analyse
from plugin.classifier import Classifier, ModelUnavailable
from plugin.report import Model
from plugin.settings import IN_FLIGHT
from plugin.stand_in import plausible_inputs
from tests import oracle
from tests.cluster.hanging_server import HangingServer
from tests.cluster.inference_server import InferenceServer, MLServer, Triton
from tests.faults import within
from tests.pacs import Pacs, wait_for

IMAGES = 200


# One server


@pytest.mark.parametrize("server", ["mlserver", "triton"], indirect=True)
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_scores_are_those_of_the_local_engine_and_of_torchxrayvision(
    server: InferenceServer, protocol: str, prepared_model: Path, classify: Classifier, densenet: Any
) -> None:
    served = servers.load(prepared_model, [getattr(server, protocol)], fallback=False)
    batch = plausible_inputs(3)
    found, expected = served(batch), classify(batch)
    assert found.scores == pytest.approx(expected.scores, abs=1e-4)
    assert found.scores == pytest.approx(np.stack([oracle.scores(densenet, image) for image in batch]), abs=1e-4)
    assert found.activation == pytest.approx(expected.activation, abs=1e-2)
    assert found.scores.dtype == found.activation.dtype == np.float32
    assert served.model == classify.model
    assert served.precision == "float32"


@pytest.mark.parametrize("server", ["mlserver", "triton"], indirect=True)
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("other-weights", r"has another model other-weights: the SHA-256 of its weights is (ab){32}, not "),
        (
            "other-scores",
            r"computes otherwise: its scores of a known image differ from the local engine's by \d\.\de-0",
        ),
        ("no-such-model", r"cannot be used: .*no-such-model.* not found"),
    ],
)
def test_a_server_with_another_model_is_refused(
    server: InferenceServer, prepared_model: Path, tmp_path: Path, name: str, sentence: str
) -> None:
    ours = shutil.copy(prepared_model, tmp_path / f"{name}.onnx")
    for address in (server.grpc, server.http):
        served = servers.load(Path(ours), [address], fallback=False)
        with pytest.raises(ModelUnavailable, match=rf"No inference server can be used: {address} {sentence}"):
            served(plausible_inputs(1))


@pytest.mark.parametrize("server", ["mlserver", "triton"], indirect=True)
def test_throughput_is_of_the_local_engine_s_order(server: InferenceServer, prepared_model: Path) -> None:
    rates = {address: throughput(prepared_model, address, 2, seconds=3)[0] for address in ("", server.grpc)}
    print(
        f"{rates['']:.1f} images/s by the local engine, {rates[server.grpc]:.1f} by {type(server).__name__} over gRPC"
    )
    assert rates[server.grpc] > rates[""] / 4


# Several


def test_another_server_takes_over_and_one_that_returns_is_used_again(
    mlserver: InferenceServer, repository: Path, prepared_model: Path, classify: Classifier
) -> None:
    image = plausible_inputs(1)
    expected = pytest.approx(classify(image).scores, abs=1e-4)
    with MLServer(repository) as second:
        served = servers.load(prepared_model, [second.grpc, mlserver.grpc], fallback=False)
        for _ in range(2):
            assert served(image).scores == expected
        second.kill()
        for _ in range(4):
            assert served(image).scores == expected
        assert served.servers[0].client is None
        second.start()
        served.servers[0].standing.rests_until = 0
        for _ in range(2):
            assert served(image).scores == expected
        assert served.servers[0].client


def test_the_local_engine_is_the_last_resort_where_it_may_be(
    mlserver: InferenceServer, prepared_model: Path, tmp_path: Path, classify: Classifier
) -> None:
    wrong = Path(shutil.copy(prepared_model, tmp_path / "other-weights.onnx"))
    image = plausible_inputs(1)
    served = servers.load(wrong, [mlserver.grpc], fallback=True)
    assert served(image).scores == pytest.approx(classify(image).scores, abs=1e-5)


# In Orthanc


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_one_worker_has_several_requests_at_the_server_at_once(
    repository: Path, prepared_model: Path, tmp_path: Path, classify: Classifier, protocol: str
) -> None:
    counting = Path(shutil.copytree(repository, tmp_path / "repository")) / prepared_model.stem
    runtime = shutil.copy(Path(__file__).with_name("counting_model.py"), counting)
    settings = json.loads((counting / "model-settings.json").read_text())
    settings["implementation"] = f"{Path(runtime).stem}.CountingModel"
    (counting / "model-settings.json").write_text(json.dumps(settings))
    drawn = [to_bytes(radiograph(seed, rows=64, columns=64)) for seed in range(3 * IN_FLIGHT)]
    with MLServer(counting.parent, workers=0) as server:
        options = {"ChestXRay": {"Servers": [getattr(server, protocol)], "Workers": 1}}
        with Pacs(tmp_path, options, MODEL_FOLDER=str(prepared_model.parent)) as pacs:
            results = [pacs.result(instance) for instance in [pacs.upload(data) for data in drawn]]
            assert pacs.get("/chest-xray/status")["workers"] == len(pacs.workers()) == 1
    under_way = list(map(int, (counting / "under-way").read_text().split()))
    assert max(under_way) == IN_FLIGHT
    for data, result in zip(drawn, results, strict=True):
        expected = analyse(data, classify, datetime.now(UTC)).report.scores
        assert result["scores"] == pytest.approx(expected, abs=1e-4)


def test_an_image_that_ends_its_worker_takes_none_of_those_beside_it_along(
    repository: Path, prepared_model: Path, tmp_path: Path
) -> None:
    server = MLServer(repository)
    limits = {"TimeLimit": 5, "Attempts": 2, "Workers": 1, "MemoryLimit": 3072}
    with Pacs(
        tmp_path,
        {"ChestXRay": {"Servers": [server.grpc], **limits}},
        MODEL_FOLDER=str(prepared_model.parent),
        **within.environ("poison"),
    ) as pacs:
        instances = {}
        for seed, name in enumerate(["good", "CRASH", "good", "good", "HANG", "good", "good", "BLOAT", "good"]):
            ds = radiograph(seed, rows=64, columns=64)
            ds.PatientName = name
            instances[pacs.upload(to_bytes(ds))] = name
        with server:  # only now, so that they are ready together
            for instance, name in instances.items():
                result = pacs.result(instance, 120)
                assert result["state"] == ("done" if name == "good" else "failed"), result
                assert name == "good" or result["reason"].startswith("Given up after 2 tries: ")
        assert pacs.log().count("is tried again alone") >= len(instances) - 1


def test_a_server_that_is_killed_and_restarted_amid_200_images_loses_none(
    repository: Path, prepared_model: Path, tmp_path: Path, classify: Classifier
) -> None:
    with MLServer(repository, workers=2) as server:
        options = {"ChestXRay": {"Servers": [server.grpc]}}
        with Pacs(tmp_path, options, MODEL_FOLDER=str(prepared_model.parent)) as pacs:
            pacs.wait_until_ready()
            drawn = [radiograph(seed, rows=64, columns=64) for seed in range(IMAGES)]
            instances = [pacs.upload(to_bytes(ds)) for ds in drawn[: IMAGES // 2]]
            wait_for(lambda: pacs.get("/chest-xray/status")["done"] > IMAGES // 10 or None, 60, pacs.log)
            server.kill()
            instances += [pacs.upload(to_bytes(ds)) for ds in drawn[IMAGES // 2 :]]
            wait_for(lambda: not pacs.get("/chest-xray/status")["ready"] or None, 30, pacs.log)
            status = pacs.get("/chest-xray/status")
            assert status["reason"].startswith(f"No inference server can be used: {server.grpc} does not answer")
            assert status["pending"] > 0
            waiting = pacs.get(f"/instances/{instances[-1]}/chest-xray")
            assert (waiting["state"], waiting["reason"]) == ("pending", status["reason"])
            server.start()
            results = [pacs.result(instance, 180) for instance in instances]
            assert {result["state"] for result in results} == {"done"}
            assert all(len(pacs.reports_beside(instance)) == 1 for instance in instances)
            status = pacs.get("/chest-xray/status")
            assert (status["ready"], status["pending"], status["done"]) == (True, 0, IMAGES)
            assert status["failed"] == status["skipped"] == 0


def test_servers_that_hang_make_no_image_fail_and_the_log_says_which_is_not_used(
    prepared_model: Path, tmp_path: Path, classify: Classifier
) -> None:
    with HangingServer(classify, prepared_model.stem) as one, HangingServer(classify, prepared_model.stem) as other:
        one.answers.set()
        other.answers.set()
        limits = {"TimeLimit": 16, "Attempts": 1, "Workers": 1}
        options = {"ChestXRay": {"Servers": [one.http, other.http], **limits}}
        with Pacs(tmp_path, options, MODEL_FOLDER=str(prepared_model.parent)) as pacs:

            def status() -> Any:
                return pacs.get("/chest-xray/status")

            drawn = [to_bytes(radiograph(seed, rows=64, columns=64)) for seed in range(16)]
            assert {pacs.result(pacs.upload(data))["state"] for data in drawn[:8]} == {"done"}
            one.answers.clear()
            other.answers.clear()
            instances = [pacs.upload(data) for data in drawn[8:]]
            wait_for(lambda: not status()["ready"] or None, 60, pacs.log)
            for server in (one, other):
                assert f"{server.http} does not answer (timed out)" in status()["reason"]
            assert status()["pending"] == len(instances)
            one.answers.set()
            assert {pacs.result(instance, 120)["state"] for instance in instances} == {"done"}
            wait_for(lambda: len(status()["remarks"]) == 1 or None, 60, pacs.log)
            sentence = f"The inference server {other.http} is not used, since it does not answer (timed out)"
            assert status()["remarks"] == [sentence]
            assert pacs.log().count(sentence) == 1
            assert "Given up" not in pacs.log()


# Triton alone


def test_triton_puts_requests_together_and_takes_numbers_as_bytes(
    triton: InferenceServer, prepared_model: Path, classify: Classifier
) -> None:
    images = [plausible_inputs(1)] * 40
    expected = pytest.approx(classify(images[0]).scores, abs=1e-4)
    for address in (triton.grpc, triton.http):
        with ThreadPoolExecutor(4) as callers:
            each = [servers.load(prepared_model, [address], fallback=False) for _ in range(4)]
            found = callers.map(lambda served: list(map(served, images[:10])), each)
            assert all(answer.scores == expected for answers in found for answer in answers)
    each[0](images[0])  # in this thread, which has a connection of its own
    assert each[0].servers[0].client._binary  # type: ignore[union-attr]
    statistics = requests.get(f"{triton.http}/v2/models/{prepared_model.stem}/stats", timeout=10).json()
    sizes = {one["batch_size"] for one in statistics["model_stats"][0]["batch_stats"]}
    assert max(sizes) > 1


def test_triton_finds_nothing_to_complain_of_but_the_backend_that_it_lacks_here(
    repository: Path, tmp_path: Path, prepared_model: Path
) -> None:
    lacks = "unable to find backend library for backend 'onnxruntime'"
    assert lacks in complaint_of_triton(repository, tmp_path / "right", prepared_model.stem)
    spoilt = shutil.copytree(repository, tmp_path / "spoilt")
    config = spoilt / prepared_model.stem / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [1, 224, 224]", "dims: [1, 0, 224]"))
    assert lacks not in complaint_of_triton(spoilt, tmp_path / "wrong", prepared_model.stem)


def complaint_of_triton(repository: Path, folder: Path, name: str) -> str:
    """Why it does not serve the model of that name."""
    server = Triton(repository, folder, onnx_in_python=False)
    command = subprocess.run(
        server.command(), env=os.environ | server.environ(), capture_output=True, text=True, timeout=60, check=False
    )
    (complaint,) = re.findall(
        rf"failed to load '{name}' version 1: (.+)|Poll failed for model directory '{name}': (.+)", command.stderr
    )
    return "".join(complaint)


def test_the_configuration_for_triton_is_one_that_triton_reads(repository: Path, classify: Classifier) -> None:
    for place in (file.parent for file in repository.glob("*/config.pbtxt")):
        config = text_format.Parse((place / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        assert config.name == place.name
        assert config.backend == "onnxruntime"
        assert config.dynamic_batching.max_queue_delay_microseconds > 0
        (model,) = place.glob("*/model.onnx")
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        for ours, theirs in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            assert [(one.name, list(one.dims)) for one in ours] == [(one.name, one.shape[1:]) for one in theirs]
            types = {"tensor(float)": model_config_pb2.TYPE_FP32, "tensor(uint8)": model_config_pb2.TYPE_UINT8}
            assert [one.data_type for one in ours] == [types[one.type] for one in theirs]
        batch = plausible_inputs(config.max_batch_size // 16)
        scores, _, weights = session.run(None, {"image": batch})
        assert [row.tobytes().hex() for row in weights] == [config.parameters["weights_sha256"].string_value] * 4
        assert len(scores) == 4
    assert Model(**{**_parameters(repository, classify), "labels": classify.model.labels}) == classify.model


def _parameters(repository: Path, classify: Classifier) -> dict[str, Any]:
    """The identity in the configuration of the right model."""
    (place,) = repository.glob("densenet*")
    config = text_format.Parse((place / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
    found = {key: config.parameters[key].string_value for key in ("name", "version", "weights_sha256")}
    assert config.parameters["weights"].string_value == classify.model.weights
    return {**found, "trained": classify.model.trained, "thresholds": classify.model.thresholds}
