"""Options of kafka-python's consumer in the names of librdkafka."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from tta_agent.core.errors import ConfigError
from tta_agent.stream.kafka.options import TOKENS

SAME = {  # but for dots
    "allow_auto_create_topics", "auto_commit_interval_ms", "auto_offset_reset", "check_crcs", "client_dns_lookup",
    "client_id", "client_rack", "connections_max_idle_ms", "enable_auto_commit", "fetch_max_bytes",
    "fetch_min_bytes", "group_id", "group_instance_id", "heartbeat_interval_ms", "isolation_level",
    "max_in_flight_requests_per_connection", "max_partition_fetch_bytes", "max_poll_interval_ms",
    "receive_message_max_bytes", "reconnect_backoff_max_ms", "reconnect_backoff_ms", "retry_backoff_ms",
    "sasl_mechanism", "security_protocol", "session_timeout_ms",
}  # fmt: skip
RENAMED = {
    "fetch_max_wait_ms": "fetch.wait.max.ms",
    "metadata_max_age_ms": "topic.metadata.refresh.interval.ms",
    "receive_buffer_bytes": "socket.receive.buffer.bytes",
    "request_timeout_ms": "socket.timeout.ms",
    "sasl_plain_password": "sasl.password",
    "sasl_plain_username": "sasl.username",
    "send_buffer_bytes": "socket.send.buffer.bytes",
    "ssl_cafile": "ssl.ca.location",
    "ssl_certfile": "ssl.certificate.location",
    "ssl_ciphers": "ssl.cipher.suites",
    "ssl_crlfile": "ssl.crl.location",
    "ssl_keyfile": "ssl.key.location",
}
OURS = {  # seen to without the library, or of kafka-python's metrics, which nobody asks here
    "bootstrap_timeout_ms", "consumer_timeout_ms", "exclude_internal_topics", "max_poll_records",
    "metric_group_prefix", "metrics_enabled", "metrics_num_samples", "metrics_sample_window_ms",
}  # fmt: skip
# Of kafka-python where librdkafka's differ.
DEFAULTS: Mapping[str, object] = {"check_crcs": True, "isolation_level": "read_uncommitted"}
OPAQUE_TOKEN_S = 60.0  # a token that does not say when it expires


def translated(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as librdkafka takes them.

    Args:
        options: by kafka-python's names.

    Raises:
        ConfigError: librdkafka has no counterpart of one of them.
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        if value is not None and name not in OURS:
            found |= _one(name, value)
    return found


def _one(name: str, value: Any) -> dict[str, Any]:
    if name in SAME:
        return {name.replace("_", "."): value}
    if name in RENAMED:
        return {RENAMED[name]: value}
    if name == "ssl_check_hostname":
        return {"ssl.endpoint.identification.algorithm": "https" if value else "none"}
    if name == TOKENS:
        return {"oauth_cb": _tokens(value)}
    told = f"TTA_STREAM__KAFKA__{name.upper()} has no counterpart in confluent-kafka"
    raise ConfigError(f"{told}\nunset it, or set TTA_STREAM__CLIENT=kafka-python")


def _tokens(provider: Any) -> Callable[[str], tuple[str, float, str, dict[str, str]]]:
    """Function that librdkafka calls for a token, before the one that it has expires."""

    def token(_: str) -> tuple[str, float, str, dict[str, str]]:
        text = str(provider.token())
        claims = _claims(text)
        expires_s = float(claims.get("exp", time.time() + OPAQUE_TOKEN_S))
        return text, expires_s, str(claims.get("sub", "")), dict(provider.extensions())

    return token


def _claims(token: str) -> Mapping[str, Any]:
    """What a JSON web token says; nothing for any other."""
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}
