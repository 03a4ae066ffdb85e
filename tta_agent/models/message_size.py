"""Largest graph that fits into one message: protobuf holds 2 GiB."""

from __future__ import annotations

import contextlib

import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from tta_agent.core.errors import GraphError

MESSAGE = (1 << 31) - 1  # bytes of a protobuf message
LARGEST = MESSAGE - (1 << 22)  # bytes of a graph, with room for what is added to it
TOO_LARGE = "%s %.2f GiB, and one ONNX file holds %.2f GiB at most"


def too_large(what: str, size: int) -> str:
    """Words about so many bytes that do not fit into one ONNX file."""
    return TOO_LARGE % (what, size / 2**30, LARGEST / 2**30)


def size_of(proto: onnx.ModelProto) -> int:
    """Bytes of a graph as a message; of one that no message can hold, those of its tensors."""
    try:
        return int(proto.ByteSize())
    except EncodeError:
        return sum(item.ByteSize() for item in proto.graph.initializer)


def serialised(proto: onnx.ModelProto, what: str, remedy: str) -> bytes:
    """A graph as a message. Its size is told by that: to ask for it takes as long.

    Args:
        what, remedy: words before and behind the size, where it is too large.

    Raises:
        GraphError: it is too large.
    """
    with contextlib.suppress(EncodeError):
        message = bytes(proto.SerializeToString())
        if len(message) <= LARGEST:
            return message
    raise GraphError(f"{too_large(what, size_of(proto))};\n{remedy}")
