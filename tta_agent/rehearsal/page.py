"""The page of a rehearsal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_agent.evaluation.rehearsed.table import RehearsedRow
from tta_agent.rehearsal.scatter import KINDS, scatter
from tta_agent.rehearsal.words import adapted, cells, named
from tta_agent.reports.page import render
from tta_agent.reports.words import points

WORST = 10  # scenarios listed
STRONGEST = 0.2  # gain of which a cell has its full colour
INK = 0.55  # of that colour: text on it stays readable, light and dark
SUBTITLE = (
    "{} rehearsed scenarios with {}, before any deployment. A scenario is your labelled images under one shift, of "
    "one severity, in one order of arrival. Gains are in percentage points of accuracy: of the candidate, less that "
    "of the serving model."
)


@dataclass(frozen=True, slots=True)
class HeatCell:
    """Mean gain of the scenarios of one shift and severity; `much`, 0 .. 1, is how strongly it is coloured."""

    text: str
    class_: str
    much: float


def html(rows: Sequence[RehearsedRow], summary: Mapping[str, Any], findings: Sequence[str]) -> str:
    """The page as one HTML file.

    Args:
        rows: of all scenarios, in the order of `summary["fit"]["guesses"]`.
        summary: of the rehearsal on disk.
        findings: sentences, see `words.findings`.
    """
    fit, means = summary["fit"], cells(rows)
    severities = sorted({severity for _, severity in means})
    return render(
        "rehearsal.html",
        command="rehearse",
        headline=findings[0],
        subtitle=SUBTITLE.format(len(rows), summary["method"]),
        findings=findings[1:],
        severities=severities,
        heat=[(family, [_cell(means.get((family, s))) for s in severities]) for family in _families(means)],
        legend=KINDS,
        scatter=scatter(rows, fit["guesses"]),
        coverage=[(f"{1 - float(a):.0%}", f"{share:.1%}") for a, share in fit["coverage"].items()],
        most=WORST,
        worst=list(_worst(rows, fit["guesses"], fit["lower"])),
    )


def _families(means: Mapping[tuple[str, int], float]) -> list[str]:
    """Families of shifts, those where adapting helps least first."""
    best = {family: max(m for (f, _), m in means.items() if f == family) for family, _ in sorted(means)}
    return sorted(best, key=best.__getitem__)


def _cell(gain: float | None) -> HeatCell:
    if gain is None:
        return HeatCell(points(None), "", 0.0)
    return HeatCell(points(gain), "gain" if gain >= 0 else "loss", min(abs(gain) / STRONGEST, 1) * INK)


def _worst(
    rows: Sequence[RehearsedRow], guesses: Sequence[float], lower: Sequence[float]
) -> Iterator[list[str]]:
    known = {id(row): (guess, low) for row, guess, low in zip(rows, guesses, lower, strict=True)}
    for row in sorted(adapted(rows), key=lambda row: row.gain)[:WORST]:
        yield [named(row), f"{row.accuracy:.1%}", *map(points, (row.gain, *known[id(row)]))]
