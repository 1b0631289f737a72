"""What an operator chooses: the section `ChestXRay` of orthanc.json, overridden by the environment.

Standard library only, since this is read inside Orthanc.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

SECTION = "ChestXRay"


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


def _setting(default: Any, check: Callable[[Any], Any], about: str, variable: str = "") -> Any:
    return field(default=default, metadata={"check": check, "about": about, "variable": variable})


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
    Outputs: tuple[str, ...] = _setting(
        ("sr",),
        _some_of("sr", "secondary-capture", "pdf"),
        "What is stored in the study: the SR, always; with `secondary-capture` a picture, with `pdf` a page, too.",
    )
    Python: str = _setting("", _text, "The interpreter for the worker processes; empty: the project's own, or python3.")
    Workers: int = _setting(0, _whole(0, 256), "Worker processes; 0: one for each processor core.")
    TimeLimit: int = _setting(120, _whole(1, 86400), "Seconds that one image may take before its worker is ended.")
    MemoryLimit: int = _setting(4096, _whole(512, 1 << 20), "Address space of one worker, in MiB.")
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
            value = given or section.get(name, setting.default)
            try:
                values[name] = setting.metadata["check"](value)
            except ValueError as allowed:
                raise BadSetting(f"{where} is {value!r}; it must be {allowed}") from None
        return cls(**values)

    @property
    def workers(self) -> int:
        """The number of worker processes: as set, or the cores that this process may use."""
        return self.Workers or len(os.sched_getaffinity(0))

    def model_folder(self, root: Path) -> Path:
        """Where prepared models are kept, below `root` unless the setting is absolute."""
        return root / self.ModelFolder

    def as_json(self) -> dict[str, Any]:
        """For another process, where `read` takes it again."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Connection:
    """How Orthanc is reached from its own machine. `authorization` is a secret: never logged."""

    url: str
    authorization: str = field(repr=False)
    certificate: str = ""

    @classmethod
    def to_orthanc(cls, configuration: Mapping[str, Any], authorization: str) -> Self:
        """The loopback address that Orthanc's own configuration describes.

        :raises BadSetting: if Orthanc's HTTP server is off, since results come back over it.
        """
        if configuration.get("HttpServerEnabled", True) is not True:
            raise BadSetting("HttpServerEnabled is false; the plugin stores its reports over HTTP, so it must be true")
        secure = configuration.get("SslEnabled", False)
        return cls(
            url=f"{'https' if secure else 'http'}://127.0.0.1:{configuration.get('HttpPort', 8042)}",
            authorization=authorization,
            certificate=str(configuration.get("SslCertificate", "")) if secure else "",
        )
