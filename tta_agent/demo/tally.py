"""Figures of a demo, all of answers that were served."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tta_agent.core.events import Event
from tta_agent.demo.story import DemoRun, shift_name, status
from tta_agent.demo.traffic import ServedRequest, window

WARM_UP_S = 2.0  # first requests that latency does not count


def result(run: DemoRun) -> dict[str, Any]:
    """All figures of a demo, for JSON and the report; accuracies are shares, 0 .. 1, of answers that were served."""
    every = run.traffic.answers
    swaps = [event for event in run.events if event["event"] == Event.SWAP]
    shift_s = run.marks.get("shifted", math.inf)
    first_s = next((event["t"] for event in swaps if event["t"] > shift_s), math.inf)
    shifted = [a for a in every if a.shifted]
    clean = window([a for a in every if not a.shifted], 0, shift_s)
    before, after = window(shifted, 0, first_s), window(shifted, first_s, math.inf)
    known = set(run.registry.numbers())
    return {
        "clean_accuracy": clean["served"],
        "source_accuracy_after_shift": window(shifted, 0, math.inf)["source"],
        "served_accuracy_before_swap": before["served"],
        "served_accuracy_after_swap": after["served"],
        "source_accuracy_after_swap": after["source"],
        "recovered": _recovered(clean["served"], after),
        "swaps": len(swaps),
        "rollbacks": sum(event["event"] == Event.ROLLBACK for event in run.events),
        "failed_requests": sum(run.traffic.errors.values()),
        "unknown_answers": sum(a.version >= 0 and a.version not in known for a in every),
        "labels_used": status(run).get("labels_used", 0),
        "labels_sent": run.traffic.labels_sent,
        "requests": len(every),
        "seconds": round(run.marks["end"], 1),
        "seed": run.plan.seed,
        "shift": {
            "name": shift_name(run.plan),
            "families": list(run.plan.families),
            "severity": run.plan.severity,
            "started_s": run.marks.get("shifted"),
        },
        "seconds_to_first_swap": first_s - shift_s if first_s < math.inf else None,
        "latency_ms": _latencies(every, run.marks, [event["t"] for event in swaps]),
        "resumed": sum(event["event"] == Event.RESUMED for event in run.events),
        "errors": dict(run.traffic.errors),
        "timeline": run.timeline,
        "events": run.events,
        "registry": str(run.registry.folder),
        "failures": run.failures,
    }


def _recovered(clean: float | None, after: dict[str, Any]) -> float | None:
    if clean is None or after["served"] is None or clean <= after["source"]:
        return None
    return float((after["served"] - after["source"]) / (clean - after["source"]))


def _latencies(
    every: Sequence[ServedRequest], marks: Mapping[str, float], swaps: Sequence[float]
) -> dict[str, Any]:
    """Milliseconds: the server alone, beside the agent, and within a second of a swap."""
    phases: dict[str, list[float]] = {"alone": [], "starting": [], "adapting": [], "swapping": []}
    for answer in every:
        if answer.version >= 0 and answer.t_s > WARM_UP_S:
            phases[_phase(answer.t_s, marks, swaps)].append(answer.latency_ms)
    return {name: _spread(sorted(part)) for name, part in phases.items()}


def _phase(t_s: float, marks: Mapping[str, float], swaps: Sequence[float]) -> str:
    if any(abs(t_s - swap_s) < 1 for swap_s in swaps):
        return "swapping"
    if t_s < marks.get("starting", math.inf):
        return "alone"
    return "starting" if t_s < marks.get("clean", math.inf) else "adapting"


def _spread(part: Sequence[float]) -> dict[str, float | None]:
    def at(share: float) -> float | None:
        return round(part[int(len(part) * share)], 2) if part else None

    return {"p50": at(0.5), "p99": at(0.99), "n": len(part)}
