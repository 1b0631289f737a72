"""The model on servers elsewhere, which speak the Open Inference Protocol (v2): Triton, MLServer, KServe and others.

The worker decodes and resizes as ever; what leaves this machine is the model's input, 224x224 numbers without a name on
them. Before a server is used it must prove itself: the model's name and shapes, the weights' hash, and the scores of a
known image, equal to the local engine's to 1e-4. The hash stands in every later answer too.

Each worker has several requests under way (`settings.IN_FLIGHT`), one in each of its threads: decoding, and waiting for
an answer, leave the interpreter to the others.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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

CONNECT, ANSWER = 2.0, 20.0
"""Seconds that a server may take to tell its model's shapes, and to classify an image."""

REST = 10.0
"""Seconds in which a server that failed is asked only if there is no other."""

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

    def metadata(self, name: str) -> dict[str, Any]:
        """The protocol's model metadata."""
        ...

    def infer(self, name: str, image: Floats, outputs: Sequence[str]) -> Arrays:
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


@dataclass(slots=True)
class Server:
    """One server and its connection, made and checked again after every failure.

    :param name: the model's on the server.
    """

    address: str
    name: str
    model: Model
    known: KnownAnswer
    client: Client | None = None
    rests_until: float = 0.0

    def __call__(self, image: Floats) -> Prediction:
        """:raises Unusable: and rests."""
        if self.client:
            try:
                return self._ask(self.client, image)
            except Unusable:
                self._close()  # it may only have been restarted: once more, from the beginning
        try:
            self.client = self._connect()
            return self._ask(self.client, image)
        except Unusable:
            self._close()
            self.rests_until = time.monotonic() + REST
            raise

    def _close(self) -> None:
        if self.client:
            self.client.close()
        self.client = None

    def _connect(self) -> Client:
        client = connect(self.address)
        self._check_shapes(_attempt(lambda: client.metadata(self.name)))
        scores = self._ask(client, self.known.image).scores
        difference = float(np.abs(scores - self.known.scores).max())
        if not difference <= TOLERANCE:
            raise Unusable(
                f"computes otherwise: its scores of a known image differ from the local engine's by {difference:.1e}"
            )
        return client

    def _check_shapes(self, metadata: Mapping[str, Any]) -> None:
        for kind, expected in zip(("inputs", "outputs"), tensors(self.model), strict=True):
            found = {
                one["name"]: (one["datatype"], tuple(int(size) for size in one["shape"][1:]))
                for one in metadata.get(kind, ())
            }
            if found != expected:
                raise Unusable(f"has another model {self.name}: its {kind} are {found}, not {dict(expected)}")

    def _ask(self, client: Client, image: Floats) -> Prediction:
        _, outputs = tensors(self.model)
        answer = _attempt(lambda: client.infer(self.name, image, list(outputs)))
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
    """

    precision: Precision = "float32"

    def __init__(self, model: Model, servers: Callable[[], Sequence[Server]], fallback: Classifier | None) -> None:
        """Nobody is asked yet."""
        self.model, self.servers, self.fallback = model, servers(), fallback
        self._turn = random.randrange(1 << 16)  # noqa: S311 - threads begin anywhere

    def __call__(self, batch: Floats) -> Prediction:
        """See `Classifier`; raises `ModelUnavailable` with what each of the servers lacks."""
        self._turn += 1
        first = self._turn % len(self.servers)
        in_turn = [*self.servers[first:], *self.servers[:first]]
        now, problems = time.monotonic(), []
        ready = [server for server in in_turn if server.rests_until <= now]
        resting = [server for server in in_turn if server.rests_until > now and not self.fallback]
        for server in ready + resting:
            try:
                return server(batch)
            except Unusable as problem:
                problems.append(f"{server.address} {problem}")
        if self.fallback:
            return self.fallback(batch)
        raise ModelUnavailable(f"No inference server can be used: {'; '.join(problems)}")


def load(path: Path, addresses: Sequence[str], fallback: bool) -> ServedClassifier:
    """The model in the prepared file `path`, on the servers at these addresses; raises `ModelUnavailable`."""
    local = classifier.load(path)
    known = KnownAnswer.of(local)
    return ServedClassifier(
        local.model,
        lambda: [Server(address, path.stem, local.model, known) for address in addresses],
        local if fallback else None,
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

    def metadata(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._client.get_model_metadata(name, as_json=True, client_timeout=CONNECT)
        return found

    def infer(self, name: str, image: Floats, outputs: Sequence[str]) -> Arrays:
        given = self._module.InferInput("image", image.shape, "FP32").set_data_from_numpy(image)
        wanted = [self._module.InferRequestedOutput(one) for one in outputs]
        answer = self._client.infer(name, [given], outputs=wanted, client_timeout=ANSWER)
        return {one: answer.as_numpy(one) for one in outputs}


class _Http:
    def __init__(self, host: str, secure: bool) -> None:
        from tritonclient import http

        self._module = http
        client = partial(http.InferenceServerClient, host, ssl=secure, connection_timeout=CONNECT)
        self._checking, self._client = client(network_timeout=CONNECT), client(network_timeout=ANSWER)
        self._binary: bool | None = None
        self.close = self._client.close

    def metadata(self, name: str) -> dict[str, Any]:
        # Without this extension numbers travel as text, five times as long and slow to write and read.
        self._binary = "binary_tensor_data" in self._checking.get_server_metadata().get("extensions", ())
        found: dict[str, Any] = self._checking.get_model_metadata(name)
        return found

    def infer(self, name: str, image: Floats, outputs: Sequence[str]) -> Arrays:
        given = self._module.InferInput("image", image.shape, "FP32").set_data_from_numpy(image, self._binary)
        wanted = [self._module.InferRequestedOutput(one, binary_data=self._binary) for one in outputs]
        answer = self._client.infer(name, [given], outputs=wanted)
        return {one: answer.as_numpy(one) for one in outputs}
