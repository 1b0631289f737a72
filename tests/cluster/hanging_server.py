"""A server of the Open Inference Protocol that can be made to hang: connected, and silent."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

import numpy as np

from plugin import servers
from plugin.classifier import Classifier


class HangingServer:
    """Serves the local engine over HTTP, as a context manager, while `answers` is set."""

    def __init__(self, classify: Classifier, name: str) -> None:
        self.answers = threading.Event()

        def described(tensors: servers.Tensors) -> list[dict[str, Any]]:
            return [{"name": one, "datatype": kind, "shape": [-1, *shape]} for one, (kind, shape) in tensors.items()]

        inputs, outputs = (described(tensors) for tensors in servers.tensors(classify.model))
        metadata = {"name": name, "platform": "", "inputs": inputs, "outputs": outputs}
        answers = self.answers

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._say(metadata if "models" in self.path else {"name": "hanging", "version": "1", "extensions": []})

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answers.wait()
                (given,) = request["inputs"]
                found = classify(np.array(given["data"], np.float32).reshape(given["shape"]))
                weights = np.frombuffer(bytes.fromhex(classify.model.weights_sha256), np.uint8)[None]
                arrays: dict[str, np.ndarray[Any, Any]] = {
                    "scores": found.scores,
                    "activation": found.activation,
                    servers.WEIGHTS: weights,
                }
                self._say({"model_name": name, "outputs": [one | _data(arrays[one["name"]]) for one in outputs]})

            def _say(self, answer: Mapping[str, Any]) -> None:
                body = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.http = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.answers.set()
        self._server.shutdown()
        self._server.server_close()


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that waited no longer."""

    def handle_error(self, *_: object) -> None:
        pass


def _data(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"shape": array.shape, "data": array.ravel().tolist()}
