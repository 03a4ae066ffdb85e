"""Model class of MLServer that answers with ONNX Runtime: the graph that model-settings.json names."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]
from mlserver import MLModel  # type: ignore[import-not-found]
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]
from mlserver.types import InferenceResponse, MetadataTensor  # type: ignore[import-not-found]
from mlserver.utils import get_model_uri  # type: ignore[import-not-found]


class OnnxModel(MLModel):  # type: ignore[misc]
    """One input, one output."""

    async def load(self) -> bool:
        """Open the graph, without holding up requests."""
        uri = await get_model_uri(self.settings)  # MODELS/NAME/NUMBER/model.onnx
        self.number = Path(uri).parent.name
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        self.session = await asyncio.to_thread(ort.InferenceSession, uri, options, providers)
        node = self.session.get_inputs()[0]
        shape = [size if isinstance(size, int) else -1 for size in node.shape]
        self.inputs = [MetadataTensor(name=node.name, datatype="FP32", shape=shape)]
        return True

    async def predict(self, payload: Any) -> Any:
        """Answer, with the version."""
        x = NumpyCodec.decode_input(payload.inputs[0])
        scores = self.session.run(None, {self.inputs[0].name: x})[0]
        output = NumpyCodec.encode_output("scores", scores)
        return InferenceResponse(model_name=self.name, model_version=self.number, outputs=[output])
