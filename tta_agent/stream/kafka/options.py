"""Options of Kafka's clients from settings: any that text can say, but those that the agent depends on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer

from tta_agent.core import plugins
from tta_agent.core.errors import ConfigError, PluginNotFound, nearest

PREFIX = "TTA_STREAM__KAFKA__"
OWN = {  # what is said elsewhere, or must stay as it is
    "bootstrap_servers": "set TTA_STREAM__BOOTSTRAP_SERVERS",
    "group_id": "set TTA_STREAM__GROUP",
    "auto_offset_reset": "set TTA_STREAM__START",
    "security_protocol": "set TTA_STREAM__SECURITY_PROTOCOL",
    "sasl_mechanism": "set TTA_STREAM__SASL_MECHANISM",
    "sasl_plain_username": "set TTA_STREAM__SASL_USERNAME",
    "sasl_plain_password": "set TTA_STREAM__SASL_PASSWORD or TTA_STREAM__SASL_PASSWORD_FILE",
    "ssl_cafile": "set TTA_STREAM__SSL_CAFILE",
    "bootstrap_timeout_ms": "set TTA_STREAM__CONNECT_TIMEOUT_S",
    "ssl_password": "a secret has no place there; use a key without a password, readable for the agent alone",
    "enable_auto_commit": "offsets are committed after the checkpoint that holds what was learnt from them",
    "partition_assignment_strategy": "assignment by ranges brings a label to the member that has its record;"
    " group_instance_id avoids rebalances at restarts",
    "transactional_id": "nothing is written in transactions",
}
NO_TEXT = {  # objects and functions
    "default_offset_commit_callback", "kafka_client", "key_deserializer", "key_serializer", "metric_reporters",
    "partitioner", "selector", "socket_options", "ssl_context", "value_deserializer", "value_serializer",
}  # fmt: skip
TOKENS = "sasl_oauth_token_provider"
TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def client_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name as kafka-python takes them.

    Args:
        given: by name, each the text of a variable or what JSON made of it.

    Raises:
        ConfigError: no client has such an option, it is none of the user's, or its value does not fit.
    """
    return {name: _value(name, value) for name, value in given.items()}


def _value(name: str, value: Any) -> Any:
    variable, defaults = f"{PREFIX}{name.upper()}", _defaults()
    if name in OWN:
        raise ConfigError(f"{variable} cannot be given: {OWN[name]}")
    if name not in defaults or name in NO_TEXT:
        known = sorted(PREFIX + one.upper() for one in defaults if one not in NO_TEXT and one not in OWN)
        raise ConfigError(f"{variable} is no option of Kafka's clients; {nearest(variable, known)}")
    if name == TOKENS:
        return _token_provider(variable, value)
    try:
        return _as(defaults[name], value)
    except (KeyError, TypeError, ValueError):
        kind = type(defaults[name]).__name__
        raise ConfigError(f"{variable}={value!r:.100}: expected {kind}, as in {defaults[name]!r}") from None


def _defaults() -> dict[str, Any]:
    clients = (KafkaAdminClient, KafkaProducer, KafkaConsumer)
    return {name: value for client in clients for name, value in client.DEFAULT_CONFIG.items()}


def _as(default: Any, value: Any) -> Any:
    """The value in the type of the option's default; where that is None, a number if it looks like one."""
    if default is None:
        return int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(default, bool):
        return value if isinstance(value, bool) else TRUTHS[str(value).lower()]
    if isinstance(default, int) and isinstance(value, bool):
        raise TypeError("a truth value is no number")
    if isinstance(default, int | float | str):
        return type(default)(value)
    raise TypeError("no text says that")


def _token_provider(variable: str, name: Any) -> Any:
    """An object of the class that `module:Class` names; it makes tokens for OAUTHBEARER."""
    try:
        return plugins.import_path(str(name))()
    except PluginNotFound as error:
        raise ConfigError(f"{variable}: {error}") from None
    except Exception as error:  # it is not ours
        raise ConfigError(f"{variable}={name}: {type(error).__name__}: {error}") from error
