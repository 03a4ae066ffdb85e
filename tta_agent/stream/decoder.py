"""Decoder of raw records. A record that cannot be read becomes a dead letter, and reading goes on."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from tta_agent.core import task
from tta_agent.core.errors import DecodeError
from tta_agent.core.exchange import LoggedRequest, LoggedResponse
from tta_agent.core.positions import least
from tta_agent.core.stream_protocols import Codec, Producer
from tta_agent.core.types import FOREIGN, Label, Positions, RawRecord, Record, Shape
from tta_agent.models.outputs import ModelOutput
from tta_agent.stream.dead_letters import MAX_MESSAGE, dead_letter
from tta_agent.stream.input_check import InputCheck
from tta_agent.stream.input_reading import InputReading
from tta_agent.stream.response_join import ResponseJoiner
from tta_agent.stream.understood import StreamSummary, summarise

__all__ = ["INTERNAL", "UNREADABLE", "Decoder", "dead_letter"]
log = logging.getLogger(__name__)
PORTION_BYTES = 8 << 20  # of decoded items that are handed on at once: more than most polls become
UNREADABLE = "tta_unreadable"  # header of a record that stands for others, with the reason
LOOKED_AT = 20  # first records of the summary
INTERNAL = "internal"  # reason of records that a codec stumbled over without a DecodeError


class Decoder:
    """Decoder of records. No record can end the process: any exception is counted, and the record is kept.

    Requests and responses that are logged apart are joined; the first records may wait for the check of their inputs.

    Args:
        shape: of one sample, without the batch axis; None takes any.
        classes: number of classes; None takes any.
        producer, topic: destination of dead letters, or several by topic of the record, "" for all others; without
            them unreadable records are only counted.
        dropped: called with `dead_letter` and a count where a dead letter could not be written.
        output: the model's; served answers become logits by its kind. None leaves them raw.
        joiner: of requests and responses.
        check: of inputs and answers; None takes them as they are.
        number: number of the version that a name or a number in the log means; None takes numbers as they are, and
            names as foreign.

    Attributes:
        refused: unreadable records by reason.
        first: place and error of the first of them.
        summary: of the first records that were read.
    """

    def __init__(
        self,
        codec: Codec,
        shape: Shape | None,
        classes: int | None,
        producer: Producer | None = None,
        topic: str | Mapping[str, str] | None = None,
        dropped: Callable[[str, int], None] = lambda reason, count: None,
        *,
        output: ModelOutput | None = None,
        joiner: ResponseJoiner | None = None,
        check: InputCheck | None = None,
        number: Callable[[str], int] | None = None,
    ) -> None:
        self._codec, self._shape, self._classes, self._output = codec, shape, classes, output
        self._producer, self._dropped = producer, dropped
        self._letters = {"": topic} if isinstance(topic, str) else dict(topic or {})
        self._joiner, self._check, self._number = joiner or ResponseJoiner(), check, number
        self.refused: Counter[str] = Counter()
        self.first = ""
        self.summary: StreamSummary | None = None
        self._first: list[Record] = []
        self._told = False
        self._outcomes: dict[str, Counter[str]] = {}

    def read(self, raws: Iterable[RawRecord]) -> list[Record | Label]:
        """Samples and labels of all readable records, in their order."""
        return self._finished([item for raw in raws for item in self._one(raw)])

    def read_portion(self, backlog: deque[RawRecord]) -> list[Record | Label]:
        """Samples and labels of the first records, which are taken away: a few bytes may become very many."""
        items: list[Record | Label] = []
        nbytes = 0
        while backlog and nbytes < PORTION_BYTES:
            found = self._one(backlog.popleft())
            nbytes += sum(item.nbytes for item in found)
            items += found
        return self._finished(items)

    def flush(self) -> list[Record | Label]:
        """Samples of all requests that still wait for their response, at the end of a stream."""
        return self._finished([*self._joiner.flush()])

    def oldest(self) -> Positions:
        """Offset of the first record of each partition that waits here: for its other half, or for the check."""
        return least(self._joiner.oldest(), self._check.oldest() if self._check else {})

    @property
    def joined(self) -> Mapping[str, int]:
        """Counts of the join of requests and responses."""
        return self._joiner.counts

    def take_outcomes(self) -> dict[str, Counter[str]]:
        """Records by topic since the last call: those that were `read`, and the others by reason."""
        taken, self._outcomes = self._outcomes, {}
        return taken

    def _finished(self, items: list[Record | Label]) -> list[Record | Label]:
        """The items, with requests that have waited for long enough, as the agent learns from them."""
        items += self._joiner.expired()
        for raw, error in self._joiner.take_orphans():
            self._outcomes.setdefault(raw.topic, Counter())
            self._refuse(raw, error)
        records = [self._numbered(item) for item in items if isinstance(item, Record)]
        labels = [item for item in items if isinstance(item, Label)]
        self._look(records)
        if self._check is None:
            return self._in_order(items, [self._with_logits(record) for record in records])
        taken = self._check.take(records)
        self._tell(self._check.reading)
        return [*taken, *labels]

    def _look(self, records: list[Record]) -> None:
        """Keep a summary of the first records, not longer than they are needed for it."""
        if self._told or not records:
            return
        self._first += records[: LOOKED_AT - len(self._first)]
        self.summary = summarise(self._first, getattr(self._codec, "seen", ()))
        if self._check is None and len(self._first) == LOOKED_AT:
            self._told, self._first = True, []

    def _tell(self, reading: InputReading | None) -> None:
        if reading is None or self._told or self.summary is None:
            return
        self._told, self._first = True, []
        log.info("the stream is %s", self.summary.line(reading.prepare.way))

    @staticmethod
    def _in_order(items: list[Record | Label], records: list[Record]) -> list[Record | Label]:
        made = iter(records)
        return [next(made) if isinstance(item, Record) else item for item in items]

    def _one(self, raw: RawRecord) -> Sequence[Record | Label]:
        outcomes = self._outcomes.setdefault(raw.topic, Counter())
        try:
            found = self._decoded(raw)
            outcomes["read"] += 1
            return found
        except DecodeError as error:
            self._refuse(raw, error)
        except Exception as error:  # a codec may be anybody's, and so may the bytes
            told = DecodeError(INTERNAL, f"{type(error).__name__}: {error}")
            told.__cause__ = error
            self._refuse(raw, told)
        return ()

    def _decoded(self, raw: RawRecord) -> list[Record | Label]:
        if raw.headers[:1] and raw.headers[0][0] == UNREADABLE:
            raise DecodeError("unreadable", raw.headers[0][1].decode(errors="backslashreplace"))
        found: list[Record | Label] = []
        for item in self._codec.decode(raw, self._shape, self._classes):
            if isinstance(item, LoggedRequest):
                self._check_all(item.records)
            halves = isinstance(item, LoggedRequest | LoggedResponse)
            found += self._joiner.take(item, raw) if halves else [item]  # type: ignore[arg-type, list-item]
        self._check_all(found)
        return found

    def _check_all(self, items: Iterable[Record | Label]) -> None:
        for item in items:
            self._check_one(item)
            self._check_answer(item)

    def _check_one(self, item: Record | Label) -> None:
        """Hold what every later stage relies on, whichever codec made the item.

        Raises:
            ValueError: a text that is not Unicode, a sample that the model does not take, a number out of range.
        """
        if isinstance(item, Label):
            texts: tuple[str, ...] = (item.id,)
            numbers = task.members(item.label)
        else:
            texts = (item.id, item.key, item.tenant, item.version_name, *item.identity)
            numbers = (item.version or 0, item.named or 0)
            if self._shape not in (None, item.x.shape) and not _fits(item.x.shape, self._shape or ()):
                raise ValueError(f"a sample of shape {item.x.shape}; expected {self._shape}")
        "".join(texts).encode()
        if not math.isfinite(item.time_s) or not all(-(2**63) <= number < 2**63 for number in numbers):
            raise ValueError(f"time {item.time_s!r} or number {numbers!r} out of range")

    def _check_answer(self, item: Record | Label) -> None:
        """Compare answer or label with the model's output.

        Raises:
            DecodeError: the answer has another number of values than the model's, or a label is of another task.
        """
        if self._output is None:
            return
        if isinstance(item, Label):
            return self._output.check_label(item.label)
        if item.served is None:
            return
        found, expected = item.served.size, self._output.columns(self._classes or item.served.size)
        if found != expected:
            told = f"output has {found} values for a sample; the model answers {expected}"
            raise DecodeError("output_classes", told)

    def _with_logits(self, item: Record) -> Record:
        """The item, its served answer as logits."""
        if self._output is None or item.served is None or self._output.kind == "logits":
            return item
        return replace(item, served=self._output.logits(item.served[None])[0])

    def _numbered(self, record: Record) -> Record:
        """The record with the number of its version in the registry."""
        said = record.version_name or ("" if record.version is None else str(record.version))
        if not said or (self._number is None and not record.version_name):
            return record
        number = self._number(said) if self._number else FOREIGN
        return record if number == record.version else replace(record, version=number)

    def _refuse(self, raw: RawRecord, error: DecodeError) -> None:
        where, text = f"{raw.topic}[{raw.partition}]@{raw.offset}", str(error)[:MAX_MESSAGE]
        self.first = self.first or f"{where}: {text}"
        self.refused[error.reason] += 1
        self._outcomes[raw.topic][error.reason] += 1
        if self.refused[error.reason] == 1:  # the first of a kind is told, the others are counted
            trace = error.__cause__ if error.reason == INTERNAL else None
            log.warning("%s cannot be read: %s", where, text, exc_info=trace)
        to = self._letters.get(raw.topic) or self._letters.get("")
        if self._producer is None or not to:
            return
        try:
            self._producer.send(to, *dead_letter(raw, error))
        except Exception as down:  # also of a record that the log cannot hold
            self._dropped("dead_letter", 1)
            log.warning("a dead letter could not be written: %s", down)


def _fits(shape: tuple[int, ...], wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(n in (have, None) for have, n in zip(shape, wanted, strict=True))
