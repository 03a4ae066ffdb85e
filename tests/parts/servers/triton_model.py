"""Model of Triton's Python backend that answers with ONNX Runtime; it lies beside model.onnx as model.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]
import triton_python_backend_utils as pb  # type: ignore[import-not-found]


class TritonPythonModel:
    """Opens the graph beside it; tensors of any name, one each."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        path = f"{args['model_repository']}/{args['model_version']}/model.onnx"
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer each request on its own."""
        return [self._answer(pb.get_input_tensor_by_name(request, "image")) for request in requests]

    def _answer(self, tensor: Any) -> Any:
        # By DLPack: this backend's own conversions read arrays of numpy 2 as empty.
        scores = self.session.run(None, {self.input: np.from_dlpack(tensor)})[0]
        return pb.InferenceResponse([pb.Tensor.from_dlpack("scores", scores)])
