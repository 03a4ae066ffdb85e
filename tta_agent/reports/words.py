"""Numbers, times and logged events in words, alike in the terminal, on the pages and in the charts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, TypeAlias, TypeGuard

from tta_agent.core.events import Event
from tta_agent.core.types import PROVING

LogLine: TypeAlias = Mapping[str, Any]  # a line of `events.jsonl`

DASH = "–"
PASS, FAIL, OPEN = ("✓ pass", "green"), ("✗ fail", "bold red"), ("· not yet", "yellow")
VERDICTS = {"pass": PASS, "fail": FAIL, "inconclusive": OPEN}
PROVEN = tuple(PROVING)
GATES = [gate for gates in PROVING.values() for gate in gates]  # the gates behind the proofs
TELLING = {**dict.fromkeys(PROVEN, "pass"), "rejected": "fail", "expired": "inconclusive"}
GOOD = {Event.SWAP, Event.PROMOTED, Event.REINSTATED, Event.CONFIRMED}
BAD = {
    Event.ROLLBACK,
    Event.FALLBACK,
    Event.WITHDRAWN,
    Event.SWAP_FAILED,
    Event.ROLLBACK_REFUSED,
    Event.ALIAS_REFUSED,
    Event.REJECT,
}
# events after which another version serves, as charts label them
MOVES: Mapping[str, str] = {
    Event.SWAP: "swap",
    Event.PROMOTED: "swap",
    Event.REINSTATED: "back",
    Event.ROLLBACK: "back",
    Event.FALLBACK: "back",
}


def known(value: Any) -> TypeGuard[float]:
    """Whether the value is a finite number."""
    return isinstance(value, Real) and math.isfinite(value)


def number(value: Any, form: str) -> str:
    """The number in the format `form`, or a dash where it is not known."""
    return form.format(value) if known(value) else DASH


def percent(value: Any) -> str:
    """A share, 0 .. 1, in percent, or a dash."""
    return number(value, "{:.1%}")


def points(value: Any, form: str = "{:+.1f}") -> str:
    """A share in percentage points, signed, or a dash."""
    return form.format(round(100 * value, 1) + 0.0).replace("+0.0", "0.0") if known(value) else DASH


def clock(seconds: Any) -> str:
    """Minutes and seconds, or a dash."""
    if not known(seconds):
        return DASH
    minutes, rest = divmod(int(max(seconds, 0.0)), 60)
    return f"{minutes}:{rest:02d}"


def clean(text: Any, most: int = 300) -> str:
    """One line of at most `most` characters without control characters: reasons may come from anywhere."""
    if text is None:
        return DASH
    line = str(text)
    if not line.isprintable():
        line = "".join(c if c.isprintable() else " " for c in line)
    line = " ".join(line.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def seconds_since(line: LogLine, started_s: float) -> float:
    """Seconds from `started_s` (epoch) to the event."""
    t = line.get("t")
    return float(t) if known(t) else float(line.get("time") or started_s) - started_s


def bounds(values: Iterable[Any]) -> tuple[float, float]:
    """Range of an axis, in whole tens of percent, that holds all of these shares."""
    shares = [value for value in values if known(value)] or [0.0, 1.0]
    low = max(math.floor(min(shares) * 10 - 0.3) / 10, 0.0)
    high = min(math.ceil(max(shares) * 10 + 0.3) / 10, 1.0)
    return (low, high) if high - low > 0.15 else (max(high - 0.2, 0.0), max(high, 0.2))


def kind(line: LogLine) -> Event | None:
    """Event of a line, by its name of today or of before 0.2; None where it is neither."""
    return Event.named(str(line.get("event")))


def tone(line: LogLine) -> str:
    """`good`, `bad` or nothing: whether an event brings a version into service or turns one down."""
    event, outcome = kind(line), str(line.get("outcome")).split(",")[0]
    if event in GOOD or (event is Event.VERDICT and outcome in PROVEN):
        return "good"
    return "bad" if event in BAD or (event is Event.VERDICT and outcome == "rejected") else ""


def words(line: LogLine) -> str:
    """Sentence for a logged event."""
    event = kind(line)
    return clean(SENTENCES[event](line) if event else str(line.get("event")).replace("_", " "))


def event_line(line: LogLine, started_s: float) -> str:
    """Sentence for a logged event, with its time since `started_s` (epoch), for a terminal's log."""
    return f"{clock(seconds_since(line, started_s)):>6}  * {words(line)}"


