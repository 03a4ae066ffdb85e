"""Execution provider and options of ONNX Runtime sessions."""

from __future__ import annotations

import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]

from tta_agent.core.errors import GraphError

_SEVERITY_ERROR, _SEVERITY_FATAL = 3, 4


def provider(device: str) -> tuple[str, dict[str, str]]:
    """Execution provider of a device, `cpu`, `cuda` or `cuda:N`, and its options.

    Raises:
        GraphError: no such device.
    """
    kind, _, index = device.partition(":")
    if kind == "cpu" and not index:
        return "CPUExecutionProvider", {}
    if kind != "cuda" or (index and not index.isdecimal()):
        raise GraphError(f"device is {device!r}; valid: cpu, cuda, cuda:N")
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds the CUDA libraries that come as Python packages
    # The exhaustive search, which is the default, makes the first call after each swap slow.
    return "CUDAExecutionProvider", {"device_id": index or "0", "cudnn_conv_algo_search": "HEURISTIC"}


def options(threads: int, *, quiet: bool) -> ort.SessionOptions:
    """Options of a session; `quiet` where its exceptions tell as much as its log."""
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.inter_op_num_threads = 1
    chosen.log_severity_level = _SEVERITY_FATAL if quiet else _SEVERITY_ERROR
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return chosen
