"""The page of a rehearsal: one HTML file without network, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tta_agent.demo.svg import tag
from tta_agent.rehearsal.play import Row
from tta_agent.rehearsal.words import adapted, cells

STYLE = """
:root { --bg: #fcfcfb; --ink: #1b1f24; --soft: #57606a; --rule: #e1e4e8; --good: 0,114,178; --bad: 196,85,0; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --ink: #e6e8ea; --soft: #9aa4af; --rule: #2c323a;
  --good: 86,180,233; --bad: 230,159,0; } }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem; }
p { color: var(--soft); } table { border-collapse: collapse; } .wide { overflow-x: auto; }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid var(--rule); }
th:first-child { text-align: left; } th { font-weight: 400; color: var(--soft); }
td.gain { background: rgba(var(--good), var(--much)); } td.loss { background: rgba(var(--bad), var(--much)); }
svg { display: block; width: 100%; max-width: 34rem; font-size: 12px; } svg text { fill: var(--soft); }
.axis { stroke: var(--soft); fill: none; } .even { stroke: var(--soft); stroke-dasharray: 4 4; }
.dot { fill: rgba(var(--good), .65); } .dot.failure { fill: rgba(var(--bad), .65); }
"""
SIDE, EDGE = 480.0, 46.0
WORST = 10  # worlds listed


def html(rows: Sequence[Row], summary: Mapping[str, Any], told: Sequence[str]) -> str:
    """The page.

    Args:
        rows: of all worlds, in the order of `summary["fit"]["guesses"]`.
        summary: what the shelf holds.
        told: sentences, see `words.findings`.
    """
    guesses, lower = summary["fit"]["guesses"], summary["fit"]["lower"]
    body = [
        tag("h1", escape(told[0])),
        tag("p", f"{len(rows)} rehearsed worlds with {escape(str(summary['method']))}, before any deployment."),
        tag("ul", *(tag("li", escape(line)) for line in told[1:])),
        tag("h2", "Points gained by adapting, by shift and severity"),
        tag("div", _heat(rows), class_="wide"),
        tag("h2", "Guessed and true gain, in points"),
        tag("p", "Each dot is a world, judged without having seen its shift. Blue: the adapter. Orange: copies from "
            "other worlds, and failures injected on purpose. Left above the line: better than guessed."),
        _scatter(rows, guesses),
        tag("h2", "How often the bound holds"),
        _coverage(summary["fit"]["coverage"]),
        tag("h2", "Where adapting hurt most"),
        tag("div", _worst(rows, guesses, lower), class_="wide"),
    ]  # fmt: skip
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>Rehearsal</title><style>{STYLE}</style>'
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>{"".join(body)}</main></body></html>\n'


def _heat(rows: Sequence[Row]) -> str:
    found = cells(rows)
    severities = sorted({severity for _, severity in found})
    families = sorted(
        {family for family, _ in found}, key=lambda f: max(found.get((f, s), -1) for s in severities)
    )
    head = tag("tr", tag("th", "shift"), *(tag("th", f"severity {s}") for s in severities))
    lines = (
        tag("tr", tag("th", escape(f)), *(_cell(found.get((f, s))) for s in severities)) for f in families
    )
    return tag("table", head, *lines)


def _cell(gain: float | None) -> str:
    if gain is None:
        return tag("td", "–")
    much = min(abs(gain) / 0.2, 1) * 0.7
    return tag(
        "td", f"{100 * gain:+.1f}", class_="gain" if gain >= 0 else "loss", style=f"--much: {much:.2f}"
    )


def _scatter(rows: Sequence[Row], guesses: Sequence[float]) -> str:
    most = max([0.05, *(abs(v) for v in (*guesses, *(row.gain for row in rows)) if v == v)])

    def place(value: float) -> float:
        return round(EDGE + (SIDE - 2 * EDGE) * (value + most) / (2 * most), 1)

    dots = [
        tag("circle", tag("title", escape(_name(row))), cx=place(guess), cy=round(SIDE - place(row.gain), 1), r=3,
            class_="dot" if row.kind in ("adapted", "second", "sibling") else "dot failure")
        for row, guess in zip(rows, guesses, strict=True) if guess == guess
    ]  # fmt: skip
    low, high, zero = place(-most), place(most), place(0)
    frame = [
        tag("path", class_="axis", d=f"M{low} {SIDE - zero}H{high}M{zero} {SIDE - low}V{SIDE - high}"),
        tag("path", class_="even", d=f"M{low} {SIDE - low}L{high} {SIDE - high}"),
        tag("text", f"guessed, up to {100 * most:.0f}", x=high, y=SIDE - zero - 6, text_anchor="end"),
        tag("text", f"true, up to {100 * most:.0f}", x=zero + 6, y=SIDE - high + 4),
    ]
    said = "Guessed against true gain of every world"
    return tag("svg", *frame, *dots, viewBox=f"0 0 {SIDE:g} {SIDE:g}", role="img", aria_label=said)


def _coverage(found: Mapping[str, float]) -> str:
    head = tag("tr", tag("th", "wanted"), tag("th", "found"))
    lines = (
        tag("tr", tag("th", f"{1 - float(a):.0%}"), tag("td", f"{share:.1%}")) for a, share in found.items()
    )
    return tag("table", head, *lines)


def _worst(rows: Sequence[Row], guesses: Sequence[float], lower: Sequence[float]) -> str:
    known = {id(row): (guess, low) for row, guess, low in zip(rows, guesses, lower, strict=True)}
    head = tag("tr", *(tag("th", name) for name in ("world", "served before", "gain", "guess", "bound")))
    lines = (
        tag("tr", tag("th", escape(_name(row))), tag("td", f"{row.accuracy:.1%}"),
            *(tag("td", f"{100 * v:+.1f}") for v in (row.gain, *known[id(row)])))
        for row in sorted(adapted(rows), key=lambda row: row.gain)[:WORST]
    )  # fmt: skip
    return tag("table", head, *lines)


def _name(row: Row) -> str:
    return f"{row.family} {row.severity}, {row.structure}, {row.kind}: {100 * row.gain:+.1f}"
