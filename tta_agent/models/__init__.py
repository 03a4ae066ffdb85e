"""The deployed model as torch module and as ONNX graph: load, import, export, patch, freeze, run."""
