"""Repository calls of Triton over gRPC: they leave the HTTP threads, which answer requests, alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tta_agent.core.errors import SwapError

LOOK_S = 3.0  # for an answer that takes no work
_SERVICE = "/inference.GRPCInferenceService/"
_UNLIMITED = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
]


class TritonGrpc:
    """Load and unload of models; connects at the first call only.

    Args:
        address: host:port.
        metadata: sent with each call.
    """

    def __init__(self, address: str, timeout_s: float, metadata: Mapping[str, str]) -> None:
        self.address, self._timeout_s, self._metadata = address, timeout_s, tuple(metadata.items())
        self._channel: Any = None

    def load(self, model: str, parameters: Mapping[str, str | bytes] | None = None) -> None:
        """Load the model, or load it anew; returns when the server has done so.

        Args:
            parameters: `config` (JSON) and `file:NUMBER/NAME` (content), for a model that is on no disk.

        Raises:
            SwapError: the server refuses, with its own words, or is not there.
        """
        entries = [_parameter(name, value) for name, value in (parameters or {}).items()]
        self._call("RepositoryModelLoad", _bytes(2, model.encode()) + b"".join(entries))

    def unload(self, model: str) -> None:
        """Unload the model; raises as `load` does."""
        self._call("RepositoryModelUnload", _bytes(2, model.encode()))

    def reachable(self) -> bool:
        """Whether a gRPC server answers there."""
        try:
            self._call("ServerLive", b"", min(LOOK_S, self._timeout_s))
        except SwapError:
            return False
        return True

    def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            self._channel.close()

    def _call(self, method: str, message: bytes, timeout_s: float | None = None) -> None:
        import grpc  # type: ignore[import-untyped,unused-ignore]  # slow, and only this driver needs it

        if self._channel is None:
            self._channel = grpc.insecure_channel(self.address, options=_UNLIMITED)
        call = self._channel.unary_unary(
            _SERVICE + method, request_serializer=bytes, response_deserializer=bytes
        )
        try:
            call(message, timeout=timeout_s or self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            told = " ".join(str(error.details()).split())
            raise SwapError(
                f"{method} at {self.address} fails ({error.code().name}): {told[:500]}"
            ) from error


def _parameter(name: str, value: str | bytes) -> bytes:
    """Entry of `map<string, ModelRepositoryParameter> parameters = 3`: a value has text in field 3, bytes in 4."""
    wrapped = _bytes(3, value.encode()) if isinstance(value, str) else _bytes(4, value)
    return _bytes(3, _bytes(1, name.encode()) + _bytes(2, wrapped))


def _bytes(field: int, data: bytes) -> bytes:
    """A length-delimited field of Protocol Buffers."""
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])
