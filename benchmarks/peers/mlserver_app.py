"""The article network and the image model as MLServer runtimes, imported by MLServer."""

from __future__ import annotations

import numpy as np
from engine import load
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Article(MLModel):
    """The article network, with FP32 tensors."""

    async def load(self) -> bool:
        self.model = load("article")
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32, copy=False)
        output = NumpyCodec.encode_output("y_pred", self.model(rows))
        return InferenceResponse(model_name=self.name, outputs=[output])


class Image(MLModel):
    """The image model, with FP32 tensors or with BYTES that contain their bytes as base64."""

    async def load(self) -> bool:
        self.model = load("image")
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = payload.inputs[0]
        if tensor.datatype == "BYTES":
            data = b"".join(Base64Codec.decode_input(tensor))
            rows = np.frombuffer(data, dtype="<f4").reshape(-1, 3, 224, 224)
        else:
            rows = NumpyCodec.decode_input(tensor).astype(np.float32, copy=False)
        output = NumpyCodec.encode_output("y", self.model(rows))
        return InferenceResponse(model_name=self.name, outputs=[output])
