"""Class activation maps: where in the image the model's evidence for each finding lies, and their JSON form."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ActivationMaps:
    """The maps of one image's findings, and the part of the image that they cover.

    `maps` is float32, (findings, 7, 7), in the order of the scores: the mean of a map, plus the classifier's bias, is
    the finding's logit. `rows` and `columns` are the source image's; `crop` is the square of it that the maps cover
    evenly: its first row, its first column and its size in pixels.
    """

    maps: npt.NDArray[np.float32]
    rows: int
    columns: int
    crop: tuple[int, int, int]

    @classmethod
    def of(
        cls, maps: npt.NDArray[np.float32], labels: Sequence[str], shape: tuple[int, int], crop: tuple[int, int, int]
    ) -> ActivationMaps:
        """Without the outputs that have no label; `maps` is (labels, 7, 7), `shape` the source image's."""
        named = [number for number, label in enumerate(labels) if label]
        return cls(maps[named], *shape, crop)

    def as_json(self) -> dict[str, Any]:
        """`float16` is the base64 of the maps as little-endian half floats, row by row; about 2.4 kB for 18 maps."""
        row, column, size = self.crop
        return {
            "shape": list(self.maps.shape),
            "float16": base64.b64encode(self.maps.astype("<f2").tobytes()).decode("ascii"),
            "image": {"rows": self.rows, "columns": self.columns},
            "crop": {"row": row, "column": column, "size": size},
        }
