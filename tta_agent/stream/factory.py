"""Factories of consumers, producers and wire formats, by the settings."""

from __future__ import annotations

import inspect
import logging
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from tta_agent.core import plugins
from tta_agent.core.errors import ConfigError, PluginNotFound
from tta_agent.core.os_errors import describe
from tta_agent.core.stream_protocols import Codec, Producer, StreamConsumer, WritingCodec
from tta_agent.settings.data_groups import StreamSettings
from tta_agent.settings.schema import Settings
from tta_agent.stream import topic_names
from tta_agent.stream.codecs.auto import AutoCodec
from tta_agent.stream.codecs.images import ImagePreprocessing

AUTO = "auto"  # recognises each record's format
DEFAULT = "cloudevents"  # is written where the settings say `auto`
log = logging.getLogger(__name__)


def open_source(settings: Settings, topics: Sequence[str], group: str | None = None) -> StreamConsumer:
    """Join the consumer group of `topics`: on Kafka, on the embedded log, or as the receiver of what is posted.

    Raises:
        ConfigError: settings that do not fit, or the receiver's address cannot be had.
        StreamError: the broker or the log cannot be reached.
    """
    s = settings.stream
    names = topic_names.named(topics)
    if s.kind != "kafka" and topic_names.pattern(settings, topics):
        raise ConfigError(
            f"TTA_STREAM__TOPIC={s.topic} is a regular expression and needs Kafka; expected names"
        )
    if s.kind == "http":
        from tta_agent.stream.http.opening import open_receiver

        return open_receiver(settings, names)
    if s.kafka and not s.bootstrap_servers:
        raise ConfigError(
            f"TTA_STREAM__KAFKA__{next(iter(s.kafka)).upper()} needs TTA_STREAM__BOOTSTRAP_SERVERS"
        )
    if s.kind == "kafka":
        from tta_agent.stream.kafka.opening import open_consumer

        return open_consumer(settings, _brokers(s), topics, group or s.group, connection(s))
    from tta_agent.stream.embedded.consumer import EmbeddedStreamConsumer

    settings.store.path.mkdir(parents=True, exist_ok=True)
    path = settings.store.path / "log.db"
    return EmbeddedStreamConsumer(path, names, group or s.group, start=s.start, partitions=s.partitions)


def kept_or_refused(settings: Settings) -> None:
    """Refuse a stream whose records nobody can look at once more.

    Raises:
        ConfigError: records come by HTTP.
    """
    if settings.stream.kind == "http":
        raise ConfigError(
            "TTA_STREAM__SOURCE=http keeps no records that could be read beside the agent;\n"
            "see GET / of the receiver, status.json, and the dead letters in the embedded log"
        )


def _brokers(stream: StreamSettings) -> str:
    if not stream.bootstrap_servers:
        raise ConfigError("TTA_STREAM__SOURCE=kafka needs TTA_STREAM__BOOTSTRAP_SERVERS")
    return stream.bootstrap_servers


def open_producer(settings: Settings, topics: Sequence[str]) -> Producer:
    """Open a producer of records and labels to the same stream.

    Args:
        topics: what is written to; missing ones are created, and those that cannot be are named in a warning.

    Raises:
        StreamError: the broker or the log cannot be reached.
    """
    if settings.stream.kind == "http":
        from tta_agent.stream.http.opening import open_poster

        return open_poster(settings)
    return open_log(settings, topics)


def open_log(settings: Settings, topics: Sequence[str]) -> Producer:
    """Open a producer of what the agent writes: to Kafka where brokers are named, else to the embedded log.

    Args:
        topics: as for `open_producer`.

    Raises:
        StreamError: the broker or the log cannot be reached.
    """
    s = settings.stream
    if s.bootstrap_servers and s.source != "embedded":
        from tta_agent.stream.kafka.opening import create_to_write
        from tta_agent.stream.kafka.producer import KafkaStreamProducer

        create_to_write(s, topics, connection(s))
        return KafkaStreamProducer(s.bootstrap_servers, **connection(s))
    from tta_agent.stream.embedded.consumer import EmbeddedProducer

    settings.store.path.mkdir(parents=True, exist_ok=True)
    return EmbeddedProducer(settings.store.path / "log.db", partitions=s.partitions)


