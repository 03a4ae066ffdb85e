"""Server with KServe's Python SDK and ONNX Runtime: the graph that the link MODELS/NAME/current leads to.

usage: kserve_onnx.py MODELS NAME (KServe's own arguments follow)
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]
from kserve import InferOutput, InferResponse, Model, ModelRepository, ModelServer  # type: ignore[import-not-found]


class OnnxModel(Model):  # type: ignore[misc]
    """One input, one output."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        found = (folder / "current").resolve() if (folder / "current").exists() else folder / "1"
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.version = found.name
        self.session = ort.InferenceSession(str(found / "model.onnx"), options, ["CPUExecutionProvider"])
        self.ready = True

    async def get_input_types(self) -> list[dict[str, Any]]:
        """What metadata says."""
        node = self.session.get_inputs()[0]
        return [
            {
                "name": node.name,
                "datatype": "FP32",
                "shape": [s if isinstance(s, int) else -1 for s in node.shape],
            }
        ]

    def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
        """Answer, with the version."""
        tensor = payload.inputs[0]
        scores = self.session.run(None, {self.session.get_inputs()[0].name: tensor.as_numpy()})[0]
        output = InferOutput("scores", list(scores.shape), "FP32")
        output.set_data_from_numpy(scores, binary_data=False)
        return InferResponse(payload.id or str(uuid4()), self.name, [output], model_version=self.version)


class Repository(ModelRepository):  # type: ignore[misc]
    """A load opens the new version beside the old one, then replaces it."""

    async def load(self, name: str) -> bool:
        """Open what the link leads to, without holding up requests."""
        self.update(await asyncio.to_thread(OnnxModel, name, Path(self.models_dir) / name))
        return True


if __name__ == "__main__":
    folder, name = sys.argv[1:3]
    sys.argv[1:3] = []
    repository = Repository(folder)
    ModelServer(registered_models=repository, enable_grpc=False).start([OnnxModel(name, Path(folder) / name)])
