"""The model on servers elsewhere, which speak the Open Inference Protocol (v2): Triton, MLServer, KServe and others.

The worker decodes and resizes as ever; what leaves this machine is the model's input, 224x224 numbers without a name on
them. Before a server is used it must prove itself: the model's name and shapes, the weights' hash, and the scores of a
known image, equal to the local engine's to 1e-4. The hash stands in every later answer too.

Each worker has several requests under way (`settings.IN_FLIGHT`), one in each of its threads: decoding, and waiting for
an answer, leave the interpreter to the others. What one of them learns of a server, all know (`Standing`); and however
many servers hang, an image learns within its time limit that none answers.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import numpy as np

from plugin import classifier
from plugin.classifier import Classifier, Floats, ModelUnavailable, Precision, Prediction
from plugin.pixels import SIZE
from plugin.report import Model
from plugin.stand_in import plausible_inputs

WEIGHTS = "weights_sha256"
"""The output that names the weights, 32 bytes for each image; `plugin.model_repository` adds it to the model."""

TOLERANCE = 1e-4
"""Largest difference between a server's scores and the local engine's."""

CONNECT, ANSWER, PROBE = 2.0, 20.0, 5.0
"""Seconds that a server may take to tell its model's shapes; to classify an image; and for both, to be checked and
included, where it failed the last time and somebody else can be asked."""

REST, LONGEST_REST = 10.0, 300.0
"""Seconds in which a server that failed is asked only if there is no other; each time it fails again, twice as long."""

Answer = TypeVar("Answer")
Arrays = dict[str, np.ndarray[Any, Any]]
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


def tensors(model: Model) -> tuple[Tensors, Tensors]:
    """The model's inputs and outputs as servers know them: datatype and shape of each, without the images' axis."""
    labels = len(model.labels)
    outputs = {"scores": ("FP32", (labels,)), "activation": ("FP32", (labels, 7, 7)), WEIGHTS: ("UINT8", (32,))}
    return {"image": ("FP32", (1, SIZE, SIZE))}, outputs


class Unusable(Exception):
    """A server does not answer, or has another model; a sentence without its subject."""


class Client(Protocol):
    """What `tritonclient.grpc` and `tritonclient.http` have in common, behind the differences."""

    def metadata(self, name: str, seconds: float) -> dict[str, Any]:
        """The protocol's model metadata."""
        ...

    def infer(self, name: str, image: Floats, outputs: Sequence[str], seconds: float) -> Arrays:
        """The outputs of that model for these inputs."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """What the local engine says of one image: a server that says otherwise is not used."""

    image: Floats
    scores: Floats

    @classmethod
    def of(cls, classify: Classifier) -> KnownAnswer:
        """An image with structure at every scale, so that whatever rounds otherwise shows."""
        image = plausible_inputs(1)
        return cls(image, classify(image).scores)


class Standing:
    """What the threads of this process know of one server."""

    def __init__(self, address: str) -> None:
        """Nothing is known yet."""
        self.address = address
        self.problem: str | None = None  # '' if it was used; None if it has not been asked
        self.rests_until = 0.0
        self._rest = REST
        self._told: str | None = None
        self._probing = threading.Lock()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note whether it can be used. One that failed is asked by one thread at a time; others get `Unusable`."""
        failed = self.problem
        if failed and not self._probing.acquire(blocking=False):
            raise Unusable(failed)
        try:
            yield
            self.problem, self._rest = "", REST
        except Unusable as problem:
            self.problem = str(problem)
            if failed:  # again, and not only in threads that had asked it at the same time
                self._rest = min(2 * self._rest, LONGEST_REST)
            self.rests_until = time.monotonic() + self._rest
            raise
        finally:
            if failed:
                self._probing.release()

    def news(self) -> str | None:
        """`problem`, if that is another one than the last time."""
        told, self._told = self._told, self.problem
        return None if self._told == told else self._told


