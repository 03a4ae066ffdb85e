"""The picture of a demo as PNG: accuracy above, entropy and kept samples below, over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tta_agent.core import extras
from tta_agent.demo import timeline
from tta_agent.demo.summary import Result, headline, subtitle
from tta_agent.reports.words import BAD, clock

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours: told apart with every kind of colour vision, and in grey by their lightness
BLUE, VERMILLION, PURPLE, GREEN, INK = "#0072B2", "#D55E00", "#9C4F7E", "#00795A", "#1b1f24"
SHADE, SOFT = "#f3ead9", "#57606a"


def draw(result: Result, path: Path) -> None:
    """Write the picture.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    extras.require("demo", path.name)
    # not pyplot: that would choose a window system, and keep the figure alive
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.8), dpi=160, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    above.set_title(headline(result), loc="left", pad=52, fontsize=13, fontweight="bold", color=INK)
    _note(above, subtitle(result), (0, 1), (0, 36), fontsize=9, color=SOFT)
    _accuracy_panel(above, result)
    _entropy_panel(below, result)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        _shade(axes, result)
        for move in timeline.moves(result):
            bad = move.kind in BAD
            axes.axvline(move.t_s, color=VERMILLION if bad else INK, lw=1, ls=":" if bad else "-")
    figure.savefig(path)


def _note(axes: Axes, text: str, at: tuple[float, float], off: tuple[float, float], **style: Any) -> None:
    # names come from users: a dollar sign is no formula
    axes.annotate(
        text,
        at,
        off,
        ("data", "axes fraction"),
        "offset points",
        annotation_clip=False,
        parse_math=False,
        **style,
    )


def _accuracy_panel(axes: Axes, result: Result) -> None:
    rows = timeline.points(result)
    times = [row["t"] for row in rows]
    axes.plot(times, _column(rows, "source", 100), "--", color=VERMILLION, lw=1.8, label="frozen source")
    axes.plot(times, _column(rows, "served", 100), "-", color=BLUE, lw=2.4, label="served")
    low, high = timeline.shares(rows)
    axes.set(ylabel="accuracy, %", ylim=(100 * low, 100 * high), xlim=(0, timeline.span_s(result)))
    axes.grid(axis="y", color="#dcdfe3")
    axes.legend(loc="lower left", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)
    for move in timeline.moves(result):
        _note(axes, move.label, (move.t_s, 1), (0, 4 + 12 * move.row), ha="center", fontsize=9, color=INK)
    shift_s = timeline.shift_s(result)
    if shift_s is not None:
        _note(axes, "shift", (shift_s, 1), (5, -13), fontsize=9, color=SOFT)


def _entropy_panel(axes: Axes, result: Result) -> None:
    rows = timeline.points(result)
    times, twin = [row["t"] for row in rows], axes.twinx()
    axes.plot(times, _column(rows, "entropy"), "-", color=PURPLE, lw=1.6)
    twin.plot(times, _column(rows, "kept", 100), "--", color=GREEN, lw=1.6)
    axes.set_ylabel("entropy, nats", color=PURPLE)
    twin.set_ylabel("samples kept, %", color=GREEN)
    axes.set_ylim(0, timeline.highest(rows, "entropy"))
    twin.set_ylim(0, 105)
    twin.spines["top"].set_visible(False)
    marks = timeline.ticks(timeline.span_s(result))
    axes.set_xticks(marks, [clock(t) for t in marks])
    axes.set_xlabel("minutes since the start")


def _shade(axes: Axes, result: Result) -> None:
    shift_s = timeline.shift_s(result)
    if shift_s is not None:
        axes.axvspan(shift_s, max(timeline.span_s(result), shift_s), color=SHADE, lw=0, zorder=0)


def _column(rows: Sequence[Mapping[str, Any]], name: str, scale: float = 1.0) -> list[float]:
    return [math.nan if row[name] is None else scale * row[name] for row in rows]
