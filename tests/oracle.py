"""TorchXRayVision's own way from a DICOM file to scores, as its README goes it: the measure of tests and benchmarks."""

from __future__ import annotations

import contextlib
import io
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.pixels.decoders.base import JPEGBaseline8BitDecoder, JPEGExtended12BitDecoder

from plugin.weights import DEFAULT, torchxrayvision

Floats = npt.NDArray[np.float32]


@cache
def _settle_jpeg_decoders() -> None:
    """Have pydicom decode lossy JPEG with GDCM or Pillow where they can.

    Both do so bit by bit alike, as nearly everything built on the Independent JPEG Group's library. pylibjpeg-libjpeg
    rounds otherwise; tests have it for what those two cannot decode, and pydicom would prefer it to Pillow.
    """
    for decoder in (JPEGBaseline8BitDecoder, JPEGExtended12BitDecoder):
        if "pylibjpeg" in decoder.available_plugins:
            decoder.remove_plugin("pylibjpeg")
            decoder.add_plugin("pylibjpeg", ("pydicom.pixels.decoders.pylibjpeg", "_decode_frame"))


def read(dicom: bytes) -> Floats:
    """Decode and normalise: (1, rows, columns) in -1024..1024."""
    _settle_jpeg_decoders()
    image: Floats = torchxrayvision().utils.read_xray_dcm(io.BytesIO(dicom))
    return image[None]


def resize(image: Floats) -> Floats:
    """Center crop and resize to (1, 224, 224)."""
    datasets = torchxrayvision().datasets
    resized: Floats = datasets.XRayResizer(224)(datasets.XRayCenterCrop()(image))
    return resized


def model_input(dicom: bytes) -> Floats:
    """(1, 224, 224), what the model is given."""
    return resize(read(dicom))


def load(checkpoint: Path, folder: Path) -> Any:
    """The DenseNet, loaded by TorchXRayVision from a checkpoint, which it finds in `folder` as if downloaded."""
    xrv = torchxrayvision()
    folder.mkdir(parents=True, exist_ok=True)
    downloaded = folder / Path(xrv.models.model_urls[DEFAULT]["weights_url"]).name
    downloaded.unlink(missing_ok=True)
    downloaded.symlink_to(checkpoint.resolve())
    return xrv.models.DenseNet(weights=DEFAULT, cache_dir=str(folder))


def scores(model: Any, image: Floats) -> Floats:
    """(18,) scores of one model input."""
    import torch

    with torch.inference_mode(), contextlib.redirect_stdout(io.StringIO()):
        result: Floats = model(torch.from_numpy(image)[None])[0].numpy()
    return result
