"""The prepared model within Triton's Python backend, in place of its ONNX Runtime backend; copied beside the model."""

# mypy: ignore-errors
import sys

sys.path.insert(0, "PACKAGES")

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        path = f"{args['model_repository']}/{args['model_version']}/model.onnx"
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]

    def execute(self, requests):
        """All requests at once, as Triton put them together."""
        images = [triton.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        ends = np.cumsum([len(image) for image in images])[:-1]
        found = self.session.run(self.outputs, {"image": np.concatenate(images)})
        shares = zip(*(np.split(values, ends) for values in found), strict=True)
        return [triton.InferenceResponse(list(map(triton.Tensor, self.outputs, share))) for share in shares]
