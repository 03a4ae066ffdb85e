"""Protocols of the stream: consumers, producers and wire formats. A plugin need not inherit from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from tta_agent.core.exchange import Item
from tta_agent.core.types import Array, Done, Headers, Message, Partition, Positions, RawRecord, Shape

if TYPE_CHECKING:
    pass


class StreamConsumer(Protocol):
    """Member of a consumer group on a partitioned log. Not thread-safe: one thread owns it."""

    def poll(self, timeout_s: float) -> Sequence[RawRecord]:
        """Records in offset order per partition; empty after `timeout_s` at most. Never blocks longer.

        Partitions that are paused deliver nothing. Raises StreamError where the log cannot be reached.
        """

    def pause(self) -> None:
        """Stop delivering; poll still must be called (it keeps the group membership alive). Idempotent."""

    def resume(self) -> None:
        """Deliver again; no record is lost. Idempotent."""

    def lag(self) -> int:
        """Records between the positions of this member and the end of its partitions."""

    def assignment(self) -> Sequence[Partition]:
        """The partitions that this member owns now; may be empty before the first poll."""

    def positions(self) -> Positions:
        """The next offset to read of each partition that this member owns, also of those never read from."""

    def topic_ids(self) -> Mapping[str, str]:
        """Identity of each topic that is read: another one once the topic is made anew. May lack topics."""

    def seek(self, positions: Positions, topic_ids: Mapping[str, str] | None = None) -> None:
        """Read on from these offsets, also before the first poll and for partitions assigned later.

        Args:
            topic_ids: of the time of the positions; a topic with another one is read from its beginning.
        """

    def commit(self, positions: Positions) -> None:
        """Store the next offsets to read for the group; ignores partitions that are no longer owned."""

    def close(self) -> None:
        """Leave the group. Idempotent; nothing may be called afterwards."""


@runtime_checkable
class LossyConsumer(Protocol):
    """A consumer that drops records where it is full.

    Attributes:
        on_lost: called by `poll` with a name for counters and the number of records that were dropped.
    """

    on_lost: Callable[[str, int], None]


class Producer(Protocol):
    """Producer to the topics of a log. Thread-safe."""

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        on_done: Done | None = None,
    ) -> None:
        """Append, in order per key. May buffer; raises StreamError where the log cannot be reached."""

    def flush(self) -> None:
        """Return when all records sent are durable."""

    def close(self) -> None:
        """Flush and free. Idempotent."""


class Codec(Protocol):
    """A wire format: raw records of the log to samples and labels.

    Built as `Class(**options)`, without side effects; called from one thread at a time. Where the constructor has a
    parameter `output`, it is given the name of the output tensor that is the answer, or None; where it has `images`,
    the preprocessing of encoded images. A class attribute
    `by_headers = True` says that headers alone tell the format, whatever the value holds: `auto` asks such codecs
    first.
    """

    def recognises(self, raw: RawRecord) -> bool:
        """Whether the record is of this format, well-formed or not. Cheap; raises nothing."""

    def decode(self, raw: RawRecord, shape: Shape | None, classes: int | None) -> Sequence[Item]:
        """Samples or labels of one record, checked against the model's input; nothing for a record of neither.

        A request or a response that is logged apart is an item of its own (`core.exchange`): the decoder joins them.

        Args:
            shape: of one sample, without the batch axis; None takes any.
            classes: logits of one sample; None takes any number.

        Raises:
            DecodeError: the record cannot be read; `reason` is a short stable word for counters.
        """


@runtime_checkable
class WritingCodec(Codec, Protocol):
    """A wire format that is written, too: by the server's tap, in replay, and for labels and requests for them.

    The key of every message is the inference id in UTF-8, so that a label meets its record in the same partition.
    """

    def encode_inference(
        self,
        id: str,
        x: Array,
        logits: Array | None,
        version: int | str | None,
        *,
        source: str,
        model: str,
        time_s: float,
        traceparent: str | None = None,
        entity: str | None = None,
    ) -> Message:
        """One request of N samples.

        Args:
            x, logits: inputs [N, ...] and answers [N, C], or None where the answer is not known.
            version: number of the version that answered, or its name, or None.
            source, model: URI of the producer, and name of the model there.
            time_s: seconds since the epoch.
            traceparent: W3C trace context of the request.
            entity: session, device or person that the request is about.
        """

    def encode_label(self, id: str, label: int | Sequence[int] | frozenset[int], time_s: float) -> Message:
        """Label of one inference: a class, one for each of its N samples, or the set of labels that hold."""

    def encode_label_request(self, id: str, request: Mapping[str, Any], time_s: float) -> Message:
        """A request for the label of one inference; `request` holds plain values for whoever answers it."""
