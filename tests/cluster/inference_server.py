"""A real MLServer on free ports, in the environment that `make test-cluster` made for it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Self

import psutil
import requests

from demo.serve import ROOT
from tests.pacs import free_port, wait_for

PROGRAM = ROOT / "build/mlserver/bin/mlserver"


class InferenceServer:
    """MLServer over one repository. As a context manager it is started, and ended with all that it started."""

    def __init__(self, repository: Path, workers: int = 1) -> None:
        self._repository = repository
        self._log = repository.with_name(f"{repository.name}.log")
        http, grpc, metrics = free_port(), free_port(), free_port()
        self.grpc, self.http = f"grpc://127.0.0.1:{grpc}", f"http://127.0.0.1:{http}"
        self._environ = os.environ | {
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": str(http),
            "MLSERVER_GRPC_PORT": str(grpc),
            "MLSERVER_METRICS_PORT": str(metrics),
            "MLSERVER_PARALLEL_WORKERS": str(workers),
            "MLSERVER_DEBUG": "false",
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until its models are loaded."""
        command = [str(PROGRAM), "start", str(self._repository)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._repository, env=self._environ, stdout=log, stderr=log)
        wait_for(self._ready, 120, lambda: self._log.read_text(errors="replace"))

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process.poll() is None:
            family = self.family()
            for one in family:
                one.kill()
            self._process.wait()
            psutil.wait_procs(family[1:], timeout=10)

    def family(self) -> list[psutil.Process]:
        """It and the processes that it started."""
        process = psutil.Process(self._process.pid)
        return [process, *process.children(recursive=True)]

    def _ready(self) -> bool | None:
        assert self._process.poll() is None, self._log.read_text(errors="replace")
        try:
            return requests.get(f"{self.http}/v2/health/ready", timeout=5).ok or None
        except requests.ConnectionError:
            return None
