"""The page of a rehearsal: one HTML file without network, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from tta_agent.demo.svg import tag
from tta_agent.rehearsal.play import Row
from tta_agent.rehearsal.scatter import scatter
from tta_agent.rehearsal.words import adapted, cells, named
from tta_agent.reports.words import points

STYLE = """
:root { --bg: #fcfcfb; --ink: #1b1f24; --soft: #57606a; --rule: #e1e4e8; --more: #b9c0c8; --good: 0,114,178;
  --bad: 196,85,0; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171b; --ink: #e6e8ea; --soft: #9aa4af; --rule: #2c323a;
  --more: #59636f; --good: 86,180,233; --bad: 230,159,0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.6rem; line-height: 1.25; text-wrap: balance; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem; }
p { color: var(--soft); max-width: 46rem; } ul { padding-left: 1.25rem; max-width: 46rem; }
.wide { overflow-x: auto; background: linear-gradient(to left, var(--bg) 1rem, transparent 2rem) right / 2rem 100%
  no-repeat local, linear-gradient(to left, var(--more), transparent) right / 1.25rem 100% no-repeat scroll; }
table { border-collapse: collapse; } th, td { white-space: nowrap; }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid var(--rule); }
th:first-child { text-align: left; padding-left: 0; position: sticky; left: 0; background: var(--bg); }
th { font-weight: 400; color: var(--soft); }
td.gain { background: rgba(var(--good), var(--much)); } td.loss { background: rgba(var(--bad), var(--much)); }
svg { display: block; width: 100%; max-width: 34rem; font-size: 13px; } svg text { fill: var(--soft); }
.rule { stroke: var(--rule); } .axis { stroke: var(--soft); fill: none; }
.even { stroke: var(--soft); stroke-dasharray: 4 4; }
.dot { fill: rgba(var(--good), .65); } .dot.failure { fill: rgba(var(--bad), .55); }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; font-size: .875rem; }
.legend svg { display: inline-block; width: .7rem; margin-right: .4rem; }
@media (max-width: 30rem) { body { padding: 1.25rem 1rem 3rem; } svg { font-size: 17px; }
  th, td { padding: .3rem .6rem; } tbody th:first-child { white-space: normal; max-width: 9rem; } }
"""
WORST = 10  # worlds listed
STRONGEST = 0.2  # gain of which a cell has its full colour
INK = 0.55  # of that colour: text on it stays readable, light and dark


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
        tag("p", f"{len(rows)} rehearsed worlds with {escape(str(summary['method']))}, before any deployment. A "
            "world is your labelled images under one shift, of one severity, in one order of arrival. All points are "
            "percentage points of accuracy: those of the candidate less those of what served before."),
        tag("ul", *(tag("li", escape(line)) for line in told[1:])),
        tag("h2", "Points gained by adapting, by shift and severity"),
        tag("p", "From severity 1, slight, to 5, strong; mean of the worlds played, – where none was. Blue: adapting "
            "helped. Orange: it harmed. The row clean has no shift, so no severity either."),
        tag("div", _heat(rows), class_="wide"),
        tag("h2", "Guessed and true gain"),
        tag("p", "Each dot is a world. Its gain was guessed without labels, by what was learnt from other shifts "
            "only. On the dashed line the guess is right; above it the truth is better, below it worse."),
        scatter(rows, guesses),
        tag("h2", "How often the bound holds"),
        tag("p", "The bound is the least gain to be expected; the gate promotes where it is above zero. Wanted: how "
            "often the true gain should be no less than it. Found: how often it was."),
        _coverage(summary["fit"]["coverage"]),
        tag("h2", "Where adapting hurt most, or helped least"),
        tag("p", f"The worlds of least gain, {WORST} at most. Gain, guess and bound in points."),
        tag("div", _worst(rows, guesses, lower), class_="wide"),
    ]  # fmt: skip
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>tta-agent rehearse: {escape(told[0])}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body><main>{"".join(body)}</main></body></html>\n'


def _table(head: Sequence[str], lines: Iterable[str]) -> str:
    top = tag("tr", *(tag("th", escape(name), scope="col") for name in head))
    return tag("table", tag("thead", top), tag("tbody", *lines))


def _line(name: str, *cells: str) -> str:
    return tag("tr", tag("th", escape(name), scope="row"), *cells)


def _heat(rows: Sequence[Row]) -> str:
    found = cells(rows)
    severities = sorted({severity for _, severity in found})
    families = sorted(
        {family for family, _ in found}, key=lambda f: max(found.get((f, s), -1) for s in severities)
    )
    lines = (_line(f, *(_cell(found.get((f, s))) for s in severities)) for f in families)
    return _table(["shift", *(f"severity {s}" for s in severities)], lines)


def _cell(gain: float | None) -> str:
    if gain is None:
        return tag("td", "–")
    much = min(abs(gain) / STRONGEST, 1) * INK
    return tag("td", points(gain), class_="gain" if gain >= 0 else "loss", style=f"--much: {much:.2f}")


def _coverage(found: Mapping[str, float]) -> str:
    lines = (_line(f"{1 - float(a):.0%}", tag("td", f"{share:.1%}")) for a, share in found.items())
    return _table(["wanted", "found"], lines)


def _worst(rows: Sequence[Row], guesses: Sequence[float], lower: Sequence[float]) -> str:
    known = {id(row): (guess, low) for row, guess, low in zip(rows, guesses, lower, strict=True)}
    lines = (
        _line(named(row), tag("td", f"{row.accuracy:.1%}"),
              *(tag("td", points(v)) for v in (row.gain, *known[id(row)])))
        for row in sorted(adapted(rows), key=lambda row: row.gain)[:WORST]
    )  # fmt: skip
    return _table(["world", "accuracy before", "gain", "guess", "bound"], lines)
