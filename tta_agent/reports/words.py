"""Numbers, times and decisions in words: what the live view and the report say alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, TypeAlias, TypeGuard

Event: TypeAlias = Mapping[str, Any]

DASH = "–"
PASS, FAIL, OPEN = ("✓ pass", "green"), ("✗ fail", "bold red"), ("· not yet", "yellow")
VERDICTS = {"pass": PASS, "fail": FAIL, "inconclusive": OPEN}
PROVEN = ("certified", "rehearsed", "guarded")
PROOFS = ("certificate", "rehearsed", "guarded")  # the gates behind them
TELLING = {**dict.fromkeys(PROVEN, "pass"), "rejected": "fail", "expired": "inconclusive"}
# events after which another version serves, for charts
MOVES = {"swap": "swap", "rollback": "back", "fallback": "back", "reinstated": "back"}


def known(value: Any) -> TypeGuard[float]:
    """A finite number."""
    return isinstance(value, Real) and math.isfinite(value)


def number(value: Any, form: str) -> str:
    """The number in this form, or a dash where there is none."""
    return form.format(value) if known(value) else DASH


def percent(value: Any) -> str:
    """A share, for people."""
    return number(value, "{:.1%}")


def points(value: Any, form: str = "{:+.1f}") -> str:
    """A share in percentage points, signed, or a dash."""
    return form.format(round(100 * value, 1) + 0.0).replace("+0.0", "0.0") if known(value) else DASH


def clock(seconds: Any) -> str:
    """Minutes and seconds."""
    if not known(seconds):
        return DASH
    minutes, rest = divmod(int(max(seconds, 0.0)), 60)
    return f"{minutes}:{rest:02d}"


def clean(text: Any, most: int = 300) -> str:
    """One line without control characters: reasons may come from anywhere."""
    if text is None:
        return DASH
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= most else line[: most - 1] + "…"


def seconds_since(event: Event, started_s: float) -> float:
    """When it happened, seconds since the start."""
    t = event.get("t")
    return float(t) if known(t) else float(event.get("time") or started_s) - started_s


def bounds(values: Iterable[Any]) -> tuple[float, float]:
    """A range of whole tens of percent that holds all of these shares."""
    shares = [value for value in values if known(value)] or [0.0, 1.0]
    low = max(math.floor(min(shares) * 10 - 0.3) / 10, 0.0)
    high = min(math.ceil(max(shares) * 10 + 0.3) / 10, 1.0)
    return (low, high) if high - low > 0.15 else (max(high - 0.2, 0.0), max(high, 0.2))


def words(event: Event) -> str:
    """One decision in a sentence."""
    name = str(event.get("event"))
    said = SAYINGS[name](event) if name in SAYINGS else name.replace("_", " ")
    return clean(said)


def _swap(event: Event) -> str:
    milliseconds = number((event.get("seconds") or 0) * 1000, "{:.0f} ms")
    return f"swapped {event.get('before', '?')} -> {_version(event)} in {milliseconds}"


def _rollback(event: Event) -> str:
    why = event.get("reason")
    return f"rolled back to version {_version(event)}" + (f": {why}" if why else "")


def _fallback(event: Event) -> str:
    return f"the source serves instead of version {event.get('before', '?')}: {event.get('reason', '')}"


def _version(event: Event) -> Any:
    return event.get("version", "?")


SAYINGS: Mapping[str, Callable[[Event], str]] = {
    "candidate": lambda e: f"version {_version(e)} proposed after {e.get('rounds', '?')} rounds",
    "verdict": lambda e: f"version {_version(e)} {_outcome(e)}",
    "adjourned": lambda e: f"version {_version(e)} waits for records of its kind",
    "reopened": lambda e: f"version {_version(e)} is under test again: records of its kind are back",
    "swap": _swap,
    "swap_failed": lambda e: f"swap failed, the version before serves on: {e.get('error', '')}",
    "rollback": _rollback,
    "fallback": _fallback,
    "reinstated": lambda e: f"version {_version(e)} serves again: {e.get('reason', '')}",
    "withdrawn": lambda e: f"version {_version(e)} is taken back: {e.get('reason', '')}",
    "confirmed": lambda e: f"version {_version(e)} has lasted {e.get('records', '?')} records: it stays",
    "awaiting": lambda e: f"version {_version(e)} is {e.get('proof', 'proven')} and waits for approval",
    "reset": lambda e: "adaptation starts over from the source",
    "resumed": lambda e: f"resumed after {e.get('rounds', '?')} rounds",
}


def _outcome(event: Event) -> str:
    outcome, findings = str(event.get("outcome", "judged")), event.get("findings") or []
    telling = TELLING.get(outcome.split(",")[0])
    picked = [finding for finding in findings if finding.get("verdict") == telling]
    if not picked:
        return outcome
    # the proof says more than that a graph is intact
    chosen = next((finding for finding in picked if finding.get("gate") in PROOFS), picked[0])
    by = f" by {chosen.get('gate')}" if telling == "fail" else ""
    return f"{outcome}{by}: {str(chosen.get('reason', '')).removeprefix('certified: ')}"


def event_line(event: Event, started_s: float) -> str:
    """One decision for a log."""
    return f"{clock(seconds_since(event, started_s)):>6}  * {words(event)}"
