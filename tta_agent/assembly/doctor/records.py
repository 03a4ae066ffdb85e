"""Checks of the last records: format, ids, clocks, and whether the model answers as was served."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from tta_agent.assembly.doctor.finding import CheckFinding, Outcome
from tta_agent.assembly.source_records import compared
from tta_agent.core.errors import ConfigError
from tta_agent.core.types import Record
from tta_agent.models.loader import DeployedModel
from tta_agent.settings.schema import Settings
from tta_agent.stream.peeking import Peeked, peek

COUNT = 20
LATER = "ask again once requests are served"
POSTED = "see GET / of the receiver, and `records` in status.json"
AHEAD_S = 5.0  # of this machine's clock
APART_S = 60.0  # between a record's own time and the log's


def records(s: Settings, model: Callable[[], DeployedModel | None]) -> Iterator[CheckFinding]:
    """What the last records are understood as.

    Args:
        model: the deployed model; None where it cannot be had.
    """
    if s.stream.kind == "http":
        yield CheckFinding(
            "records", s.stream.topic, "skipped", "what is posted to the agent is not kept", POSTED
        )
        return
    if s.stream.kind == "embedded" and not (s.store.path / "log.db").exists():
        yield CheckFinding("records", s.stream.topic, "skipped", "the embedded log is not there yet", LATER)
        return
    source = model()
    shape = source.shape if source else None
    classes, output = (source.classes, source.output) if source else (None, None)
    seen = peek(s, COUNT, shape=shape, classes=classes, output=output)
    if not seen.rows:
        told = f"no record is in {s.stream.topic} yet"
        yield CheckFinding("records", s.stream.topic, "skipped", told, LATER)
        return
    yield from _format(s, seen)
    yield _clocks(seen)
    yield _ids(seen.records)
    if source:
        yield from _parity(s, source, seen.records)


def _format(s: Settings, seen: Peeked) -> Iterator[CheckFinding]:
    reasons = Counter(row.reason for row in seen.refused)
    for reason, count in reasons.most_common():
        first = next(row for row in seen.refused if row.reason == reason)
        told = f"{count} of {len(seen.rows)} records cannot be read ({reason}): {first.told}"
        outcome: Outcome = "failure" if count == len(seen.rows) else "warning"
        fix = "docs/guide/own-stream.md lists what is read; see TTA_STREAM__CODEC"
        yield CheckFinding("records", s.stream.topic, outcome, told, fix)
    if seen.summary:
        yield CheckFinding("records", s.stream.topic, "ok", seen.summary.line())
    if apart := seen.joined.get("no_request", 0) + seen.joined.get("alone", 0):
        told = f"{apart} of the last requests and responses are without the other half"
        fix = "log both (KServe: mode all), and name the topic of responses: TTA_STREAM__RESPONSES_TOPIC"
        yield CheckFinding("records", "responses", "warning", told, fix)


def _clocks(seen: Peeked) -> CheckFinding:
    now_s = time.time()
    ahead_s = max(row.raw.timestamp_ms / 1000 - now_s for row in seen.rows)
    placed = {
        (row.raw.topic, row.raw.partition, row.raw.offset): row.raw.timestamp_ms / 1000 for row in seen.rows
    }
    apart = [
        abs(one.time_s - placed[place])
        for one in seen.records
        if (place := (one.topic, one.partition, one.offset)) in placed
    ]
    fix = "set the clocks of the senders and of this machine (NTP)"
    if ahead_s > AHEAD_S:
        return CheckFinding(
            "records", "clocks", "warning", f"a record is {ahead_s:.0f} s ahead of this machine", fix
        )
    if apart and max(apart) > APART_S:
        told = f"a record's own time and the log's are {max(apart):.0f} s apart"
        return CheckFinding("records", "clocks", "warning", told, fix)
    newest_s = now_s - max(row.raw.timestamp_ms for row in seen.rows) / 1000
    return CheckFinding("records", "clocks", "ok", f"the newest record is {max(newest_s, 0):.0f} s old")


def _ids(found: Sequence[Record]) -> CheckFinding:
    again = len(found) - len({one.identity for one in found})
    if not again:
        return CheckFinding("records", "ids", "ok", f"{len(found)} samples, no id twice")
    told = f"{again} of {len(found)} samples have an id that was there before: they count once"
    return CheckFinding("records", "ids", "warning", told, "give each request an id of its own")


def _parity(s: Settings, source: DeployedModel, found: Sequence[Record]) -> Iterator[CheckFinding]:
    try:
        count, reading = compared(s, source, found)
    except ConfigError as error:
        first, _, rest = str(error).partition("\n")
        yield CheckFinding("records", "answers", "failure", first, rest.partition("\n")[0])
        return
    if reading is None:
        told = "no record carries an answer of the source (version 0, or none)"
        fix = (
            "log responses; TTA_MODEL__SERVED_VERSION names the deployed model's version where that is not 0"
        )
        yield CheckFinding("records", "answers", "skipped", told, fix)
        return
    told = f"{count} served answers are the model's, with inputs as {reading.prepare.way}"
    yield CheckFinding("records", "answers", "ok", told)
