"""Which server is asked, and what is said where none can be used; without servers."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plugin import model_repository, servers
from plugin.classifier import Classifier, Floats, ModelUnavailable
from plugin.servers import ANSWER, LONGEST_REST, PROBE, REST, ServedClassifier, Server, Standing
from plugin.stand_in import plausible_inputs

IMAGE = plausible_inputs(1)


class Clock:
    """The time, which passes only where a test or a server that hangs lets it."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class FakeClient:
    """One server's side: right answers from the local engine, unless the test changes them."""

    def __init__(self, classify: Classifier) -> None:
        self._classify = classify
        self.inputs, self.outputs = servers.tensors(classify.model)
        self.sha256 = classify.model.weights_sha256
        self.offset = 0.0
        self.down: Exception | None = None
        self.asked = 0
        self.hangs: Clock | None = None
        self.waited: list[float] = []

    def metadata(self, name: str, seconds: float) -> dict[str, Any]:
        if self.down:
            raise self.down

        def described(named: servers.Tensors) -> list[dict[str, Any]]:
            return [{"name": one, "datatype": kind, "shape": ["-1", *shape]} for one, (kind, shape) in named.items()]

        return {"name": name, "inputs": described(self.inputs), "outputs": described(self.outputs)}

    def infer(
        self, name: str, image: Floats, outputs: Sequence[str], seconds: float
    ) -> dict[str, np.ndarray[Any, Any]]:
        if self.hangs:
            self.hangs.now += seconds
            self.waited.append(seconds)
            raise TimeoutError("timed out")
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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)
    return clock


def served(
    classify: Classifier, fallback: Classifier | None = None, left: Callable[[], float] = lambda: 120.0
) -> ServedClassifier:
    known = servers.KnownAnswer.of(classify)
    standings = [Standing(f"grpc://{host}:1") for host in "ab"]
    return ServedClassifier(
        classify.model,
        lambda: [Server(standing, "the-model", classify.model, known) for standing in standings],
        fallback,
        left,
    )


def test_servers_take_turns(classify: Classifier, fakes: list[FakeClient]) -> None:
    by_servers = served(classify)
    for _ in range(4):
        assert by_servers(IMAGE).scores == pytest.approx(classify(IMAGE).scores)
    assert [fake.asked for fake in fakes] == [3, 3]  # once each to be known


def test_one_that_fails_rests_and_is_checked_again(classify: Classifier, fakes: list[FakeClient], clock: Clock) -> None:
    by_servers = served(classify)
    fakes[0].down = ConnectionRefusedError("Connection refused")
    for _ in range(4):
        by_servers(IMAGE)
    assert [fake.asked for fake in fakes] == [0, 5]
    fakes[0].down, fakes[0].sha256 = None, "cd" * 32
    for _ in range(2):
        by_servers(IMAGE)
    assert fakes[0].asked == 0  # it rests
    clock.now += REST + 1
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
    for _ in range(2):  # in the same words, whoever's turn it is: another sentence is news for the log
        with pytest.raises(ModelUnavailable) as again:
            by_servers(IMAGE)
        assert str(again.value) == str(sentence.value)
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


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("limit", [5.0, 30.0, 600.0])
def test_where_all_hang_an_image_learns_it_in_half_of_its_time(
    classify: Classifier, fakes: list[FakeClient], clock: Clock, connected: bool, limit: float
) -> None:
    end = clock.now + limit
    by_servers = served(classify, left=lambda: end - clock.now)
    for _ in range(2 * connected):
        by_servers(IMAGE)
    for fake in fakes:
        fake.hangs = clock
    for _ in range(3):  # they are asked again, since there is no other
        end = clock.now + limit
        with pytest.raises(ModelUnavailable, match=r"a:1 does not answer \(timed out\)"):
            by_servers(IMAGE)
        assert end - clock.now >= limit / 2 - 0.01
    assert max(*fakes[0].waited, *fakes[1].waited) <= ANSWER
    for fake in fakes:
        fake.hangs = None
    assert by_servers(IMAGE).scores == pytest.approx(classify(IMAGE).scores)


def test_a_connection_that_was_closed_is_made_anew_at_once(
    classify: Classifier, fakes: list[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_servers = served(classify)
    for _ in range(2):
        by_servers(IMAGE)
    restarted = [FakeClient(classify), FakeClient(classify)]
    monkeypatch.setattr(servers, "connect", lambda address: restarted["ab".index(address[7])])
    for fake in fakes:
        fake.down = ConnectionResetError("Connection reset by peer")
    for _ in range(2):
        by_servers(IMAGE)
    assert [fake.asked for fake in restarted] == [2, 2]
    assert set(by_servers.news().values()) == {""}


def test_one_that_goes_on_failing_is_asked_ever_more_seldom_and_not_for_long(
    classify: Classifier, fakes: list[FakeClient], clock: Clock
) -> None:
    by_servers = served(classify)
    fakes[0].hangs = clock
    began = clock.now
    while clock.now < began + 3600:
        clock.now += 30
        by_servers(IMAGE)
    assert fakes[0].waited[0] == ANSWER
    assert max(fakes[0].waited[1:]) <= PROBE
    assert len(fakes[0].waited) < 3600 / LONGEST_REST + 6
    fakes[0].hangs = None
    clock.now += LONGEST_REST
    for _ in range(2):
        by_servers(IMAGE)
    fakes[0].hangs = clock
    for _ in range(2):
        by_servers(IMAGE)
    assert by_servers.servers[0].standing.rests_until <= clock.now + REST  # as at its first failure


def test_threads_share_what_they_learn_and_one_of_them_asks_whether_it_is_over(
    classify: Classifier, fakes: list[FakeClient]
) -> None:
    by_servers = served(classify)
    fakes[0].down = TimeoutError("timed out")
    for _ in range(2):
        by_servers(IMAGE)
    standing = by_servers.servers[0].standing
    asked: list[str] = []

    def ask() -> None:
        asked.append(by_servers.servers[0].standing.address)
        for _ in range(2):
            by_servers(IMAGE)

    fakes[0].down = None
    in_threads(ask, 4)
    assert asked == ["grpc://a:1"] * 4
    assert fakes[0].asked == 0  # it rests, in all of them
    standing.rests_until = 0
    with pytest.raises(servers.Unusable, match="timed out"), standing.noted():
        in_threads(ask, 4)
        raise servers.Unusable("does not answer (timed out)")
    assert fakes[0].asked == 0  # one of them was asking
    standing.rests_until = 0
    in_threads(ask, 1)
    assert fakes[0].asked > 0


def in_threads(task: Callable[[], None], number: int) -> None:
    threads = [threading.Thread(target=task) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_what_changed_is_told_once(classify: Classifier, fakes: list[FakeClient], clock: Clock) -> None:
    by_servers = served(classify, fallback=classify)
    assert by_servers.news() == {}
    fakes[1].down = ConnectionRefusedError("Connection refused")
    for _ in range(2):
        by_servers(IMAGE)
    assert by_servers.news() == {"grpc://a:1": "", "grpc://b:1": "does not answer (Connection refused)"}
    clock.now += REST
    for _ in range(2):
        by_servers(IMAGE)
    assert by_servers.news() == {}
    fakes[1].down = None
    clock.now += 2 * REST
    for _ in range(2):
        by_servers(IMAGE)
    assert by_servers.news() == {"grpc://b:1": ""}


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
