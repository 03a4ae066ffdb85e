"""KServe's Python server with ONNX Runtime, logged by the middleware: for where its own logger is not in the pod.

MODEL=model.onnx python kserve_onnx_tap.py --model_name m --http_port 8080      (TTA_STREAM__* as the agent's)
"""

import os
from uuid import uuid4

import onnxruntime as ort
from kserve import InferOutput, InferResponse, Model, ModelServer
from kserve.model_server import app, parser

from tta_agent.tap import TapMiddleware


class OnnxModel(Model):
    def load(self) -> None:
        self.session = ort.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        tensor = payload.inputs[0]
        scores = self.session.run(None, {self.session.get_inputs()[0].name: tensor.as_numpy()})[0]
        output = InferOutput("scores", list(scores.shape), "FP32")
        binary = payload.use_binary_outputs
        output.set_data_from_numpy(scores, binary_data=binary)
        about = {"model_version": "0", "use_binary_outputs": binary}
        return InferResponse(payload.id or str(uuid4()), self.name, [output], **about)


if __name__ == "__main__":
    model = OnnxModel(parser.parse_known_args()[0].model_name)
    model.load()
    app.add_middleware(TapMiddleware)
    ModelServer(enable_grpc=False).start([model])
