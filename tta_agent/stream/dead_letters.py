"""Dead letters: records that cannot be read, as they came, with reason and place in headers."""

from __future__ import annotations

from datetime import UTC, datetime

from tta_agent.core.errors import DecodeError
from tta_agent.core.types import Message, RawRecord

MAX_MESSAGE = 1000  # characters of an error that are logged and travel to the dead-letter topic


def dead_letter(raw: RawRecord, error: DecodeError) -> Message:
    """The record as it came, in whatever format, with reason and place in headers `tta_dlq_*`."""
    why = {
        "reason": error.reason,
        "exception": str(error)[:MAX_MESSAGE],
        "topic": raw.topic,
        "partition": str(raw.partition),
        "offset": str(raw.offset),
        "time": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    # a record that fails a second time, after a replay, tells only of its latest failure
    kept = tuple(header for header in raw.headers if not header[0].startswith("tta_dlq_"))
    told = ((f"tta_dlq_{name}", text.encode(errors="backslashreplace")) for name, text in why.items())
    return raw.key, raw.value, (*kept, *told)
