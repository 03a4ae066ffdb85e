"""Errors of librdkafka as those of kafka-python, so that both clients recover from the same ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from confluent_kafka import KafkaError, KafkaException
from kafka import errors

# Of the library itself, not of a broker: what is in a batch cannot be read.
UNREADABLE = {
    KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION, KafkaError._UNDERFLOW, KafkaError._NOT_IMPLEMENTED,
    KafkaError.INVALID_MSG, KafkaError.INVALID_MSG_SIZE, KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
}  # fmt: skip


def as_python_error(error: KafkaError) -> errors.KafkaError:
    """The same error of kafka-python. Errors of the library itself are retriable, except fatal ones."""
    if error.code() > 0:
        return errors.for_code(error.code())(error.str())
    kind = errors.KafkaError if error.fatal() else errors.KafkaTimeoutError
    return kind(error.str())


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Raise kafka-python's KafkaError where librdkafka raises its own."""
    try:
        yield
    except KafkaException as error:
        raise as_python_error(error.args[0]) from error