@dataclass(slots=True)
class Server:
    """One server and its connection, made and checked again after every failure.

    :param name: the model's on the server.
    """

    standing: Standing
    name: str
    model: Model
    known: KnownAnswer
    client: Client | None = None

    def __call__(self, image: Floats, until: float) -> Prediction:
        """Ask it, in time; raises `Unusable`.

        :param until: by `time.monotonic`.
        """
        with self.standing.noted():
            if self.client:
                try:
                    return self._ask(self.client, image, until)
                except Unusable:
                    self._close()
                    if time.monotonic() >= until - 0.1:
                        raise
                    # It may only have been restarted: once more, from the beginning.
            try:
                self.client = connect(self.standing.address)
                self._check(self.client, until)
                return self._ask(self.client, image, until)
            except Unusable:
                self._close()
                raise

    def _close(self) -> None:
        if self.client:
            self.client.close()
        self.client = None

    def _check(self, client: Client, until: float) -> None:
        self._check_shapes(_attempt(lambda: client.metadata(self.name, min(CONNECT, _left(until)))))
        scores = self._ask(client, self.known.image, until).scores
        difference = float(np.abs(scores - self.known.scores).max())
        if not difference <= TOLERANCE:
            raise Unusable(
                f"computes otherwise: its scores of a known image differ from the local engine's by {difference:.1e}"
            )

    def _check_shapes(self, metadata: Mapping[str, Any]) -> None:
        for kind, expected in zip(("inputs", "outputs"), tensors(self.model), strict=True):
            found = {
                one["name"]: (one["datatype"], tuple(int(size) for size in one["shape"][1:]))
                for one in metadata.get(kind, ())
            }
            if found != expected:
                raise Unusable(f"has another model {self.name}: its {kind} are {found}, not {dict(expected)}")

    def _ask(self, client: Client, image: Floats, until: float) -> Prediction:
        _, outputs = tensors(self.model)
        answer = _attempt(lambda: client.infer(self.name, image, list(outputs), _left(until)))
        if any(answer[name].shape != (len(image), *shape) for name, (_, shape) in outputs.items()):
            raise Unusable("gave an answer of another shape than it should have")
        if weights := {row.astype(np.uint8).tobytes().hex() for row in answer[WEIGHTS]} - {self.model.weights_sha256}:
            raise Unusable(
                f"has another model {self.name}: the SHA-256 of its weights is {weights.pop()}, "
                f"not {self.model.weights_sha256}"
            )
        scores, activation = (np.asarray(answer[name], np.float32) for name in ("scores", "activation"))
        return Prediction(scores, activation)


class ServedClassifier(threading.local):
    """A `Classifier` whose model is on servers: they take turns, and where one fails another is asked.

    Each thread that uses it has connections of its own, since those of HTTP may not be shared: `__init__` is called in
    each, with the same arguments.

    :param servers: makes the servers, not yet connected.
    :param fallback: the local engine, if it is to be the last resort.
    :param left: the seconds until the image must be done; servers get half of them, all together.
    """

    precision: Precision = "float32"

    def __init__(
        self,
        model: Model,
        servers: Callable[[], Sequence[Server]],
        fallback: Classifier | None,
        left: Callable[[], float] = lambda: math.inf,
    ) -> None:
        """Nobody is asked yet."""
        self.model, self.servers, self.fallback, self._left = model, servers(), fallback, left
        self._turn = random.randrange(1 << 16)  # noqa: S311 - threads begin anywhere

    def __call__(self, batch: Floats) -> Prediction:
        """See `Classifier`; raises `ModelUnavailable` with what each of the servers lacks."""
        self._turn += 1
        first = self._turn % len(self.servers)
        in_turn = [*self.servers[first:], *self.servers[:first]]
        now, problems = time.monotonic(), []
        ready = [server for server in in_turn if server.standing.rests_until <= now]
        resting = [server for server in in_turn if server.standing.rests_until > now and not self.fallback]
        end = now + self._left() / 2
        others = len(ready + resting)
        for server in ready + resting:
            now, others = time.monotonic(), others - 1
            patience = PROBE if server.standing.problem and (others or self.fallback) else ANSWER
            try:
                return server(batch, now + min(patience, (end - now) / (others + 1)))
            except Unusable as problem:
                problems.append(f"{server.standing.address} {problem}")
        if self.fallback:
            return self.fallback(batch)
        raise ModelUnavailable(f"No inference server can be used: {'; '.join(sorted(problems))}")

    def news(self) -> dict[str, str]:
        """By address, of each server that changed since the last time: why it cannot be used, '' if it is used."""
        standings = [server.standing for server in self.servers]
        return {one.address: problem for one in standings if (problem := one.news()) is not None}


