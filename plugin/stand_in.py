"""Stand-in weights: TorchXRayVision's DenseNet121 with seeded random weights, for trying things without the real ones.

Its scores mean nothing, but behave as real ones do: they spread over 0..1 between images and between findings.
Imported by `plugin/weights.py`, and for `plausible_inputs` by `plugin/servers.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

SEED = 20


def densenet(xrv: Any, thresholds: list[float]) -> Any:
    """An untrained DenseNet of the module `torchxrayvision`, settled on plausible inputs.

    `thresholds` are the raw scores that the calibration will map to 0.5. The network says of itself that it is a
    stand-in: the attribute `stand_in` is True, also after it was saved and loaded.
    """
    import torch

    images = torch.from_numpy(plausible_inputs(16))
    with torch.random.fork_rng(devices=[]), torch.no_grad(), _one_thread():
        torch.manual_seed(SEED)
        model = xrv.models.DenseNet()
        _settle_batch_norms(model, images)
        _settle_classifier(model, images, torch.tensor(thresholds))
    model.stand_in = True
    return model


def plausible_inputs(n: int) -> npt.NDArray[np.float32]:
    """Seeded inputs (n, 1, 224, 224) in -1024..1024 with structure at every scale, as radiographs have."""
    rng = np.random.default_rng(SEED)
    images = np.zeros((n, 1, 224, 224))
    for cells in (2, 4, 7, 14, 28, 56, 224):
        coarse = rng.normal(size=(n, 1, cells, cells)) * rng.uniform(0.2, 1, size=(n, 1, 1, 1))
        images += coarse.repeat(224 // cells, axis=2).repeat(224 // cells, axis=3) / np.sqrt(cells)
    images = images * rng.uniform(200, 800, size=(n, 1, 1, 1)) + rng.uniform(-400, 400, size=(n, 1, 1, 1))
    return np.clip(images, -1024, 1024).astype(np.float32)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch compute in one thread: the same on every number of cores, and quick on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _settle_batch_norms(model: Any, images: torch.Tensor) -> None:
    """Make the images' own statistics the running ones."""
    import torch

    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(images)
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


def _settle_classifier(model: Any, images: torch.Tensor, thresholds: torch.Tensor) -> None:
    """Scale the classifier so that each finding's logit lies around its threshold's with a deviation of 2."""
    import torch

    logits = torch.cat([model(image) for image in images[:, None]])
    scale = 2 / logits.std(dim=0)
    model.classifier.weight *= scale[:, None]
    model.classifier.bias.copy_(torch.logit(thresholds) - logits.mean(dim=0) * scale)
