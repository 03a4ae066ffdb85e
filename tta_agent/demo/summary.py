"""Result of a demo for people: a headline, a sentence, and the rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from tta_agent.reports.words import DASH, clean, clock, known, number, percent

Result: TypeAlias = Mapping[str, Any]  # of `tally.result`
Row: TypeAlias = tuple[str, str, str]


def headline(result: Result) -> str:
    """The outcome in a sentence."""
    swaps, failed = result.get("swaps") or 0, result.get("failed_requests")
    without = f", with {failed:,} failed request{'' if failed == 1 else 's'}" if known(failed) else ""
    if not swaps:
        return f"Nothing was swapped{without}"
    times = "1 swap" if swaps == 1 else f"{swaps} swaps"
    if not known(result.get("recovered")):
        return times + without
    return f"{result['recovered']:.0%} of the lost accuracy recovered by {times}{without}"


def subtitle(result: Result) -> str:
    """Requests, shift and seed in a sentence."""
    shift = result.get("shift") or {}
    requests, seconds = number(result.get("requests"), "{:,}"), number(result.get("seconds"), "{:.0f}")
    # the name tells the severity
    shifted = f"shift: {clean(shift.get('name'), 80)} from {clock(shift.get('started_s'))}"
    return f"{requests} requests in {seconds} s; {shifted}; seed {number(result.get('seed'), '{}')}"


def sections(result: Result) -> list[list[Row]]:
    """Sections of the closing table; a row is a name, the figure of the served model, that of the source."""
    get = result.get
    # before any swap the server is the source: one figure for both
    clean_share = percent(get("clean_accuracy"))
    before, after = get("source_accuracy_after_shift"), get("source_accuracy_after_swap")
    accuracies = [
        ("accuracy, clean, before the shift", clean_share, clean_share),
        ("accuracy, shifted, before the swap", percent(get("served_accuracy_before_swap")), percent(before)),
        ("accuracy, shifted, after the swap", percent(get("served_accuracy_after_swap")), percent(after)),
        ("share of the loss recovered", number(get("recovered"), "{:.0%}"), ""),
    ]
    names = ("swaps", "rollbacks", "failed_requests", "unknown_answers", "labels_used", "labels_sent")
    counts = [(name.replace("_", " "), number(get(name), "{:,}"), "") for name in names]
    phases = get("latency_ms") or dict.fromkeys(("alone", "adapting", "swapping"))
    speeds = [(f"latency while {name}, p50 / p99", _latency(at or {}), "") for name, at in phases.items()]
    return [accuracies, counts, [*speeds, ("seconds", number(get("seconds"), "{:.1f}"), "")]]


def _latency(at: Mapping[str, Any]) -> str:
    p50, p99 = at.get("p50"), at.get("p99")
    return f"{number(p50, '{:.1f}')} / {number(p99, '{:.1f}')} ms" if known(p50) or known(p99) else DASH