def _version(line: LogLine) -> str:
    return f"version {line.get('version', '?')}"


def _because(line: LogLine, name: str = "reason") -> str:
    return f": {line[name]}" if line.get(name) else ""


def _by(line: LogLine) -> str:
    return f" by {line['by']}" if line.get("by") else ""


def _drift(line: LogLine) -> str:
    features = line.get("features") or {}
    widest = f", most in {max(features, key=features.__getitem__)}" if features else ""
    return f"records of another kind arrive: distance {number(line.get('distance'), '{:.1f}')}{widest}"


def _verdict(line: LogLine) -> str:
    outcome, findings = str(line.get("outcome", "judged")), line.get("findings") or []
    telling = TELLING.get(outcome.split(",")[0])
    picked = [finding for finding in findings if finding.get("verdict") == telling]
    if not picked:
        return f"{_version(line)} {outcome}"
    # the proof says more than that a graph is intact
    chosen = next((finding for finding in picked if finding.get("gate") in GATES), picked[0])
    by = f" by {chosen.get('gate')}" if telling == "fail" else ""
    return f"{_version(line)} {outcome}{by}: {str(chosen.get('reason', '')).removeprefix('certified: ')}"


def _swap(line: LogLine) -> str:
    milliseconds = number((line.get("seconds") or 0) * 1000, "{:.0f} ms")
    return f"swapped {line.get('before', '?')} -> {line.get('version', '?')} in {milliseconds}"


def _promoted(line: LogLine) -> str:
    forced = ", without proof" if line.get("force") else ""
    return f"{_version(line)} promoted{_by(line)} in place of version {line.get('before', '?')}{forced}"


SENTENCES: Mapping[Event, Callable[[LogLine], str]] = {
    Event.RESUMED: lambda e: f"resumed after {e.get('rounds', '?')} rounds",
    Event.RESET: lambda e: "adaptation starts over from the source",
    Event.DRIFT: _drift,
    Event.CANDIDATE: lambda e: f"{_version(e)} proposed after {e.get('rounds', '?')} rounds",
    Event.SUSPENDED: lambda e: f"{_version(e)} waits for records of its kind",
    Event.CONTINUED: lambda e: f"{_version(e)} is under test again: records of its kind are back",
    Event.VERDICT: _verdict,
    Event.AWAITING: lambda e: f"{_version(e)} is {e.get('proof', 'proven')} and waits for approval",
    Event.SWAP: _swap,
    Event.SWAP_FAILED: lambda e: f"swap failed, the version before serves on{_because(e, 'error')}",
    Event.CONFIRMED: lambda e: f"{_version(e)} has lasted {e.get('records', '?')} records: it stays",
    Event.FALLBACK: lambda e: f"the source serves instead of version {e.get('before', '?')}{_because(e)}",
    Event.REINSTATED: lambda e: f"{_version(e)} serves again{_because(e)}",
    Event.ROLLBACK: lambda e: f"rolled back to {_version(e)}{_because(e)}",
    Event.ROLLBACK_REFUSED: lambda e: f"{_version(e)} cannot be rolled back to{_because(e, 'error')}",
    Event.WITHDRAWN: lambda e: f"{_version(e)} is taken back{_because(e)}",
    Event.REALIGNED: lambda e: f"the server serves {_version(e)} again, as the registry says{_because(e)}",
    Event.ALIAS_REFUSED: lambda e: f"alias `serving` is not followed: {_version(e)} serves on{_because(e)}",
    Event.PROMOTED: _promoted,
    Event.APPROVE: lambda e: f"{_version(e)} approved{_by(e)}{_because(e)}",
    Event.REJECT: lambda e: f"{_version(e)} turned down{_by(e)}{_because(e)}",
    Event.FREEZE: lambda e: f"swaps are frozen{_by(e)}{_because(e)}",
    Event.UNFREEZE: lambda e: f"swaps are allowed again{_by(e)}{_because(e)}",
}
