"""Requests for labels: few, where they are most informative, and paced over the day."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tta_agent.core.errors import StreamError
from tta_agent.core.stream_protocols import Producer
from tta_agent.core.types import Answer, Headers, Record

DAY_S = 86_400.0
REMEMBERED = 50_000  # ids and stretches of time that are not asked about again
AT_ONCE = 0.25  # share of the day's that may be asked for at once: a shift wants its labels now
RESERVE = 0.5  # share of the tokens that only disagreements may spend
Reason: TypeAlias = Literal["disagreement", "uniform"]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """Request for the label of one record.

    Attributes:
        id: of the inference; the label comes back under it.
        reason: disagreement of the two graphs, or drawn at random.
        ts: time of the request, seconds since the epoch, as the stream counts them.
        serving, candidate: answers of the two graphs. `candidate` is None where there was no other graph, and
            of the version before where that disagrees with one that has just come into service.
        version: version that answered the inference, or None.
    """

    id: str
    reason: Reason
    ts: float
    serving: Answer
    candidate: Answer | None
    version: int | None


Writer: TypeAlias = Callable[[Sequence[LabelRequest]], None]
Dropped: TypeAlias = Callable[[str, int], None]  # reason `label_request`, and how many were given up


class LabelRequester:
    """Requests within a budget: for disagreements first, since only there a label says which graph is better, and for
    a uniform sample, from which the accuracy itself can be estimated.

    The budget is a token bucket of a quarter of the day's (one request at least) that fills evenly, under a cap for
    any 24 hours: the first minute of a shift cannot spend the day. While tokens are scarce, disagreements come first.
    After a crash a request may be made a second time.

    Args:
        write: writer of requests, see `to_file` and `to_topic`.
        per_day: requests in any 24 hours, at most.
        uniform: share of records drawn at random, by a hash of the id: replicas draw the same.
        bucket_s: one request for each entity and stretch of this length; 0: no such limit.
        salt: of the draw, see `drawn`.
    """

    def __init__(
        self,
        write: Writer,
        *,
        per_day: int = 200,
        uniform: float = 0.01,
        bucket_s: float = 60.0,
        salt: bytes = b"",
    ) -> None:
        self._salt = salt
        self._write, self._per_day, self._uniform, self._bucket_s = write, per_day, uniform, bucket_s
        self._most = max(AT_ONCE * per_day, 1.0)
        self._tokens, self._filled_s = self._most, 0.0
        self._made: deque[float] = deque()  # times within the last 24 hours
        self._asked: OrderedDict[tuple[str, int], None] = OrderedDict()

    def consider(
        self,
        records: Sequence[Record],
        serving: Sequence[Answer],
        others: Sequence[Answer | None],
        now_s: float,
    ) -> list[LabelRequest]:
        """Request labels for some of these records; the requests.

        Args:
            records: held-out records.
            serving, others: answers of the graphs to each; None where there is no other graph.
            now_s: seconds since the epoch, as the stream counts them.
        """
        if not self._per_day or not records:
            return []
        self._fill(now_s)
        wishes = [w for w in map(self._wish, records, serving, others, [now_s] * len(records)) if w]
        wishes.sort(
            key=lambda wish: wish[0].reason
        )  # "disagreement" stands before "uniform"; else their order
        made = [wish for wish, record in wishes if self._spend(wish, record)]
        if made:
            self._write(made)
        return made

    def _wish(
        self, record: Record, serving: Answer, candidate: Answer | None, now_s: float
    ) -> tuple[LabelRequest, Record] | None:
        differs = candidate is not None and candidate != serving
        if not differs and not drawn(record.id, self._uniform, self._salt):
            return None
        reason: Reason = "disagreement" if differs else "uniform"
        return LabelRequest(record.id, reason, now_s, serving, candidate, record.version), record

    def _fill(self, now_s: float) -> None:
        passed_s = max(now_s - self._filled_s, 0.0) if self._filled_s else 0.0
        self._tokens = min(self._tokens + passed_s * self._per_day / DAY_S, self._most)
        self._filled_s = max(now_s, self._filled_s)
        while self._made and now_s - self._made[0] >= DAY_S:
            self._made.popleft()

    def _spend(self, wish: LabelRequest, record: Record) -> bool:
        reserve = RESERVE * self._most if wish.reason == "uniform" and self._most > 1 else 0.0
        if self._tokens < 1 + reserve or len(self._made) >= self._per_day:
            return False
        marks = [("id", record.id, 0)]
        if self._bucket_s:
            marks.append(("entity", record.key, int(record.time_s // self._bucket_s)))
        keys = [(f"{kind} {name}", number) for kind, name, number in marks]
        if any(key in self._asked for key in keys):
            return False
        self._asked.update(dict.fromkeys(keys))
        while len(self._asked) > REMEMBERED:
            self._asked.popitem(last=False)
        self._tokens -= 1
        self._made.append(wish.ts)
        return True

    def asked(self, id: str) -> bool:
        """Whether the label of this record was requested, among the latest 50,000 requests."""
        return (f"id {id}", 0) in self._asked

    def state_dict(self) -> dict[str, Any]:
        """Budget, and ids that were asked about."""
        spent = {"tokens": self._tokens, "filled_s": self._filled_s}
        return {**spent, "made": list(self._made), "asked": list(self._asked)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._tokens, self._filled_s = min(state["tokens"], self._most), state["filled_s"]
        self._made = deque(state["made"])
        self._asked = OrderedDict.fromkeys((name, number) for name, number in state["asked"])


def drawn(id: str, share: float, salt: bytes = b"", purpose: bytes = b"tta-wishes") -> bool:
    """Whether the id belongs to the uniform sample; independent of the hold-out.

    Args:
        salt: secret, so that no client can choose an id that is drawn.
        purpose: of the draw, 16 bytes at most: draws for different purposes are independent.
    """
    digest = hashlib.blake2b(id.encode(), digest_size=8, key=salt, person=purpose).digest()
    return int.from_bytes(digest, "big") < share * 2**64


def to_file(path: Path, dropped: Dropped = lambda reason, count: None) -> Writer:
    """Writer that appends one JSON object a line. Requests that a full disk refuses are logged and given up."""

    def write(requests: Sequence[LabelRequest]) -> None:
        lines = "".join(json.dumps(asdict(request)) + "\n" for request in requests)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(lines)
        except OSError as error:
            dropped("label_request", len(requests))
            log.warning("%d label requests could not be written: %s", len(requests), error)

    return write


def to_topic(
    producer: Producer,
    topic: str,
    encode: Callable[[LabelRequest], tuple[bytes | None, bytes | None, Headers]],
    dropped: Dropped = lambda reason, count: None,
) -> Writer:
    """Writer that sends one record a request. Requests that the stream refuses are logged and given up."""

    def write(requests: Sequence[LabelRequest]) -> None:
        sent = 0
        try:
            for request in requests:
                producer.send(topic, *encode(request))
                sent += 1
        except StreamError as error:
            dropped("label_request", len(requests) - sent)
            log.warning("%d label requests could not be sent to %s: %s", len(requests) - sent, topic, error)

    return write
