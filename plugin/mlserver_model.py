"""A prepared model in MLServer, which knows many frameworks but not ONNX Runtime.

`plugin.model_repository` copies this file beside the model: there, it runs in MLServer's own environment, which needs
`mlserver` and `onnxruntime`, and imports nothing of this project.
"""

from __future__ import annotations

import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class OnnxModel(MLModel):  # type: ignore[misc]  # MLServer is not here where types are checked
    """The file that the setting `uri` names, on one core: MLServer's `parallel_workers` are for the others."""

    async def load(self) -> bool:
        """Read the model."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = await get_model_uri(self.settings)
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The outputs that are asked for, or all."""
        inputs = {one.name: self.decode(one, default_codec=NumpyCodec) for one in payload.inputs}
        names = [one.name for one in payload.outputs or ()] or [one.name for one in self._session.get_outputs()]
        found = zip(names, self._session.run(names, inputs), strict=True)
        outputs = [NumpyCodec.encode_output(name, array) for name, array in found]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
