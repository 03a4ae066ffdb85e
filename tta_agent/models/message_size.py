"""Largest graph that fits into one message: protobuf holds 2 GiB."""

from __future__ import annotations

import onnx

from tta_agent.core.errors import GraphError

MESSAGE = (1 << 31) - 1  # bytes of a protobuf message
LARGEST = MESSAGE - (1 << 22)  # bytes of a graph, with room for what is added to it
TOO_LARGE = "%s %.2f GiB, and one ONNX file holds %.2f GiB at most"


def too_large(what: str, size: int) -> str:
    """Words about so many bytes that do not fit into one ONNX file."""
    return TOO_LARGE % (what, size / 2**30, LARGEST / 2**30)


def serialised(proto: onnx.ModelProto, what: str, remedy: str) -> bytes:
    """A graph as a message.

    Args:
        what, remedy: words before and behind the size, where it is too large.

    Raises:
        GraphError: it is too large.
    """
    if (size := proto.ByteSize()) > LARGEST:
        raise GraphError(f"{too_large(what, size)};\n{remedy}")
    return bytes(proto.SerializeToString())
