"""Embedded model server: Open Inference Protocol over ONNX Runtime, and a tap that logs to the stream."""
