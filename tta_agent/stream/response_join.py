"""Join of requests and responses that are logged apart, by source and id, within a window of time and bytes."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from tta_agent.core.errors import DecodeError
from tta_agent.core.exchange import JoinKey, LoggedRequest, LoggedResponse
from tta_agent.core.positions import first_offsets
from tta_agent.core.types import Positions, RawRecord, Record
from tta_agent.stream.codecs.bodies import answered

WINDOW_S = 60.0
WINDOW_BYTES = 64 << 20
SILENT_S = 2.0  # a request waits no longer while no response of its source has come
SOURCES = 1000  # whose responses are remembered


@dataclass(frozen=True, slots=True)
class WaitingHalf:
    """A request or a response until the other half comes, with its raw record and the time of its arrival."""

    half: LoggedRequest | LoggedResponse
    raw: RawRecord
    since_s: float

    @property
    def nbytes(self) -> int:
        """Bytes in memory; samples and outputs may be views of the raw value."""
        return self.half.nbytes + len(self.raw.value or b"")


class ResponseJoiner:
    """Requests and responses that wait for each other.

    A request whose response does not come in time goes on without an answer. A response whose request does not come
    is unreadable. Where only requests are logged, they wait for two seconds only.

    Args:
        window_s: longest wait for the other half.
        max_bytes: of what waits; beyond it the oldest wait no longer.
        clock: seconds that never go back.

    Attributes:
        counts: requests that were `joined`, and that went on `alone`; responses without a request (`no_request`).
    """

    def __init__(
        self,
        window_s: float = WINDOW_S,
        max_bytes: int = WINDOW_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._window_s, self._max_bytes, self._clock = window_s, max_bytes, clock
        self._waiting: OrderedDict[tuple[bool, JoinKey], WaitingHalf] = OrderedDict()  # True: a request
        self._nbytes = 0
        self._answering: OrderedDict[str, float] = (
            OrderedDict()
        )  # sources, and when a response of theirs came
        self.counts: Counter[str] = Counter()
        self._orphans: list[tuple[RawRecord, DecodeError]] = []

    def take(self, half: LoggedRequest | LoggedResponse, raw: RawRecord) -> list[Record]:
        """Samples that this half completes; else it waits, and what is over the bound of bytes does so no longer."""
        is_request = isinstance(half, LoggedRequest)
        if not is_request:
            self._answering[half.join[0]] = self._clock()
            self._answering.move_to_end(half.join[0])
            if len(self._answering) > SOURCES:
                self._answering.popitem(last=False)
        other = self._pop((not is_request, half.join))
        if isinstance(half, LoggedRequest) and other is not None:
            return self._joined(half, other.half, other.raw)  # type: ignore[arg-type]
        if isinstance(half, LoggedResponse) and other is not None:
            return self._joined(other.half, half, raw)  # type: ignore[arg-type]
        again = self._pop((is_request, half.join))  # the same once more: the newer one counts
        self._waiting[is_request, half.join] = one = WaitingHalf(half, raw, self._clock())
        self._nbytes += one.nbytes
        return [*self._given_up(again), *self._over()]

    def _joined(self, request: LoggedRequest, response: LoggedResponse, raw: RawRecord) -> list[Record]:
        try:
            given = response.read(len(request.records))
        except DecodeError as error:  # the request is sound
            self._orphans.append((raw, error))
            self.counts["alone"] += 1
            return list(request.records)
        self.counts["joined"] += 1
        return answered(request.records, given, version=response.version, version_name=response.version_name)

    def expired(self) -> list[Record]:
        """Samples of requests that have waited for long enough."""
        now_s, found = self._clock(), []
        for key, one in list(self._waiting.items()):
            age_s = now_s - one.since_s
            if age_s < SILENT_S:
                break
            is_request, (source, _) = key
            silent = is_request and now_s - self._answering.get(source, -self._window_s) >= self._window_s
            if age_s >= self._window_s or silent:
                found += self._given_up(self._pop(key))
        return found

    def flush(self) -> list[Record]:
        """Samples of all requests that wait; nothing waits afterwards."""
        return [record for key in list(self._waiting) for record in self._given_up(self._pop(key))]

    def take_orphans(self) -> list[tuple[RawRecord, DecodeError]]:
        """Responses that cannot be used, each with the reason, since the last call."""
        taken, self._orphans = self._orphans, []
        return taken

    def oldest(self) -> Positions:
        """Offset of the first waiting half of each partition."""
        return first_offsets(one.raw for one in self._waiting.values())

    def _over(self) -> list[Record]:
        found = []
        while self._nbytes > self._max_bytes and self._waiting:
            found += self._given_up(self._pop(next(iter(self._waiting))))
        return found

    def _pop(self, key: tuple[bool, JoinKey]) -> WaitingHalf | None:
        one = self._waiting.pop(key, None)
        self._nbytes -= one.nbytes if one else 0
        return one

    def _given_up(self, one: WaitingHalf | None) -> list[Record]:
        if one is None:
            return []
        if isinstance(one.half, LoggedRequest):
            self.counts["alone"] += 1
            return list(one.half.records)
        self.counts["no_request"] += 1
        source, id = one.half.join
        told = f"no request of {source} with the id {id} came within {self._window_s:g} s of its response"
        self._orphans.append((one.raw, DecodeError("no_request", told)))
        return []