def load(
    path: Path, addresses: Sequence[str], fallback: bool, left: Callable[[], float] = lambda: math.inf
) -> ServedClassifier:
    """The model in the prepared file `path`, on the servers at these addresses; raises `ModelUnavailable`."""
    local = classifier.load(path)
    known = KnownAnswer.of(local)
    standings = [Standing(address) for address in addresses]
    return ServedClassifier(
        local.model,
        lambda: [Server(standing, path.stem, local.model, known) for standing in standings],
        local if fallback else None,
        left,
    )


# The protocol, through its client library


def connect(address: str) -> Client:
    """A client for `grpc://host:port`, `http://host:port`, or either with TLS (`grpcs`, `https`)."""
    url = urlsplit(address)
    try:
        if url.scheme.startswith("grpc"):
            return _Grpc(url.netloc, url.scheme == "grpcs")
        return _Http(url.netloc + url.path.rstrip("/"), url.scheme == "https")
    except ImportError as problem:
        raise ModelUnavailable(f"To use inference servers, install the extra 'servers': {problem}.") from problem


def _left(until: float) -> float:
    """Seconds; more than none, which would mean no limit."""
    return max(until - time.monotonic(), 0.001)


def _attempt(ask: Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except Exception as problem:  # the library's own, gRPC's, gevent's and the system's: they share no other class
        said = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
        if isinstance(problem, OSError) or "UNAVAILABLE" in said or "DEADLINE_EXCEEDED" in said:
            raise Unusable(f"does not answer ({said.rsplit(': ', 1)[-1]})") from problem
        raise Unusable(f"cannot be used: {said[:300]}") from problem


class _Grpc:
    def __init__(self, host: str, secure: bool) -> None:
        from tritonclient import grpc

        self._module = grpc
        options = [
            ("grpc.use_local_subchannel_pool", 1),  # a new client tries at once, however often others failed
            ("grpc.lb_policy_name", "round_robin"),  # over all addresses that the host's name has
            ("grpc.enable_http_proxy", 0),
        ]
        self._client = grpc.InferenceServerClient(host, ssl=secure, channel_args=options)
        self.close = self._client.close

    def metadata(self, name: str, seconds: float) -> dict[str, Any]:
        found: dict[str, Any] = self._client.get_model_metadata(name, as_json=True, client_timeout=seconds)
        return found

    def infer(self, name: str, image: Floats, outputs: Sequence[str], seconds: float) -> Arrays:
        given = self._module.InferInput("image", image.shape, "FP32").set_data_from_numpy(image)
        wanted = [self._module.InferRequestedOutput(one) for one in outputs]
        answer = self._client.infer(name, [given], outputs=wanted, client_timeout=seconds)
        return {one: answer.as_numpy(one) for one in outputs}


class _Http:
    def __init__(self, host: str, secure: bool) -> None:
        from gevent import Timeout  # type: ignore[import-untyped]
        from tritonclient import http

        self._module, self._timeout = http, Timeout
        self._client = http.InferenceServerClient(host, ssl=secure, connection_timeout=CONNECT, network_timeout=ANSWER)
        self._binary: bool | None = None
        self.close = self._client.close

    @contextmanager
    def _within(self, seconds: float) -> Iterator[None]:
        """The client's own limits are for the connection and for each piece of an answer."""
        try:
            with self._timeout(seconds):
                yield
        except self._timeout as problem:
            raise TimeoutError("timed out") from problem

    def metadata(self, name: str, seconds: float) -> dict[str, Any]:
        with self._within(seconds):
            # Without this extension numbers travel as text, five times as long and slow to write and read.
            self._binary = "binary_tensor_data" in self._client.get_server_metadata().get("extensions", ())
            found: dict[str, Any] = self._client.get_model_metadata(name)
            return found

    def infer(self, name: str, image: Floats, outputs: Sequence[str], seconds: float) -> Arrays:
        given = self._module.InferInput("image", image.shape, "FP32").set_data_from_numpy(image, self._binary)
        wanted = [self._module.InferRequestedOutput(one, binary_data=self._binary) for one in outputs]
        with self._within(seconds):
            answer = self._client.infer(name, [given], outputs=wanted)
        return {one: answer.as_numpy(one) for one in outputs}
