"""Guessed against true gain of every rehearsed world, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from tta_agent.demo.svg import tag
from tta_agent.rehearsal.play import Row
from tta_agent.rehearsal.words import named
from tta_agent.reports.words import points

LEFT, RIGHT, TOP, BOTTOM = 72.0, 458.0, 12.0, 398.0  # a square: the line of right guesses is a diagonal
WIDTH, HEIGHT = 480, 452
LEAST = 0.05  # points / 100 shown to both sides at least
STEPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
MEANT = ("adapted", "second", "sibling")  # kinds in which the adapter did what it was meant to do
KINDS = (
    ("dot", "the adapter as configured"),
    ("dot failure", "copies from other worlds, and failures injected on purpose"),
)


@dataclass(frozen=True, slots=True)
class Scale:
    """Gains, as shares, to places; both axes have the same."""

    low: float
    high: float
    step: float

    @classmethod
    def of(cls, gains: Sequence[float]) -> Scale:
        """One that holds all of them, and ends on its own steps."""
        low, high = min(-LEAST, *gains), max(LEAST, *gains)
        step = next((s for s in STEPS if (high - low) / s <= 8), STEPS[-1])
        return cls(step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9), step)

    def x(self, gain: float) -> float:
        """From the left."""
        return round(LEFT + (RIGHT - LEFT) * (gain - self.low) / (self.high - self.low), 1)

    def y(self, gain: float) -> float:
        """From the top."""
        return round(BOTTOM - (BOTTOM - TOP) * (gain - self.low) / (self.high - self.low), 1)

    def ticks(self) -> list[float]:
        """Gains at which a rule is drawn."""
        count = round((self.high - self.low) / self.step)
        return [self.low + i * self.step for i in range(count + 1)]


def scatter(rows: Sequence[Row], guesses: Sequence[float]) -> str:
    """Legend and chart. A world without a guess has no dot."""
    told = [(row, guess) for row, guess in zip(rows, guesses, strict=True) if guess == guess]
    scale = Scale.of([value for row, guess in told for value in (row.gain, guess)])
    # the adapter's own worlds last, so that nothing hides them
    dots = (_dot(row, guess, scale) for row, guess in sorted(told, key=lambda pair: pair[0].kind in MEANT))
    said = "Guessed against true gain of every world, in percentage points"
    return _legend() + tag("svg", *_frame(scale), *dots, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
                           aria_label=said)  # fmt: skip


def _legend() -> str:
    def key(style: str) -> str:
        return tag(
            "svg", tag("circle", cx=5, cy=5, r=5, class_=style), viewBox="0 0 10 10", aria_hidden="true"
        )

    return tag("ul", *(tag("li", key(style), escape(said)) for style, said in KINDS), class_="legend")


def _frame(scale: Scale) -> Iterator[str]:
    for gain in scale.ticks():
        x, y, number = scale.x(gain), scale.y(gain), f"{round(100 * gain):+d}".replace("+0", "0")
        style = "axis" if abs(gain) < 1e-9 else "rule"
        yield tag("path", class_=style, d=f"M{LEFT} {y}H{RIGHT}M{x} {TOP}V{BOTTOM}")
        yield tag("text", number, x=LEFT - 6, y=y + 4, text_anchor="end")
        yield tag("text", number, x=x, y=BOTTOM + 22, text_anchor="middle")
    yield tag("path", class_="even", d=f"M{LEFT} {BOTTOM}L{RIGHT} {TOP}")
    yield tag("text", "guessed gain, points", x=(LEFT + RIGHT) / 2, y=BOTTOM + 46, text_anchor="middle")
    yield tag("text", "true gain, points", transform=f"translate(20 {(TOP + BOTTOM) / 2}) rotate(-90)",
              text_anchor="middle")  # fmt: skip


def _dot(row: Row, guess: float, scale: Scale) -> str:
    style = KINDS[row.kind not in MEANT][0]
    kind = "" if row.kind == "adapted" else f" ({row.kind})"
    told = tag("title", escape(f"{named(row)}{kind}: {points(row.gain)} points, {points(guess)} guessed"))
    return tag("circle", told, cx=scale.x(guess), cy=scale.y(row.gain), r=3.5, class_=style)
