"""`make verify`: does this installation give the scores that TorchXRayVision publishes for its own sample image?

TorchXRayVision's README shows what its `scripts/process_image.py tests/00000001_000.png -resize` printed with
`densenet121-res224-all`: center crop, `XRayResizer(224)` and the model, on a CPU. Here the same image's grey values
take this program's own way, `pixels.prepare` and the prepared model.

The weights and the image come from the Internet, once. Ends with status 0 if every score is the published one, 1 if
one is not, and 2 with one sentence where that cannot be found out.
"""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.request
from collections.abc import Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import imagecodecs

from plugin import classifier, pixels, weights
from plugin.settings import BadSetting, Settings

ROOT = Path(__file__).resolve().parent.parent

SAMPLE = (
    "https://raw.githubusercontent.com/mlmed/torchxrayvision/f4087a0b0d0cdc6a5877fb5456965b6d29adb1e5"
    "/tests/00000001_000.png"
)
SAMPLE_SHA256 = "c8cbe59e6b9b186060dc68e63965658fa6b5b3ada6648d25c189b8b69b43cd4c"

PUBLISHED = {
    "Atelectasis": 0.50577986,
    "Cardiomegaly": 0.62151504,
    "Consolidation": 0.3124331,
    "Edema": 0.21286564,
    "Effusion": 0.39427388,
    "Emphysema": 0.503361,
    "Enlarged Cardiomediastinum": 0.4313866,
    "Fibrosis": 0.5401596,
    "Fracture": 0.28907478,
    "Hernia": 0.012677962,
    "Infiltration": 0.5220189,
    "Lung Lesion": 0.21828467,
    "Lung Opacity": 0.36826086,
    "Mass": 0.4104132,
    "Nodule": 0.5091791,
    "Pleural_Thickening": 0.5104176,
    "Pneumonia": 0.18006423,
    "Pneumothorax": 0.30677897,
}

TOLERANCE = 1e-3
"""Other processors and releases of torch round TorchXRayVision's own scores otherwise, by about 1e-5, and this way may
add 1e-4. Any real difference is larger: another resize moves scores by 0.05 and more, pixels that were decoded
otherwise by 0.01."""


class CannotVerify(Exception):
    """A sentence that says what is missing and what to do."""


def sample(folder: Path) -> bytes:
    """The sample image, a PNG file of 8 bits, kept in `folder` or else downloaded; raises `CannotVerify`."""
    kept = folder / SAMPLE.rsplit("/", 1)[1]
    try:
        content = kept.read_bytes() if kept.exists() else _download()
    except OSError as error:  # urllib's errors among them
        raise CannotVerify(
            f"TorchXRayVision's sample image cannot be had from {SAMPLE} ({error}); put a copy of it at {kept}."
        ) from error
    if (actual := hashlib.sha256(content).hexdigest()) != SAMPLE_SHA256:
        raise CannotVerify(f"The sample image {kept.name} has the SHA-256 {actual}, not {SAMPLE_SHA256}.")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(content)
    return content


def _download() -> bytes:
    with urllib.request.urlopen(SAMPLE, timeout=30) as answer:
        content: bytes = answer.read()
    return content


def scores(settings: Settings) -> dict[str, float]:
    """What this installation says of the sample image; raises `CannotVerify`."""
    folder = settings.model_folder(ROOT)
    try:
        with redirect_stderr(StringIO()):  # TorchXRayVision's downloader has more to say than one sentence
            model = weights.prepare(settings.Weights, settings.WeightsSha256, folder)
        classify = classifier.load(model)
    except (weights.WeightsUnavailable, classifier.ModelUnavailable) as problem:
        raise CannotVerify(str(problem)) from problem
    if classify.model.weights_sha256 != weights.KNOWN_SHA256[weights.DEFAULT]:
        raise CannotVerify(f"There are published scores for {weights.DEFAULT} alone, not for {settings.Weights}.")
    image = pixels.prepare(pixels.Pixels(imagecodecs.png_decode(sample(folder)), bits=8, inverted=False, warnings=()))
    found = classify(image.array[None]).scores[0]
    return dict(zip(classify.model.labels, map(float, found), strict=True))


def main(environ: Mapping[str, str] = os.environ) -> int:
    """The command line; WEIGHTS and WEIGHTS_SHA256 name a copy of the released weights, as for the server."""
    print("Verifying this installation; the weights and a sample image are downloaded the first time.")  # noqa: T201
    try:
        here = scores(Settings.read({}, environ))
    except (CannotVerify, BadSetting) as sentence:
        print(sentence, file=sys.stderr)  # noqa: T201
        return 2
    print(f"{'':28}{'published':>12}{'here':>12}{'difference':>12}")  # noqa: T201
    for label, published in PUBLISHED.items():
        print(f"{label:28}{published:12.7f}{here[label]:12.7f}{here[label] - published:12.1e}")  # noqa: T201
    largest = max(abs(here[label] - published) for label, published in PUBLISHED.items())
    verdict = "is" if largest <= TOLERANCE else "is NOT"
    print(f"The largest difference is {largest:.1e}, which {verdict} within {TOLERANCE:.0e}.")  # noqa: T201
    return 0 if largest <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
