"""Predicted against true gain of every rehearsed scenario, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tta_agent.evaluation.rehearsed.table import RehearsedRow
from tta_agent.rehearsal.words import named
from tta_agent.reports.svg import tag
from tta_agent.reports.words import points

LEFT, RIGHT, TOP, BOTTOM = 72.0, 458.0, 12.0, 398.0  # a square: right predictions lie on its diagonal
WIDTH, HEIGHT = 480, 452
LEAST = 0.05  # points / 100 shown to both sides at least
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
MEANT = ("adapted", "second", "sibling")  # kinds in which the adapter did what it was meant to do
KINDS = (
    ("dot", "the adapter as configured"),
    ("dot failure", "copies from other scenarios, and failures injected on purpose"),
)


@dataclass(frozen=True, slots=True)
class Scale:
    """Gains, as shares, to places in the chart; the same scale for both axes."""

    low: float
    high: float
    step: float

    @classmethod
    def of(cls, gains: Sequence[float]) -> Scale:
        """The smallest scale of whole steps that holds all gains."""
        low, high = min(-LEAST, *gains), max(LEAST, *gains)
        step = next((s for s in STEPS if (high - low) / s <= 8), STEPS[-1])
        return cls(step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9), step)

    def x(self, gain: float) -> float:
        """Horizontal place of a gain."""
        return round(LEFT + (RIGHT - LEFT) * (gain - self.low) / (self.high - self.low), 1)

    def y(self, gain: float) -> float:
        """Vertical place of a gain."""
        return round(BOTTOM - (BOTTOM - TOP) * (gain - self.low) / (self.high - self.low), 1)

    def ticks(self) -> list[float]:
        """Gains at which rules are drawn."""
        count = round((self.high - self.low) / self.step)
        return [self.low + i * self.step for i in range(count + 1)]


def scatter(rows: Sequence[RehearsedRow], guesses: Sequence[float]) -> Markup:
    """The chart. A scenario without a prediction (NaN) has no dot."""
    shown = [(row, guess) for row, guess in zip(rows, guesses, strict=True) if guess == guess]
    scale = Scale.of([value for row, guess in shown for value in (row.gain, guess)])
    # the adapter's own scenarios last, so that nothing hides them
    dots = (_dot(row, guess, scale) for row, guess in sorted(shown, key=lambda pair: pair[0].kind in MEANT))
    said = "Predicted against true gain of every scenario, in percentage points"
    return tag("svg", *_frame(scale), *dots, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=said)


def _frame(scale: Scale) -> Iterator[Markup]:
    for gain in scale.ticks():
        x, y, number = scale.x(gain), scale.y(gain), f"{round(100 * gain):+d}".replace("+0", "0")
        style = "axis" if abs(gain) < 1e-9 else "rule"
        yield tag("path", class_=style, d=f"M{LEFT} {y}H{RIGHT}M{x} {TOP}V{BOTTOM}")
        yield tag("text", number, x=LEFT - 6, y=y + 4, text_anchor="end")
        yield tag("text", number, x=x, y=BOTTOM + 22, text_anchor="middle")
    yield tag("path", class_="even", d=f"M{LEFT} {BOTTOM}L{RIGHT} {TOP}")
    yield tag("text", "predicted gain, points", x=(LEFT + RIGHT) / 2, y=BOTTOM + 46, text_anchor="middle")
    yield tag("text", "true gain, points", transform=f"translate(20 {(TOP + BOTTOM) / 2}) rotate(-90)",
              text_anchor="middle")  # fmt: skip


def _dot(row: RehearsedRow, guess: float, scale: Scale) -> Markup:
    style = KINDS[row.kind not in MEANT][0]
    kind = "" if row.kind == "adapted" else f" ({row.kind})"
    title = tag("title", f"{named(row)}{kind}: {points(row.gain)} points, {points(guess)} predicted")
    return tag("circle", title, cx=scale.x(guess), cy=scale.y(row.gain), r=3.5, class_=style)
