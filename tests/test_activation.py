"""The activation maps in a result: whose they are, how they are written, and that they lie where the image is."""

from __future__ import annotations

import base64
from datetime import UTC, datetime

import numpy as np
import pytest

from demo.phantoms import radiograph, to_bytes
from plugin import analysis, pixels
from plugin.activation import ActivationMaps
from plugin.classifier import Classifier


@pytest.mark.parametrize(("rows", "columns"), [(300, 401), (401, 300)])
def test_the_maps_in_the_result_are_the_models(classify: Classifier, rows: int, columns: int) -> None:
    ds = radiograph(0, rows=rows, columns=columns)
    said = analysis.analyse(to_bytes(ds), classify, datetime.now(UTC)).activation.as_json()
    expected = classify(pixels.model_input(ds).array[None]).activation[0]
    maps = np.frombuffer(base64.b64decode(said["float16"]), "<f2").reshape(said["shape"])
    assert maps.shape == (18, 7, 7)
    np.testing.assert_allclose(maps, expected, rtol=1e-3, atol=1e-4)
    assert said["image"] == {"rows": rows, "columns": columns}
    row, column, size = pixels.center_crop(rows, columns)
    assert said["crop"] == {"row": row, "column": column, "size": size}


def test_outputs_without_a_label_have_no_map() -> None:
    maps = np.arange(3 * 49, dtype=np.float32).reshape(3, 7, 7)
    named = ActivationMaps.of(maps, ("Mass", "", "Edema"), (10, 10), (0, 0, 10))
    np.testing.assert_array_equal(named.maps, maps[[0, 2]])
