"""Which server is asked, and what is said where none can be used; without servers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plugin import model_repository, servers
from plugin.classifier import Classifier, Floats, ModelUnavailable
from plugin.servers import REST, ServedClassifier, Server
from plugin.stand_in import plausible_inputs

IMAGE = plausible_inputs(1)


class FakeClient:
    """One server's side: right answers from the local engine, unless the test changes them."""

    def __init__(self, classify: Classifier) -> None:
        self._classify = classify
        self.inputs, self.outputs = servers.tensors(classify.model)
        self.sha256 = classify.model.weights_sha256
        self.offset = 0.0
        self.down: Exception | None = None
        self.asked = 0

    def metadata(self, name: str) -> dict[str, Any]:
        if self.down:
            raise self.down

        def described(named: servers.Tensors) -> list[dict[str, Any]]:
            return [{"name": one, "datatype": kind, "shape": ["-1", *shape]} for one, (kind, shape) in named.items()]

        return {"name": name, "inputs": described(self.inputs), "outputs": described(self.outputs)}

    def infer(self, name: str, image: Floats, outputs: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
        if self.down:
            raise self.down
        self.asked += 1
        found = self._classify(image)
        hashes = np.tile(np.frombuffer(bytes.fromhex(self.sha256), np.uint8), (len(image), 1))
        return {"scores": found.scores + self.offset, "activation": found.activation, servers.WEIGHTS: hashes}

    def close(self) -> None:
        pass


@pytest.fixture
def fakes(classify: Classifier, monkeypatch: pytest.MonkeyPatch) -> list[FakeClient]:
    """Two servers, a:1 and b:1."""
    clients = [FakeClient(classify), FakeClient(classify)]
    monkeypatch.setattr(servers, "connect", lambda address: clients["ab".index(address[7])])
    return clients


def served(classify: Classifier, fallback: Classifier | None = None) -> ServedClassifier:
    known = servers.KnownAnswer.of(classify)
    return ServedClassifier(
        classify.model,
        lambda: [Server(f"grpc://{host}:1", "the-model", classify.model, known) for host in "ab"],
        fallback,
    )


def test_servers_take_turns(classify: Classifier, fakes: list[FakeClient]) -> None:
    by_servers = served(classify)
    for _ in range(4):
        assert by_servers(IMAGE).scores == pytest.approx(classify(IMAGE).scores)
    assert [fake.asked for fake in fakes] == [3, 3]  # once each to be known


def test_one_that_fails_rests_and_is_checked_again(
    classify: Classifier, fakes: list[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    by_servers = served(classify)
    fakes[0].down = ConnectionRefusedError("Connection refused")
    for _ in range(4):
        by_servers(IMAGE)
    assert [fake.asked for fake in fakes] == [0, 5]
    fakes[0].down, fakes[0].sha256 = None, "cd" * 32
    for _ in range(2):
        by_servers(IMAGE)
    assert fakes[0].asked == 0  # it rests
    now += REST + 1
    for _ in range(2):
        by_servers(IMAGE)
    assert [fake.asked for fake in fakes] == [1, 9]  # it came back with other weights


def test_where_none_can_be_used_each_says_why(classify: Classifier, fakes: list[FakeClient]) -> None:
    fakes[0].down = ConnectionRefusedError("[Errno 111] Connection refused")
    fakes[1].down = RuntimeError("[StatusCode.UNAVAILABLE] to all: last error: No route to host")
    by_servers = served(classify)
    with pytest.raises(ModelUnavailable, match=r"^No inference server can be used: grpc") as sentence:
        by_servers(IMAGE)
    assert "grpc://a:1 does not answer ([Errno 111] Connection refused)" in str(sentence.value)
    assert "grpc://b:1 does not answer (No route to host)" in str(sentence.value)
    fakes[0].down = None
    assert by_servers(IMAGE).scores == pytest.approx(classify(IMAGE).scores)  # where all rest, they are asked again


def test_the_local_engine_is_asked_last_and_does_not_wait_for_those_that_rest(
    classify: Classifier, fakes: list[FakeClient]
) -> None:
    by_servers = served(classify, fallback=classify)
    by_servers(IMAGE)
    assert sum(fake.asked for fake in fakes) == 2
    for fake in fakes:
        fake.down = TimeoutError("timed out")
    for _ in range(3):
        assert by_servers(IMAGE).scores == pytest.approx(classify(IMAGE).scores)
    for fake in fakes:
        fake.down = None
    by_servers(IMAGE)
    assert sum(fake.asked for fake in fakes) == 2


def _other_shape(fake: FakeClient) -> None:
    fake.outputs = {**fake.outputs, "scores": ("FP32", (14,))}


def _other_scores(fake: FakeClient) -> None:
    fake.offset = 2e-4


def _other_weights(fake: FakeClient) -> None:
    fake.sha256 = "ab" * 32


def _not_a_number(fake: FakeClient) -> None:
    fake.offset = float("nan")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_other_shape, r"has another model the-model: its outputs are .*\(14,\).*, not .*\(18,\)"),
        (_other_scores, r"computes otherwise: .* differ from the local engine's by 2\.0e-04"),
        (_not_a_number, r"computes otherwise: .* by nan"),
        (_other_weights, r"has another model the-model: the SHA-256 of its weights is (ab){32}, not "),
    ],
)
def test_another_model_is_refused(
    classify: Classifier, fakes: list[FakeClient], change: Callable[[FakeClient], None], sentence: str
) -> None:
    for fake in fakes:
        change(fake)
    with pytest.raises(ModelUnavailable, match=rf"grpc://a:1 {sentence}"):
        served(classify)(IMAGE)


def test_a_model_that_is_exchanged_between_two_images_is_noticed(classify: Classifier, fakes: list[FakeClient]) -> None:
    by_servers = served(classify)
    by_servers(IMAGE)
    for fake in fakes:
        fake.sha256 = "ab" * 32
    with pytest.raises(ModelUnavailable, match=r"the SHA-256 of its weights is (ab)+"):
        by_servers(IMAGE)


def test_the_extra_is_named_where_it_is_missing(prepared_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    for address in ("grpc://a:1", "http://a:1"):
        with pytest.raises(ModelUnavailable, match="install the extra 'servers'"):
            servers.load(prepared_model, [address], fallback=False)(IMAGE)


def test_the_repository_says_in_a_sentence_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEIGHTS", str(tmp_path / "none.pt"))
    assert model_repository.main([str(tmp_path)]) == 2
    assert "none.pt are no file" in capsys.readouterr().err
