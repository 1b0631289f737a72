"""What an operator chooses: the section `ChestXRay` of orthanc.json, overridden by the environment.

Standard library only, since this is read inside Orthanc.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from plugin import limits

SECTION = "ChestXRay"
LOOPBACK = "127.0.0.1"
MOST_WORKERS = 256
ORTHANC_MEMORY = 1 << 30
WORKER_MEMORY = 512 << 20
"""Bytes: workers were measured to take 350 MB at most with images of 3000x3000, 490 MB where they draw pictures too."""

MOST_THREADS = 4
"""Of a worker for an image that is alone, however many cores are idle: each takes 8 MB of its address space."""

IN_FLIGHT = 4
"""Images that a worker has under way at once where it waits for `Servers`; where it computes itself, it has one."""


class BadSetting(ValueError):
    """A sentence that names the setting, its value and what is allowed."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text in quotation marks")
    return value


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"([0-9a-fA-F]{64})?", value):
        raise ValueError("64 hexadecimal digits, or empty")
    return value.lower()


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise ValueError("a list of texts")
    return tuple(value)


def _servers(value: Any) -> tuple[str, ...]:
    addresses = _words(value)
    if not all(re.fullmatch(r"(grpcs?|https?)://[^/\s]+:\d+(/\S*)?", address) for address in addresses):
        raise ValueError("a list of addresses such as grpc://host:8001 or http://host:8000")
    return addresses


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _some_of(*allowed: str) -> Callable[[Any], tuple[str, ...]]:
    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(one in allowed for one in value):
            raise ValueError(f"a list with some of {', '.join(allowed)}")
        return tuple(value)

    return check


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return str(value)

    return check


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def _setting(
    default: Any, check: Callable[[Any], Any], about: str, variable: str = "", parse: Callable[[str], Any] = str
) -> Any:
    """`parse` makes of the variable's text what stands in the file."""
    return field(default=default, metadata={"check": check, "about": about, "variable": variable, "parse": parse})


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked values, under the same names as in orthanc.json."""

    Weights: str = _setting(
        "densenet121-res224-all",
        _text,
        "Which weights: a TorchXRayVision name, the path of a checkpoint, or `stand-in` for random ones.",
        "WEIGHTS",
    )
    WeightsSha256: str = _setting(
        "",
        _sha256,
        "The checkpoint's SHA-256. Required for a path: only verified files are opened.",
        "WEIGHTS_SHA256",
    )
    ModelFolder: str = _setting(
        "build/models",
        _text,
        "Where prepared models are kept; relative to the folder above the plugin.",
        "MODEL_FOLDER",
    )
    Engine: str = _setting(
        "onnx",
        _one_of("onnx", "torch-cpu", "torch-cuda", "torch-cuda-bf16"),
        "What runs the model: `onnx` or `torch-cpu` on the processor; `torch-cuda` on a GPU; "
        "`torch-cuda-bf16` likewise, faster but with other scores.",
    )
    Servers: tuple[str, ...] = _setting(
        (),
        _servers,
        "Inference servers that run the model instead: `grpc://host:8001` or `http://host:8000`, with TLS `grpcs` and "
        "`https`. They take turns.",
    )
    LocalFallback: bool = _setting(
        False, _yes_or_no, "Whether this machine runs the model itself when none of the `Servers` can be used."
    )
    Outputs: tuple[str, ...] = _setting(
        ("sr",),
        _some_of("sr", "secondary-capture", "pdf"),
        "What is stored in the study: the SR, always; with `secondary-capture` a picture, with `pdf` a page, too. In "
        "the variable `OUTPUTS`, with commas between: `sr,secondary-capture,pdf`.",
        "OUTPUTS",
        lambda text: [word.strip() for word in text.split(",")],
    )
    Python: str = _setting("", _text, "The interpreter for the worker processes; empty: the project's own, or python3.")
    Workers: int = _setting(
        0,
        _whole(0, MOST_WORKERS),
        "Worker processes; 0: one for each processor core, but no more than fit into the memory, with 1 GiB for "
        "Orthanc and 512 MiB for each; limits of a container or a service count. Each has one image under way; with "
        f"`Servers`, which are waited for, up to {IN_FLIGHT} together.",
    )
    TimeLimit: int = _setting(
        120,
        _whole(1, 86400),
        "Seconds that one image may take before its worker is ended. Those that it has under way together may take as "
        "long in all; where that is not enough, each is tried again alone. `Servers` have half of it, all together.",
    )
    MemoryLimit: int = _setting(
        4096, _whole(512, 1 << 20), "Address space of one worker, in MiB, for all that it has under way."
    )
    Attempts: int = _setting(
        3, _whole(1, 100), "How often an image that ends its worker is tried before it is `failed`."
    )
    BodyParts: tuple[str, ...] = _setting(
        (),
        _words,
        "Further values of BodyPartExamined that are certainly not the chest, so that they are skipped.",
    )

    @classmethod
    def read(cls, section: Any, environ: Mapping[str, str] = os.environ) -> Self:
        """Check one `ChestXRay` section, with the environment's values on top.

        :raises BadSetting: with the key, the value and what is allowed.
        """
        if not isinstance(section, Mapping):
            raise BadSetting(f"{SECTION} in orthanc.json is {section!r}; it must be a section in braces")
        known = {setting.name: setting for setting in fields(cls)}
        for key in section:
            if key not in known:
                raise BadSetting(f"{SECTION}.{key} is not a setting; there are {', '.join(known)}")
        values = {}
        for name, setting in known.items():
            variable = setting.metadata["variable"]
            given = environ.get(variable) if variable else None
            where = variable if given else f"{SECTION}.{name}"
            value = setting.metadata["parse"](given) if given else section.get(name, setting.default)
            try:
                values[name] = setting.metadata["check"](value)
            except ValueError as allowed:
                raise BadSetting(f"{where} is {given or value!r}; it must be {allowed}") from None
        if values["Servers"] and values["Engine"] != "onnx":
            raise BadSetting(
                f"{SECTION}.Engine is {values['Engine']!r}; with {SECTION}.Servers it must be 'onnx', the last resort"
            )
        return cls(**values)

    @property
    def workers(self) -> int:
        """The number of worker processes: as set, or as many as keep the cores busy and fit into the memory."""
        if self.Workers:
            return self.Workers
        fit = (limits.memory() - ORTHANC_MEMORY) // WORKER_MEMORY
        return max(1, min(limits.cores(), fit, MOST_WORKERS))

    @property
    def threads(self) -> int:
        """How many a worker has for an image that is alone: the other workers leave their cores idle then."""
        return min(self.workers, limits.cores(), MOST_THREADS)

    @property
    def in_flight(self) -> int:
        """How many images one of them has under way at most."""
        return IN_FLIGHT if self.Servers else 1

    def model_folder(self, root: Path) -> Path:
        """Where prepared models are kept, below `root` unless the setting is absolute."""
        return root / self.ModelFolder

    def as_json(self) -> dict[str, Any]:
        """For another process, where `read` takes it again."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Connection:
    """How Orthanc is reached from its own machine. `authorization` is a secret: never logged.

    `accounts` tells whether Orthanc asks others for an account, and writes down whose it was with what they send.
    `shared` is Orthanc's own setting CheckRevisions, which stands where several Orthancs write to one database: whoever
    replaces metadata then has to say what, and only one of two who do it at once succeeds.
    """

    url: str
    authorization: str = field(repr=False)
    certificate: str = ""
    shared: bool = False
    accounts: bool = True

    @classmethod
    def to_orthanc(cls, configuration: Mapping[str, Any], authorization: str) -> Self:
        """The address that Orthanc's own configuration describes: the loopback, unless it listens on others alone.

        :raises BadSetting: if Orthanc's HTTP server is off, since results come back over it, or if it hides images.
        """
        if configuration.get("HttpServerEnabled", True) is not True:
            raise BadSetting("HttpServerEnabled is false; the plugin stores its reports over HTTP, so it must be true")
        if limit := configuration.get("LimitFindResults", 0):
            raise BadSetting(
                f"LimitFindResults is {limit}; it must be 0, since Orthanc would hide more images from the plugin, too"
            )
        secure = configuration.get("SslEnabled", False)
        return cls(
            url=f"{'https' if secure else 'http'}://{_host(configuration)}:{configuration.get('HttpPort', 8042)}",
            authorization=authorization,
            certificate=str(configuration.get("SslCertificate", "")) if secure else "",
            shared=bool(configuration.get("CheckRevisions", False)),
            accounts=bool(configuration.get("AuthenticationEnabled", configuration.get("RemoteAccessAllowed", False))),
        )

    def trust(self) -> ssl.SSLContext | None:
        """Of Orthanc's own certificate and no other; it names the server as the outside knows it, not the loopback."""
        if not self.certificate:
            return None
        context = ssl.create_default_context(cafile=self.certificate)
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def _host(configuration: Mapping[str, Any]) -> str:
    addresses: list[str] = configuration.get("HttpBindAddresses") or [LOOPBACK]
    if LOOPBACK in addresses or "0.0.0.0" in addresses:  # noqa: S104 - nothing is bound here
        return LOOPBACK
    address = addresses[0].strip("[]")  # which Orthanc 1.13 wants around one with colons
    return f"[{address}]" if ":" in address else address
