"""Custom runtime of MLServer with ONNX Runtime: one call of the tap a request, in the model class.

model-settings.json: {"name": "m", "implementation": "mlserver_onnx_tap.OnnxModel",
                      "parameters": {"uri": "./model.onnx"}}
mlserver start .      (TTA_STREAM__* as the agent's)
"""

from uuid import uuid4

import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri

from tta_agent import tap


class OnnxModel(MLModel):
    async def load(self) -> bool:
        self.log = tap.connect(model=self.name)
        self.session = ort.InferenceSession(
            await get_model_uri(self.settings), providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x, id = NumpyCodec.decode_input(payload.inputs[0]), payload.id or str(uuid4())
        scores = self.session.run(None, {self.session.get_inputs()[0].name: x})[0]
        self.log.record(x, scores, id=id, version=0)  # or the number of the folder that holds the graph
        output = NumpyCodec.encode_output("scores", scores)
        return InferenceResponse(id=id, model_name=self.name, model_version="0", outputs=[output])

    async def unload(self) -> bool:
        self.log.close()
        return True
