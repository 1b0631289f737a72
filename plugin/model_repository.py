"""The prepared model as inference servers want it: one folder that Triton and MLServer both read.

    python -m plugin.model_repository FOLDER      which weights: as for the server, WEIGHTS and WEIGHTS_SHA256

    FOLDER/densenet121-res224-all-56524913dd16a906-export1/
        1/model.onnx           the prepared model, with one output more: the hash of the weights that made the scores
        config.pbtxt           for Triton
        model-settings.json    for MLServer, with mlserver_model.py to run it

The model's name holds the weights' hash, so that a server can offer an old and a new model side by side. Servers of the
Open Inference Protocol do not agree on how to tell more than a model's name and shapes: so the whole hash is an output,
`weights_sha256`, and stands in every answer of each of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plugin import classifier, weights
from plugin.engine import LARGEST_BATCH
from plugin.report import Model
from plugin.servers import WEIGHTS, Tensors, tensors
from plugin.settings import BadSetting, Settings

ROOT = Path(__file__).resolve().parent.parent
RUNTIME = Path(__file__).with_name("mlserver_model.py")


def write(model: Path, folder: Path) -> Path:
    """Write a prepared model into a repository; returns its own folder there.

    :raises classifier.ModelUnavailable: if the file is no prepared model.
    """
    identity = classifier.load(model).model
    place = folder / model.stem
    (place / "1").mkdir(parents=True, exist_ok=True)
    _write_model(model, identity, place / "1/model.onnx")
    (place / "config.pbtxt").write_text(triton(model.stem, identity))
    (place / "model-settings.json").write_text(json.dumps(mlserver(model.stem, identity), indent=2) + "\n")
    shutil.copyfile(RUNTIME, place / RUNTIME.name)
    return place


def _write_model(source: Path, identity: Model, target: Path) -> None:
    """The same graph, and the hash as an output with a row for each image, since servers put requests together."""
    import onnx
    from onnx import helper, numpy_helper

    exported = onnx.load(source)
    graph = exported.graph
    digest = np.frombuffer(bytes.fromhex(identity.weights_sha256), np.uint8)
    graph.initializer.extend(
        [
            numpy_helper.from_array(digest, "digest"),
            numpy_helper.from_array(np.array([digest.size], np.int64), "digest_size"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Shape", ["scores"], ["images"], start=0, end=1),
            helper.make_node("Concat", ["images", "digest_size"], ["digest_shape"], axis=0),
            helper.make_node("Expand", ["digest", "digest_shape"], [WEIGHTS]),
        ]
    )
    graph.output.append(helper.make_tensor_value_info(WEIGHTS, onnx.TensorProto.UINT8, ["images", digest.size]))
    onnx.checker.check_model(exported)
    onnx.save(exported, target)


def triton(name: str, identity: Model) -> str:
    """The text of `config.pbtxt`: requests that wait are put together, for half a millisecond at most."""
    inputs, outputs = tensors(identity)
    parameters = _identity(identity)
    return f"""\
# Written by `make model-repository`. On a GPU, run Triton with NVIDIA_TF32_OVERRIDE=0: TF32 changes scores by more
# than 1e-4, and the plugin uses no server whose scores differ so much from its own.
name: "{name}"
backend: "onnxruntime"
max_batch_size: {LARGEST_BATCH}
input [{_triton_tensors(inputs)}
]
output [{_triton_tensors(outputs)}
]
dynamic_batching {{
  max_queue_delay_microseconds: 500
}}
{"".join(_triton_parameter(key, value) for key, value in parameters.items())}"""


def _triton_tensors(named: Tensors) -> str:
    return ",".join(
        f'\n  {{ name: "{name}" data_type: TYPE_{datatype} dims: {list(shape)} }}'
        for name, (datatype, shape) in named.items()
    )


def _triton_parameter(key: str, value: str) -> str:
    text = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'parameters {{ key: "{key}" value {{ string_value: "{text}" }} }}\n'


def mlserver(name: str, identity: Model) -> dict[str, Any]:
    """The content of `model-settings.json`."""
    inputs, outputs = tensors(identity)
    return {
        "name": name,
        "platform": "onnx",
        "versions": ["1"],
        "implementation": f"{RUNTIME.stem}.OnnxModel",
        "parameters": {"uri": "./1/model.onnx", "version": "1", "extra": _identity(identity)},
        "inputs": _mlserver_tensors(inputs),
        "outputs": _mlserver_tensors(outputs),
    }


def _mlserver_tensors(named: Tensors) -> list[dict[str, Any]]:
    return [{"name": name, "datatype": datatype, "shape": [-1, *shape]} for name, (datatype, shape) in named.items()]


def _identity(identity: Model) -> dict[str, str]:
    """For people who look at the files; the plugin goes by the answers."""
    return {
        "name": identity.name,
        "version": identity.version,
        "weights": identity.weights,
        "weights_sha256": identity.weights_sha256,
        "labels": json.dumps(identity.labels),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit status 2 with one sentence where there is no model."""
    parser = argparse.ArgumentParser(prog="python -m plugin.model_repository", description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="the repository")
    folder = parser.parse_args(arguments).folder
    try:
        chosen = Settings.read({}, os.environ)
        model = weights.prepare(chosen.Weights, chosen.WeightsSha256, chosen.model_folder(ROOT))
        print(write(model, folder))  # noqa: T201
    except (BadSetting, weights.WeightsUnavailable, classifier.ModelUnavailable) as sentence:
        print(sentence, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
