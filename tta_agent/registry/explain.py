"""Explanation of a version, in under 30 lines, for people."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from tta_agent.registry import history
from tta_agent.registry.registry import ModelRegistry

MOST_FINDINGS = 14  # lines for gates; those that say yes are the first to be left out
MOST_SPELLS = 4
WIDE = 150  # a longer sentence is cut
PROOFS = {
    "source": "none needed: the model as it was deployed",
    "certified": "certified: late labels showed that it is better",
    "rehearsed": "rehearsed: scenarios played on the anchor set promise a gain from evidence like this",
    "guarded": "guarded: not proven better; so near to the last proven version that little can go wrong",
    "none": "none",
}


def explain(registry: ModelRegistry, number: int) -> list[str]:
    """Lines that explain one version.

    Raises:
        RegistryError: there is no such version, or it is damaged.
    """
    manifest, verdict = registry.manifest(number), registry.verdict(number)
    alias = [row["alias"] for row in registry.rows() if row["version"] == number and row["alias"]]
    state = "taken back" if registry.is_withdrawn(number) else verdict.get("outcome", "under test")
    return [
        f"version {number}: {', '.join([state, *alias])}",
        *_line("graph", _graph(registry, number, manifest)),
        *_line("made", _made(manifest)),
        *_line("learnt from", _learnt(manifest)),
        *_line("offsets", _offsets(manifest)),
        *_findings(verdict),
        *_line("proof", _proof(verdict)),
        *_line("decided", _decided(verdict)),
        *_service(registry, number),
    ]


def _line(title: str, text: str) -> list[str]:
    return [f"  {title:<12} {text if len(text) <= WIDE else text[: WIDE - 1] + '…'}"] if text else []


def _graph(registry: ModelRegistry, number: int, manifest: Mapping[str, Any]) -> str:
    size, name = _bytes(manifest["bytes"]), f"sha256 {manifest['sha256'][:12]}…"
    if not registry.has_graph(number):
        return f"{size}, {name}; given up, only this explanation is kept"
    if manifest.get("artefact") != "delta":
        return f"{size}, {name}, kept whole"
    tensors = manifest["tensors"]
    changed = _bytes(sum(tensors.values()))
    return f"{size}, {name}, kept as the {len(tensors)} tensors that differ from the source's, {changed}"


def _made(manifest: Mapping[str, Any]) -> str:
    settings = manifest.get("settings", {})
    by = f" by {manifest['policy']}" if "policy" in manifest else ""
    preset = f", policy {settings['policy']}, mode {settings['mode']}" if "policy" in settings else ""
    parent = manifest.get("parent")
    beside = "" if parent is None else f", while version {parent} served"
    return f"{when(manifest['time'])}{by}{preset}{beside}"


def _learnt(manifest: Mapping[str, Any]) -> str:
    records = dict(manifest.get("records", {}))
    if not records:
        return ""
    kept, seen = records.pop("kept", 0), sum(manifest["records"].values())
    others = ", ".join(f"{reason} {n:,}" for reason, n in sorted(records.items(), key=lambda r: -r[1]) if n)
    left = f"; left out: {others}" if others else ""
    return f"{kept:,} of {seen:,} records in {manifest.get('rounds', 0):,} rounds{left}"


def _offsets(manifest: Mapping[str, Any]) -> str:
    topics: dict[str, list[str]] = {}
    places = ((*place.rpartition("/")[::2], n) for place, n in manifest.get("positions", {}).items())
    for topic, _, offset in sorted(places, key=lambda found: (found[0], int(found[1]))):
        topics.setdefault(topic, []).append(f"{offset:,}")
    return "; ".join(f"{topic} before {' '.join(offsets)}" for topic, offsets in topics.items())


def _findings(verdict: Mapping[str, Any]) -> list[str]:
    findings = list(verdict.get("findings", []))
    if not findings:
        return []
    telling = sorted(findings, key=lambda f: f["verdict"] == "pass")[:MOST_FINDINGS]
    shown = [f for f in findings if f in telling]
    lines = [f"  gates        {len(findings)} asked; value, threshold, what they say"]
    promoted = verdict.get("proof", "none") != "none"  # then a gate that says no only warned
    lines += [_finding(f, "warn" if promoted else "NO") for f in shown]
    left = len(findings) - len(shown)
    return [*lines, f"    and {left} more that say yes"] if left else lines


def _finding(finding: Mapping[str, Any], no: str) -> str:
    mark = {"pass": "yes", "fail": no, "inconclusive": "open"}[finding["verdict"]]
    numbers = f"{_short(finding['value']):>9} {_short(finding['threshold']):>9}"
    reason = str(finding["reason"])
    cut = reason if len(reason) <= 100 else reason[:99] + "…"
    return f"    {finding['gate']:<14} {mark:<5}{numbers}  {cut}"


def _proof(verdict: Mapping[str, Any]) -> str:
    kind = verdict.get("proof")
    if kind is None:
        return "not yet: its evaluation runs"
    if kind == "certified":
        return _certified(verdict)
    if kind == "guarded" and "expires_s" in verdict:
        return f"{PROOFS[kind]}; expires {when(verdict['expires_s'])}"
    return PROOFS[kind]


def _certified(verdict: Mapping[str, Any]) -> str:
    found: Sequence[Mapping[str, Any]] = verdict.get("findings", [])
    e = next((f["value"] for f in found if f["gate"] == "certificate"), None)
    odds = "" if e is None else f"; odds 1 : {e:,.0f} against chance"
    counts = verdict.get("counts", {})
    if not {"wins", "losses"} <= counts.keys():
        return PROOFS["certified"] + odds
    wins, losses = int(counts["wins"]), int(counts["losses"])
    of = f"of {wins + losses} labelled disagreements it won {wins} and lost {losses}"
    return f"certified: {of}{odds}"


def _decided(verdict: Mapping[str, Any]) -> str:
    return f"{when(verdict['time'])} by {verdict['by']}: {verdict['outcome']}" if verdict else ""


def _service(registry: ModelRegistry, number: int) -> list[str]:
    spells = history.spells(registry.storage, number)
    lines = []
    for start, end, why in spells[-MOST_SPELLS:]:
        until = "until now" if end is None else f"for {_span(end - start)}"
        lines += _line("served", f"from {when(start)} {until}, {why}")
    left = len(spells) - MOST_SPELLS
    lines += _line("", f"and {left} times before") if left > 0 else []
    gone = registry.withdrawal(number)
    return lines + (
        _line("taken back", f"{when(gone['time'])} by {gone['by']}: {gone['reason']}") if gone else []
    )


def when(seconds: float) -> str:
    """Time in UTC, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _bytes(n: int) -> str:
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.1f} kB"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