def open_codec(settings: Settings, output: str | None = None) -> Codec:
    """Open the wire format to read; every installed one for `auto`.

    Args:
        output: name of the output that is the answer, where the model has been asked; else TTA_MODEL__OUTPUT.

    Raises:
        ConfigError: no such codec, or its options do not fit.
    """
    name, output = settings.stream.codec, output or settings.model.output
    if name != AUTO:
        return _codec(settings, name, output)
    found = {name: _installed(settings, name, output) for name in plugins.available("codecs")}
    return AutoCodec({name: codec for name, codec in found.items() if codec is not None})


def open_writer(settings: Settings, *, or_default: bool = False) -> WritingCodec:
    """Open the wire format to write; the default one for `auto`.

    Args:
        or_default: also where the format of the settings can only be read.

    Raises:
        ConfigError: no such codec, its options do not fit, or it can only be read.
    """
    name = settings.stream.codec
    codec = _codec(settings, DEFAULT if name == AUTO else name)
    if isinstance(codec, WritingCodec):
        return codec
    if or_default:
        stream = settings.stream.model_copy(update={"codec": DEFAULT})
        return open_writer(settings.model_copy(update={"stream": stream}))
    raise ConfigError(
        f"TTA_STREAM__CODEC={name} can only be read, and here records are written (TTA_SERVE__TAP, `traffic`);\n"
        f"expected {AUTO}, which writes {DEFAULT}, or a codec with encode_inference and encode_label"
    )


def codec_names(codec: Codec, settings: Settings) -> str:
    """Names of the formats that a codec of `open_codec` reads, for messages."""
    return ", ".join(codec.names) if isinstance(codec, AutoCodec) else settings.stream.codec


def _codec(settings: Settings, name: str, output: str | None = None) -> Codec:
    asks = inspect.signature(plugins.load("codecs", name)).parameters
    known = {"output": output, "images": _images(settings)}
    own = {key: value for key, value in known.items() if key in asks and value is not None}
    if name == "image":
        return cast(
            Codec, plugins.make("codecs", name, {name: own})
        )  # its options are the preprocessing itself
    options = {name: {**own, **settings.stream.options.get(name, {})}}
    codec: Codec = plugins.make("codecs", name, options)
    return codec


def _images(settings: Settings) -> ImagePreprocessing | None:
    given = settings.stream.options.get("image")
    if given is None:
        return None
    try:
        return ImagePreprocessing(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"TTA_STREAM__OPTIONS: image: {error}") from None


def _installed(settings: Settings, name: str, output: str | None) -> Codec | None:
    try:
        return _codec(settings, name, output)
    except PluginNotFound as error:  # what it imports is missing: whoever needs that format names it
        log.warning("codec %s is left out: %s", name, error)
        return None


def connection(stream: StreamSettings) -> dict[str, Any]:
    """Connection options: timeout, and security in the names of kafka-python.

    Raises:
        ConfigError: a file of a password or of certificates that cannot be read, or an option that does not fit.
    """
    given = {
        "security_protocol": stream.security_protocol,
        "sasl_mechanism": stream.sasl_mechanism,
        "sasl_plain_username": stream.sasl_username,
        "sasl_plain_password": _password(stream),
        "ssl_cafile": _authority(stream.ssl_cafile),
    }
    options = {name: value for name, value in given.items() if value is not None}
    if stream.kafka:
        from tta_agent.stream.kafka.options import client_options  # slow to import

        options |= client_options(stream.kafka)
    return {"connect_timeout_s": stream.connect_timeout_s, "client_options": options}


def _authority(path: Path | None) -> str | None:
    """The file of the certificate authority, tried: Kafka's client would call it a broker that does not answer."""
    if path is None:
        return None
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # SSLError is one
        told = (
            f"no certificate in it ({error.reason})" if isinstance(error, ssl.SSLError) else describe(error)
        )
        raise ConfigError(f"TTA_STREAM__SSL_CAFILE={path}: {told}") from None
    return str(path)


def _password(stream: StreamSettings) -> str | None:
    if stream.sasl_password is not None:
        return stream.sasl_password.get_secret_value()
    if stream.sasl_password_file is None:
        return None
    try:
        return stream.sasl_password_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        told = describe(error) if isinstance(error, OSError) else "no text in UTF-8"
        raise ConfigError(f"TTA_STREAM__SASL_PASSWORD_FILE={stream.sasl_password_file}: {told}") from None
