"""Groups of settings about servers over HTTP: the embedded model server, and the receiver of records."""

from __future__ import annotations

from pydantic import Field, SecretStr

from tta_agent.settings.data_groups import Group
from tta_agent.settings.secret import Address


class ServeSettings(Group):
    """The embedded model server (`tta-agent serve`)."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on."""
    threads: int = Field(default=1, ge=1)
    """ONNX Runtime threads per request."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """Device of the sessions: auto (cuda where this machine has an NVIDIA driver), cpu, cuda or cuda:N. One that does
    not start is an error, never another one."""
    workers: int = Field(default=2, ge=1)
    """Requests computed at the same time."""
    token: SecretStr | None = None
    """Bearer token that orders to load a version must carry; needed where others can reach `host`."""
    hosts: list[str] = []
    """Further names under which the server may be asked (header Host), for instance ["models.example"]; on a loopback
    address its own are always allowed, elsewhere any is unless some are given."""
    connections: int = Field(default=512, ge=8)
    """Most open connections; one address has half of them. A new one takes the place of the longest idle."""
    max_batch: int = Field(default=256, ge=1)
    """Most samples of one request; larger ones are answered 413."""
    batch_size: int = Field(default=1, ge=1)
    """Most samples of requests that are joined into one run of the model; 1: none are joined."""
    batch_delay_ms: float = Field(default=0.0, ge=0, le=1000)
    """Longest wait of a request for others to join it while a worker is free, in milliseconds."""
    body_bytes: int = Field(default=256 << 20, ge=1 << 20)
    """Memory for the bodies of requests in flight, where a byte of a tensor counts twice and one of JSON ten times;
    beyond it the largest that wait are answered 503."""
    drain_s: float = Field(default=0.0, ge=0, le=600)
    """Seconds for which it goes on answering after SIGTERM, while it says that it is not ready; requests that are in
    progress are answered in any case. Kubernetes: 5, so that others have stopped sending."""
    tap: bool = True
    """Log every inference to the stream."""


class ReceiverSettings(Group):
    """The receiver of records over HTTP (TTA_STREAM__SOURCE=http)."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8092, ge=0, le=65535)
    """Port to listen on."""
    token: SecretStr | None = None
    """Bearer token that each record must carry. Loggers that can send none need `host` to be a loopback address, or a
    network in which whoever reaches it may teach the model."""
    hosts: list[str] = []
    """Further names under which the receiver may be asked (header Host); on a loopback address its own are always
    allowed, elsewhere any is unless some are given."""
    body_bytes: int = Field(default=16 << 20, ge=1 << 10)
    """Largest record; a larger one is answered 413. All that wait have `stream.queue_bytes`."""
    url: Address | None = None
    """Where taps and senders of labels post to; the address above where not given."""
