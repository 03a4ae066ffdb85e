"""BentoML and ONNX Runtime: one call of the tap a request, in the service.

MODEL=model.onnx bentoml serve bentoml_onnx:Classifier --port 3000      (TTA_STREAM__* as the agent's)
curl localhost:3000/predict -H 'content-type: application/json' -d '{"id": "r-1", "pixels": [[[...]]]}'
"""

import os

import bentoml
import numpy as np
import onnxruntime as ort

from tta_agent import tap


@bentoml.service
class Classifier:
    def __init__(self) -> None:  # in each worker: a tap does not survive a fork
        self.session = ort.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
        self.log = tap.connect()

    @bentoml.api
    def predict(self, id: str, pixels: list[list[list[float]]]) -> list[float]:
        x = np.asarray([pixels], np.float32)
        scores = self.session.run(None, {self.session.get_inputs()[0].name: x})[0]
        self.log.record(x, scores, id=id, version=0)
        return scores[0].tolist()
