"""LitServe and ONNX Runtime: one call of the tap a request, in the worker.

MODEL=model.onnx PORT=8000 python litserve_onnx.py      (TTA_STREAM__* as the agent's)
curl localhost:8000/predict -H 'content-type: application/json' -d '{"id": "r-1", "pixels": [[[...]]]}'
"""

import os

import litserve as ls
import numpy as np
import onnxruntime as ort

from tta_agent import tap


class Classifier(ls.LitAPI):
    def setup(self, device):  # in each worker: a tap does not survive a fork
        self.session = ort.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
        self.log = tap.connect()

    def decode_request(self, request):
        return request.get("id"), np.asarray([request["pixels"]], np.float32)

    def predict(self, asked):
        id, x = asked
        scores = self.session.run(None, {self.session.get_inputs()[0].name: x})[0]
        self.log.record(x, scores, id=id, version=0)
        return scores[0]

    def encode_response(self, scores):
        return {"scores": scores.tolist()}


if __name__ == "__main__":
    server = ls.LitServer(Classifier(), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
