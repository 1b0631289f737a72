"""Real inference servers on free ports, in the environments that `make test-cluster` made for them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil
import requests

from demo.serve import ROOT
from tests.pacs import free_port, wait_for

MLSERVER = ROOT / "build/mlserver/bin/mlserver"
TRITON = ROOT / "build/triton"


class InferenceServer:
    """A server over one repository. As a context manager it is started, and ended with all that it started."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self._log = repository.with_name(f"{repository.name}.log")
        self.ports = {"grpc": free_port(), "http": free_port()}
        self.grpc, self.http = (f"{protocol}://127.0.0.1:{port}" for protocol, port in self.ports.items())

    def command(self) -> Sequence[str | Path]:
        """What starts it."""
        raise NotImplementedError

    def environ(self) -> Mapping[str, str]:
        """Variables that it wants."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until its models are loaded."""
        environ = os.environ | self.environ()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), cwd=self.repository.parent, env=environ, stdout=log, stderr=log
            )
        wait_for(self._ready, 120, self.log)

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

    def log(self) -> str:
        """What it wrote so far."""
        return self._log.read_text(errors="replace")

    def _ready(self) -> bool | None:
        assert self._process.poll() is None, self.log()
        try:
            return requests.get(f"{self.http}/v2/health/ready", timeout=5).ok or None
        except requests.ConnectionError:
            return None


class MLServer(InferenceServer):
    """Seldon's MLServer."""

    def __init__(self, repository: Path, workers: int = 1) -> None:
        super().__init__(repository)
        self._workers = workers

    def command(self) -> Sequence[str | Path]:
        """See `InferenceServer`."""
        return [MLSERVER, "start", self.repository]

    def environ(self) -> Mapping[str, str]:
        """See `InferenceServer`."""
        return {
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": str(self.ports["http"]),
            "MLSERVER_GRPC_PORT": str(self.ports["grpc"]),
            "MLSERVER_METRICS_PORT": str(free_port()),
            "MLSERVER_PARALLEL_WORKERS": str(self._workers),
            "MLSERVER_DEBUG": "false",
        }


class Triton(InferenceServer):
    """NVIDIA's tritonserver as PyTriton's package carries it: whole, but of the backends it has Python's alone.

    With `onnx_in_python`, the repository is a copy whose models ask for that one, which runs them by ONNX Runtime.
    """

    def __init__(self, repository: Path, folder: Path, onnx_in_python: bool = True) -> None:
        super().__init__(folder / "repository")
        shutil.copytree(repository, self.repository)
        self._packages = next(TRITON.glob("lib/python*/site-packages"))
        self._triton = self._packages / "pytriton/tritonserver"
        self._backends = folder / "backends"
        shutil.copytree(self._triton / "backends", self._backends)
        version = self._packages.parent.name.removeprefix("python")
        stub = shutil.copy(
            self._triton / f"python_backend_stubs/{version}/triton_python_backend_stub", self._backends / "python"
        )
        Path(stub).chmod(0o755)
        for config in self.repository.glob("*/config.pbtxt") if onnx_in_python else ():
            config.write_text(config.read_text().replace('backend: "onnxruntime"', 'backend: "python"'))
            runtime = Path(__file__).with_name("triton_model.py").read_text()
            (config.parent / "1/model.py").write_text(runtime.replace("PACKAGES", str(self._packages)))

    def command(self) -> Sequence[str | Path]:
        """See `InferenceServer`."""
        addresses = [
            f"--{name}-{what}" for name in self.ports for what in ("address=127.0.0.1", f"port={self.ports[name]}")
        ]
        folders = [f"--model-repository={self.repository}", f"--backend-directory={self._backends}"]
        return [
            self._triton / "bin/tritonserver",
            *folders,
            *addresses,
            "--allow-metrics=false",
            "--disable-auto-complete-config",
        ]

    def environ(self) -> Mapping[str, str]:
        """See `InferenceServer`."""
        return {"LD_LIBRARY_PATH": str(self._packages / "nvidia_pytriton.libs")}
