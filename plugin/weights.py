"""From a TorchXRayVision checkpoint to the model that production runs: verified, exported, cached.

A checkpoint is a pickle, and a pickle is a program: its hash is verified before it is opened, always. What comes out
is an ONNX file without pickles that carries its labels, thresholds and the weights' hash. This is the only module
(with `stand_in`, its helper) that needs torch, and only to prepare a model that is not in the cache yet.

    python -m plugin.weights prepare --weights densenet121-res224-all --folder models
    python -m plugin.weights stand-in checkpoint.pt
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from plugin import scratch, stand_in

if TYPE_CHECKING:
    import torch

STAND_IN = "stand-in"
"""Instead of weights: a seeded random initialisation, made here, whose scores mean nothing."""

DEFAULT = "densenet121-res224-all"

KNOWN_SHA256 = {DEFAULT: "56524913dd16a906422e8d8b66a7a5c46be1d82eb7ac012d8103776f1aa68899"}
"""Hashes of checkpoints that TorchXRayVision released."""

NAME = r"densenet121-res224-\w+"
"""What TorchXRayVision calls its DenseNets."""

PREPARING = ".preparing-"
"""How the folders are named in which models are made, within the one where they are kept."""

EXPORT = 1
"""Version of the exported graph; raised with any change of it, so that cached models are made anew."""

TOLERANCE = 5e-5
"""Largest difference allowed between the exported model's scores and TorchXRayVision's: half of what is promised."""


class WeightsUnavailable(RuntimeError):
    """The model cannot be prepared; the message is one sentence that says why and, where possible, what to do."""


def prepare(weights: str, sha256: str, folder: Path) -> Path:
    """The path of a prepared model in `folder`, made now if it is not there yet; raises `WeightsUnavailable`.

    `weights` is a name of a TorchXRayVision DenseNet, the path of a checkpoint, or `stand-in`. `sha256` (hex) is the
    checkpoint's; it may be empty for a name whose hash is known and for `stand-in`. Several processes may do this at
    once. What TorchXRayVision's download brings is kept in `folder` too.
    """
    scratch.sweep(PREPARING, folder)  # now, since a model that is there already needs no folder
    if weights == STAND_IN:
        return _prepare_stand_in(folder)
    expected = sha256.lower() or KNOWN_SHA256.get(weights, "")
    if not expected:
        if not re.fullmatch(NAME, weights):
            _check_file(Path(weights))
        raise WeightsUnavailable(
            f"WEIGHTS_SHA256 is required for {weights}: a checkpoint is a pickle, opened only if its hash is known."
        )
    if model := _prepared(folder, expected):
        return model
    with _workplace(folder) as work:
        if re.fullmatch(NAME, weights):
            checkpoint = _obtain(weights, expected, work, folder)
            return _export(checkpoint, weights, expected, folder)
        checkpoint = _copy(Path(weights), work)
        _verify(checkpoint, expected, weights)
        return _export(checkpoint, DEFAULT, expected, folder)


def _prepare_stand_in(folder: Path) -> Path:
    kept = folder / "stand-in.pt"
    if kept.is_file() and (model := _prepared(folder, _sha256(kept))):
        return model
    with _workplace(folder) as work:
        checkpoint = work / kept.name
        sha256 = write_stand_in(checkpoint)
        model = _export(checkpoint, DEFAULT, sha256, folder)
        checkpoint.replace(kept)
        return model


def _prepared(folder: Path, sha256: str) -> Path | None:
    return next(folder.glob(f"*-{sha256[:16]}-export{EXPORT}.onnx"), None)


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A temporary folder within `folder`, gone afterwards; what libraries print goes to stderr."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with scratch.folder(PREPARING, folder) as work, redirect_stdout(sys.stderr):
            yield work
    except OSError as error:
        where = str(error.filename or folder).partition(f"/{PREPARING}")[0]  # the same whenever it is tried
        raise WeightsUnavailable(f"{where}: {error.strerror or error}.") from error


def _copy(source: Path, work: Path) -> Path:
    """A private copy, so that the bytes whose hash is verified are the bytes that are opened."""
    _check_file(source)
    return Path(shutil.copyfile(source, work / source.name))


def _check_file(source: Path) -> None:
    if not source.is_file():
        raise WeightsUnavailable(
            f"The weights {source} are no file, no DenseNet of TorchXRayVision such as {DEFAULT}, and not {STAND_IN}."
        )


def _verify(checkpoint: Path, expected: str, origin: str) -> None:
    if (actual := _sha256(checkpoint)) != expected:
        raise WeightsUnavailable(
            f"The checkpoint {origin} was not opened: its {checkpoint.stat().st_size} bytes have the SHA-256 "
            f"{actual}, not {expected}."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# TorchXRayVision's side


@cache
def torchxrayvision() -> Any:
    """The module `torchxrayvision`; raises `WeightsUnavailable` where it or torch is not installed."""
    try:
        _import_torchvision()
        import torchxrayvision
    except ImportError as error:
        raise WeightsUnavailable(f"To prepare the weights, install the extra 'prepare': {error}.") from error
    return torchxrayvision


def _import_torchvision() -> None:
    """Import torchvision, which torchxrayvision needs, also where it is built for another torch than the installed.

    PyPI's torchvision is built for CUDA. Beside a CPU-only torch its compiled operators do not load, and its import
    ends at registering something for the two that are named here. Nothing of ours calls them: to declare them is
    enough.
    """
    import torch

    try:
        import torchvision
    except RuntimeError:
        for operator in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", schema)
        import torchvision  # noqa: F401


def _obtain(name: str, expected: str, work: Path, folder: Path) -> Path:
    """The verified checkpoint of that name: kept from an earlier download, or downloaded by TorchXRayVision."""
    xrv = torchxrayvision()
    if name not in xrv.models.model_urls:
        raise WeightsUnavailable(f"TorchXRayVision {xrv.__version__} has no weights {name}.")
    url = xrv.models.model_urls[name]["weights_url"]
    filename = _filename(url)
    kept = folder / filename
    for candidate in (kept, Path(xrv.utils.get_cache_dir(), filename)):
        if candidate.is_file():
            checkpoint = _copy(candidate, work)
            if _sha256(checkpoint) == expected:
                return checkpoint
            checkpoint.unlink()
    _download(name, url, work)
    _verify(work / filename, expected, url)
    shutil.copyfile(work / filename, work / "keep")
    (work / "keep").replace(kept)
    return work / filename


def _filename(url: str) -> str:
    return url.rsplit("/", 1)[1]


def _download(name: str, url: str, work: Path) -> None:
    import requests

    try:
        torchxrayvision().models.get_weights(name, cache_dir=str(work))
    except requests.RequestException as error:
        reason = f"HTTP {error.response.status_code}" if error.response is not None else type(error).__name__
        raise WeightsUnavailable(
            f"The weights {name} cannot be downloaded from {urlsplit(url).netloc} ({reason}); "
            f"give the path of a copy as WEIGHTS, with its WEIGHTS_SHA256, or {STAND_IN} to try the program without."
        ) from error


def _load(checkpoint: Path, name: str, sha256: str) -> tuple[Any, bool]:
    """A verified checkpoint as TorchXRayVision's DenseNet in evaluation mode, and whether it was trained."""
    import torch

    xrv = torchxrayvision()
    # TorchXRayVision's own loader opens a file only under the name of its release.
    released = checkpoint.parent / "released" / _filename(xrv.models.model_urls[name]["weights_url"])
    released.parent.mkdir()
    released.symlink_to(checkpoint.resolve())
    try:
        model = xrv.models.DenseNet(weights=name, cache_dir=str(released.parent))
        saved = torch.load(checkpoint, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever the content of a file that was verified, but is no checkpoint, leads to
        raise WeightsUnavailable(
            f"The checkpoint with the SHA-256 {sha256} is not one of TorchXRayVision's DenseNet121: "
            f"{(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    return model, sha256 in KNOWN_SHA256.values() or not getattr(saved, "stand_in", False)


# The exported model


def _export(checkpoint: Path, name: str, sha256: str, folder: Path) -> Path:
    """Write the checkpoint as an ONNX model beside it, compare the two, and move the model into `folder`."""
    import onnx
    import torch

    model, trained = _load(checkpoint, name, sha256)
    path = checkpoint.with_name("model.onnx")
    torch.onnx.export(
        _graph(model),
        (torch.zeros(1, 1, 224, 224),),
        str(path),
        input_names=["image"],
        output_names=["scores", "activation"],
        dynamic_axes={tensor: {0: "images"} for tensor in ("image", "scores", "activation")},
        opset_version=17,
        dynamo=False,  # the newer exporter takes 25 s instead of 3 and gives the same graph
    )
    exported = onnx.load(path)
    metadata = {
        "name": name,
        "version": torchxrayvision().__version__,
        "weights_sha256": sha256,
        "trained": json.dumps(trained),
        "labels": json.dumps(list(model.targets)),
        "thresholds": json.dumps(model.op_threshs.tolist()),
        "export": str(EXPORT),
    }
    onnx.helper.set_model_props(exported, metadata)
    onnx.save(exported, path)
    _compare(model, path)
    return path.replace(folder / f"{name}-{sha256[:16]}-export{EXPORT}.onnx")


def _graph(model: Any) -> torch.nn.Module:
    """TorchXRayVision's forward pass, without its checks of the input and with the activation maps."""
    import torch

    class Graph(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.classifier = model.features, model.classifier
            self.thresholds = model.op_threshs

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = torch.relu(self.features(image))
            activation = torch.nn.functional.conv2d(features, self.classifier.weight[:, :, None, None])
            raw = torch.sigmoid(self.classifier(features.mean((2, 3))))
            # torchxrayvision.models.op_norm, which cannot be exported: it assigns through masks
            below, above = raw / (self.thresholds * 2), 1 - (1 - raw) / ((1 - self.thresholds) * 2)
            scores = torch.where(raw < self.thresholds, below, above)
            return torch.where(torch.isnan(self.thresholds), 0.5, scores), activation

    return Graph().eval()


def _compare(model: Any, path: Path) -> None:
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = stand_in.plausible_inputs(4)
    with torch.inference_mode():
        expected = model(torch.from_numpy(images)).numpy()
    difference = float(np.abs(session.run(["scores"], {"image": images})[0] - expected).max())
    if not difference <= TOLERANCE:
        raise WeightsUnavailable(
            f"The exported model's scores differ from TorchXRayVision's by {difference:.1e}, more than {TOLERANCE:.0e}."
        )


def write_stand_in(path: Path) -> str:
    """Write stand-in weights as a checkpoint of the released form, a pickled DenseNet; returns its SHA-256."""
    import torch

    xrv = torchxrayvision()
    model = stand_in.densenet(xrv, xrv.models.model_urls[DEFAULT]["op_threshs"])
    with _workplace(path.parent) as work:
        saved = work / "stand-in.pt"  # the name is written into the file, and so into its hash
        torch.save(model, saved)
        saved.replace(path)
    return _sha256(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 2 with one sentence on stderr where there is no model."""
    parser = argparse.ArgumentParser(prog="python -m plugin.weights", description="Prepare the model's weights.")
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare", help="print the path of a model that is ready to run")
    preparing.add_argument("--weights", default=DEFAULT, help="a TorchXRayVision name, a path, or stand-in")
    preparing.add_argument("--sha256", default="", help="the checkpoint's, required for a path")
    preparing.add_argument("--folder", type=Path, required=True, help="where prepared models are kept")
    writing = commands.add_parser("stand-in", help="write random weights as a checkpoint and print its SHA-256")
    writing.add_argument("path", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "prepare":
            print(prepare(chosen.weights, chosen.sha256, chosen.folder))  # noqa: T201
        else:
            print(write_stand_in(chosen.path))  # noqa: T201
    except WeightsUnavailable as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
