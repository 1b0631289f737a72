"""One process that has the model on a GPU, and the classifier that every worker reaches it through.

Workers fetch, decode and prepare images, one each and with their limits on time and memory; what they have prepared
goes to this process, which puts together whatever has come in meanwhile into one batch. An image is prepared by the
worker that decoded it, since its pixels would take as long to get here as preparing them does: 13 ms for 2500x2500
pixels of 16 bits over a Unix socket, against 0.06 ms for the 224x224 input.

    python -m plugin.engine MODEL ENGINE ADDRESS
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from plugin.classifier import Classifier, Floats, ModelUnavailable, Precision, Prediction
from plugin.pixels import SIZE
from plugin.report import Model

LARGEST_BATCH = 64
"""Requests, of one image each as a rule: a bound for the memory that a batch takes."""

MAP = SIZE // 32
"""Rows and columns of an activation map."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h

ENGINES: dict[str, tuple[str, Precision]] = {
    "torch-cpu": ("cpu", "float32"),
    "torch-cuda": ("cuda", "float32"),
    "torch-cuda-bf16": ("cuda", "bfloat16"),
}
"""The values of the setting `Engine` that are served here: device and precision."""

Request = tuple[Floats, "Future[Prediction]"]


# In the process with the model


def main(arguments: Sequence[str] | None = None) -> int:
    """Load the model, say "ready" on standard output, or one sentence, and serve until the parent process ends."""
    name, engine, address = arguments or sys.argv[1:]
    path = Path(name)
    loaded = _version(path)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for Orthanc, which ends us in its own time
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        from plugin import torch_engine

        classify = torch_engine.load(path, *ENGINES[engine])
        classify(np.zeros((1, 1, SIZE, SIZE), np.float32))  # which loads the rest of torch's libraries
    except ImportError as problem:
        print(f"The engine {engine} needs torch and onnx: install the extra 'prepare' ({problem})")  # noqa: T201
        return 2
    except ModelUnavailable as problem:
        print(problem)  # noqa: T201
        return 2
    Path(address).unlink(missing_ok=True)  # of a process before us
    with Listener(address, "AF_UNIX", backlog=256) as listener:
        print("ready", flush=True)  # noqa: T201
        serve(classify, listener, lambda: _version(path) == loaded)
    return 0


def _version(path: Path) -> tuple[int, int]:
    """Another one for each file that was put there; see `worker`."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_mtime_ns, stat.st_size


def serve(classify: Classifier, listener: Listener, current: Callable[[], bool] = lambda: True) -> None:
    """Answer what comes in, as long as the model is `current`. Each client is told first what the model is.

    A request that comes later stays unanswered, so that the workers say that this process has ended, and why another
    one cannot start.
    """
    requests: SimpleQueue[Request] = SimpleQueue()
    threading.Thread(target=_accept, args=(classify, listener, requests), daemon=True).start()
    while True:
        first = requests.get()
        if not current():
            return
        answer_together(classify, [first], requests)


def answer_together(classify: Classifier, batch: list[Request], waiting: SimpleQueue[Request]) -> None:
    """Add what is waiting to the batch, classify it, and give each request its own part."""
    while len(batch) < LARGEST_BATCH and not waiting.empty():
        batch.append(waiting.get())
    prediction = classify(np.concatenate([images for images, _ in batch]))
    start = 0
    for images, future in batch:
        part = slice(start, start + len(images))
        future.set_result(Prediction(prediction.scores[part], prediction.activation[part]))
        start = part.stop


def _accept(classify: Classifier, listener: Listener, requests: SimpleQueue[Request]) -> None:
    hello = json.dumps({"model": asdict(classify.model), "precision": classify.precision}).encode()
    while True:
        client = listener.accept()
        threading.Thread(target=_converse, args=(client, hello, requests), daemon=True).start()


def _converse(client: Connection[bytes, bytes], hello: bytes, requests: SimpleQueue[Request]) -> None:
    with client, suppress(EOFError, OSError):  # the worker has ended
        client.send_bytes(hello)
        while True:
            images = np.frombuffer(client.recv_bytes(), np.float32).reshape(-1, 1, SIZE, SIZE)
            future: Future[Prediction] = Future()
            requests.put((images, future))
            prediction = future.result()
            client.send_bytes(prediction.scores.tobytes())
            client.send_bytes(prediction.activation.tobytes())


# In a worker


class RemoteClassifier:
    """A `Classifier` whose model is in that process. Connects again by itself; raises `ModelUnavailable` meanwhile."""

    def __init__(self, address: str) -> None:
        """Connect to the process that listens at `address`."""
        self._address = address
        self._connect()

    def __call__(self, batch: Floats) -> Prediction:
        """See `Classifier`."""
        try:
            if self._client.closed:
                self._connect()
            self._client.send_bytes(np.ascontiguousarray(batch, np.float32).data.cast("B"))
            scores, activation = (np.frombuffer(self._client.recv_bytes(), np.float32) for _ in range(2))
        except (EOFError, OSError) as problem:
            self._client.close()
            raise ModelUnavailable("The process with the model on the GPU has ended; it is started again.") from problem
        labels = len(self.model.labels)
        return Prediction(scores.reshape(-1, labels), activation.reshape(-1, labels, MAP, MAP))

    def _connect(self) -> None:
        try:
            self._client = Client(self._address, "AF_UNIX")
            hello = json.loads(self._client.recv_bytes())
        except (EOFError, OSError) as problem:
            raise ModelUnavailable("The process with the model on the GPU does not answer.") from problem
        self.precision: Precision = hello["precision"]
        labels, thresholds = map(tuple, (hello["model"].pop("labels"), hello["model"].pop("thresholds")))
        self.model = Model(**hello["model"], labels=labels, thresholds=thresholds)


if __name__ == "__main__":
    sys.exit(main())
