"""What is left when the demo has ended: a table, a picture, and a page that needs no network."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.table import Table
from rich.text import Text

from tta_agent.demo.view import DASH, VERDICTS, bounds, clean, clock, known, number, percent, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Result: TypeAlias = Mapping[str, Any]
Row: TypeAlias = tuple[str, str, str]

# Okabe and Ito's colours: told apart with every kind of colour vision, and in grey by their lightness
BLUE, VERMILLION, PURPLE, GREEN, INK = "#0072B2", "#D55E00", "#9C4F7E", "#00795A", "#1b1f24"
SHADE = "#f3ead9"
LEFT, RIGHT, WIDTH, HEIGHT = 46.0, 906.0, 960, 440
MOST_POINTS, MOST_EVENTS = 400, 100


def write(result: Result, folder: Path) -> dict[str, Path]:
    """Write `demo.png` and `demo.html` into the folder; returns both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    png, page = folder / "demo.png", folder / "demo.html"
    _draw(result, png)
    page.write_text(html(result), encoding="utf-8", errors="xmlcharrefreplace")
    return {"png": png, "html": page}


# ---- numbers


def headline(result: Result) -> str:
    """What happened, in a sentence."""
    swaps, failed = result.get("swaps") or 0, result.get("failed_requests")
    without = f", with {failed:,} failed request{'' if failed == 1 else 's'}" if known(failed) else ""
    if not swaps:
        return f"Nothing was swapped{without}"
    times = "1 swap" if swaps == 1 else f"{swaps} swaps"
    if not known(result.get("recovered")):
        return times + without
    return f"{result['recovered']:.0%} of the lost accuracy recovered by {times}{without}"


def subtitle(result: Result) -> str:
    """What was done, in a sentence."""
    shift = result.get("shift") or {}
    name, severity = clean(shift.get("name"), 60), number(shift.get("severity"), "{}")
    requests, seconds = number(result.get("requests"), "{:,}"), number(result.get("seconds"), "{:.0f}")
    shifted = f"shift: {name} from {clock(shift.get('started_s'))}, severity {severity}"
    return f"{requests} requests in {seconds} s; {shifted}; seed {number(result.get('seed'), '{}')}"


def sections(result: Result) -> list[list[Row]]:
    """The closing table: what, of the served model, of the frozen source."""
    get = result.get
    before, after = get("source_accuracy_after_shift"), get("source_accuracy_after_swap")
    accuracies = [
        ("accuracy, clean", percent(get("clean_accuracy")), percent(get("clean_accuracy"))),
        ("accuracy, shifted, before the swap", percent(get("served_accuracy_before_swap")), percent(before)),
        ("accuracy, shifted, after the swap", percent(get("served_accuracy_after_swap")), percent(after)),
        ("share of the loss recovered", number(get("recovered"), "{:.0%}"), ""),
    ]
    names = ("swaps", "rollbacks", "failed_requests", "unknown_answers", "labels_used", "labels_sent")
    counts = [(name.replace("_", " "), number(get(name), "{:,}"), "") for name in names]
    phases = {**dict.fromkeys(("clean", "adapting", "swapping")), **(get("latency_ms") or {})}
    speeds = [(f"latency while {name}, p50 / p99", _latency(at or {}), "") for name, at in phases.items()]
    return [accuracies, counts, [*speeds, ("seconds", number(get("seconds"), "{:.1f}"), "")]]


def _latency(at: Mapping[str, Any]) -> str:
    p50, p99 = at.get("p50"), at.get("p99")
    return f"{number(p50, '{:.1f}')} / {number(p99, '{:.1f}')} ms" if known(p50) or known(p99) else DASH


def table(result: Result) -> Table:
    """The closing table for a terminal."""
    drawn = Table(title=Text(headline(result), "bold"), title_justify="left")
    drawn.add_column("")
    drawn.add_column("served", justify="right", style="bold cyan", no_wrap=True)
    drawn.add_column("frozen source", justify="right", style="dark_orange", no_wrap=True)
    for section in sections(result):
        for row in section:
            drawn.add_row(*(Text(cell) for cell in row))
        drawn.add_section()
    return drawn


def points(result: Result, most: int = MOST_POINTS) -> list[dict[str, Any]]:
    """The timeline without what no chart can show, thinned to at most so many moments."""
    names = ("served", "source", "version", "entropy", "kept")
    rows = [row for row in result.get("timeline") or [] if known(row.get("t"))]
    thin = rows[:: max(math.ceil(len(rows) / most), 1)]
    return [{"t": row["t"]} | {n: row.get(n) if known(row.get(n)) else None for n in names} for row in thin]


@dataclass(frozen=True, slots=True)
class Move:
    """Another version began to serve; `row` is 1 where the label would touch the one before it."""

    t_s: float
    kind: str
    version: str
    row: int

    @property
    def label(self) -> str:
        """For the chart."""
        return f"{'swap' if self.kind == 'swap' else 'back'} to {self.version}"


def moves(result: Result) -> list[Move]:
    """The latest swaps and roll-backs, as many as a chart can bear."""
    found: list[Move] = []
    near_s = 0.1 * span_s(result)
    told = [
        e for e in result.get("events") or [] if e.get("event") in ("swap", "rollback") and known(e.get("t"))
    ]
    for event in told[-MOST_EVENTS:]:
        t = float(event["t"])
        near = bool(found) and t - found[-1].t_s < near_s
        version = clean(event.get("version"), 12)
        found.append(Move(t, event["event"], version, int(near and not found[-1].row)))
    return found


def span_s(result: Result) -> float:
    """Length of the time axis."""
    ends = [row["t"] for row in points(result)] + [result.get("seconds")]
    return max([float(end) for end in ends if known(end)] + [1.0])


def ticks(span: float) -> list[float]:
    """Round moments, nine at most."""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800)
    step = next((step for step in steps if span / step <= 9), math.ceil(span / 9))
    return [float(i * step) for i in range(int(span / step) + 1)]


# ---- the picture


def _draw(result: Result, path: Path) -> None:
    # not pyplot: that would choose a window system, and keep the figure alive
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5.8), dpi=160, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    above.set_title(headline(result), loc="left", pad=52, fontsize=13, fontweight="bold", color=INK)
    _note(above, subtitle(result), (0, 1), (0, 36), fontsize=9, color="#57606a")
    _accuracy_panel(above, result)
    _entropy_panel(below, result)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        _shade(axes, result)
        for move in moves(result):
            swap = move.kind == "swap"
            axes.axvline(move.t_s, color=INK if swap else VERMILLION, lw=1, ls="-" if swap else ":")
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
    rows = points(result)
    times = [row["t"] for row in rows]
    axes.plot(times, _column(rows, "source", 100), "--", color=VERMILLION, lw=1.8, label="frozen source")
    axes.plot(times, _column(rows, "served", 100), "-", color=BLUE, lw=2.4, label="served")
    low, high = bounds(row[name] for row in rows for name in ("served", "source"))
    axes.set(ylabel="accuracy, %", ylim=(100 * low, 100 * high), xlim=(0, span_s(result)))
    axes.grid(axis="y", color="#dcdfe3")
    axes.legend(loc="lower left", frameon=True, framealpha=0.9, edgecolor="none", fontsize=9)
    for move in moves(result):
        _note(axes, move.label, (move.t_s, 1), (0, 4 + 12 * move.row), ha="center", fontsize=9, color=INK)
    shift = result.get("shift") or {}
    if known(shift.get("started_s")):
        name = f"shift: {clean(shift.get('name', ''), 40)}"
        _note(axes, name, (shift["started_s"], 1), (5, -13), fontsize=9, color="#57606a")


def _entropy_panel(axes: Axes, result: Result) -> None:
    rows = points(result)
    times, twin = [row["t"] for row in rows], axes.twinx()
    axes.plot(times, _column(rows, "entropy"), "-", color=PURPLE, lw=1.6)
    twin.plot(times, _column(rows, "kept", 100), "--", color=GREEN, lw=1.6)
    axes.set_ylabel("entropy, nats", color=PURPLE)
    twin.set_ylabel("samples kept, %", color=GREEN)
    axes.set_ylim(0, _highest(rows, "entropy"))
    twin.set_ylim(0, 105)
    twin.spines["top"].set_visible(False)
    marks = ticks(span_s(result))
    axes.set_xticks(marks, [clock(t) for t in marks])
    axes.set_xlabel("minutes since the start")


def _shade(axes: Axes, result: Result) -> None:
    started_s = (result.get("shift") or {}).get("started_s")
    if known(started_s):
        axes.axvspan(started_s, max(span_s(result), started_s), color=SHADE, lw=0, zorder=0)


def _column(rows: Sequence[Mapping[str, Any]], name: str, scale: float = 1.0) -> list[float]:
    return [math.nan if row[name] is None else scale * row[name] for row in rows]


def _highest(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return 1.1 * max([float(row[name]) for row in rows if row[name] is not None] + [0.1])


# ---- the page


def tag(name: str, *inside: str, **attributes: object) -> str:
    """An element; `inside` is markup, attributes are escaped (`stroke_width` becomes `stroke-width`)."""
    given = "".join(f' {k.rstrip("_").replace("_", "-")}="{escape(str(v))}"' for k, v in attributes.items())
    return f"<{name}{given}>{''.join(inside)}</{name}>"


@dataclass(frozen=True, slots=True)
class Panel:
    """A part of the chart: times 0..span_s from left to right, values low..high from bottom to top."""

    top: float
    bottom: float
    low: float
    high: float
    span_s: float

    def x(self, t_s: float) -> float:
        """Where a moment lies."""
        return round(LEFT + (RIGHT - LEFT) * min(max(t_s / self.span_s, 0.0), 1.0), 1)

    def y(self, value: float) -> float:
        """Where a value lies."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.bottom - (self.bottom - self.top) * min(max(share, 0.0), 1.0), 1)

    def line(self, rows: Iterable[Mapping[str, Any]], name: str) -> str:
        """A line, broken where nothing is known."""
        path, pen = "", "M"
        for row in rows:
            if row[name] is not None:
                path += f"{pen}{self.x(row['t'])} {self.y(row[name])}"
            pen = "M" if row[name] is None else "L"
        return tag("path", class_=f"line {name}", d=path)

    def grid(self, values: Iterable[float], form: str, x: float = LEFT - 8, anchor: str = "end") -> str:
        """A rule for each value, and what it is."""
        rule = [tag("path", class_="rule", d=f"M{LEFT} {self.y(v)}H{RIGHT}") for v in values]
        text = [tag("text", form.format(v), x=x, y=self.y(v) + 4, text_anchor=anchor) for v in values]
        return "".join(rule + text)


def html(result: Result) -> str:
    """The page."""
    return Template(PAGE).substitute(
        headline=escape(headline(result)),
        subtitle=escape(subtitle(result)),
        chart=_chart(result),
        # inside <script> only "<" could end the data
        data=json.dumps({"span": span_s(result), "rows": points(result)}).replace("<", "\\u003c"),
        summary="".join(_summary(result)),
        decisions=_decisions(result),
        commands=_commands(result),
        numbers="".join(_numbers(result)),
        left=LEFT, right=RIGHT, width=WIDTH,
    )  # fmt: skip


def _chart(result: Result) -> str:
    rows, span = points(result), span_s(result)
    low, high = bounds(row[name] for row in rows for name in ("served", "source"))
    above, below = Panel(52, 250, low, high, span), Panel(304, 400, 0, _highest(rows, "entropy"), span)
    kept = Panel(304, 400, 0, 1.05, span)
    tens = [i / 10 for i in range(round(low * 10), round(high * 10) + 1)]
    times = [tag("text", clock(t), x=above.x(t), y=420, text_anchor="middle") for t in ticks(span)]
    parts = [
        _shift_band(result, above),
        above.grid(tens[:: 2 if len(tens) > 6 else 1], "{:.0%}"),
        below.grid([0, round(below.high / 1.1, 1)], "{:.1f}"),
        kept.grid([0, 1], "{:.0%}", RIGHT + 8, "start"),
        tag("text", "Accuracy over the last seconds", class_="name", x=0, y=14),
        tag("text", "Entropy in nats (left) and share of samples kept (right)", class_="name", x=0, y=290),
        *[tag("path", class_="axis", d=f"M{LEFT} {panel.bottom}H{RIGHT}") for panel in (above, below)],
        *times,
        below.line(rows, "entropy"), kept.line(rows, "kept"),
        above.line(rows, "source"), above.line(rows, "served"),
        *_moves(result, above),
        tag("path", class_="cursor", id="cursor", d="M0 52V400", visibility="hidden"),
    ]  # fmt: skip
    told = f"Accuracy over time. {headline(result)}. The numbers are in the table at the end of the page."
    return tag("svg", tag("title", escape(headline(result))), *parts, id="chart", role="img", tabindex=0,
               viewBox=f"0 0 {WIDTH} {HEIGHT}", aria_label=told)  # fmt: skip


def _shift_band(result: Result, panel: Panel) -> str:
    shift = result.get("shift") or {}
    if not known(shift.get("started_s")):
        return ""
    x = panel.x(shift["started_s"])
    bands = [
        tag("rect", class_="shift", x=x, width=round(RIGHT - x, 1), y=y, height=h)
        for y, h in ((52, 198), (304, 96))
    ]
    name = escape(f"shift: {clean(shift.get('name', ''), 40)}")
    return "".join(bands) + tag("text", name, class_="note", x=x + 6, y=66)


def _moves(result: Result, panel: Panel) -> Iterator[str]:
    for move in moves(result):
        x, y = panel.x(move.t_s), 46 - 15 * move.row
        said = tag("title", escape(f"{clock(move.t_s)} {move.kind}: version {move.version} serves"))
        rule = tag("path", d=f"M{x} {y + 3}V250M{x} 304V400")
        text = tag("text", escape(move.label), x=x, y=y, text_anchor="middle")
        yield tag("g", said, rule, text, class_=move.kind, data_version=move.version)


def _summary(result: Result) -> Iterator[str]:
    for section in sections(result):
        rows = (
            tag("tr", tag("th", escape(what), scope="row"), *(tag("td", escape(cell)) for cell in cells))
            for what, *cells in section
        )
        yield tag("tbody", *rows)


def _decisions(result: Result) -> str:
    events = list(result.get("events") or [])
    if not events:
        return tag("p", "Nothing was decided.")
    shown = events[-MOST_EVENTS:]
    more = len(events) - len(shown)
    before = tag("p", f"{more} earlier ones are in the agent's events.jsonl.") if more else ""
    return before + tag("ol", *(_decision(event) for event in shown), class_="decisions")


def _decision(event: Mapping[str, Any]) -> str:
    kind = clean(event.get("outcome") or event.get("event") or "").partition(",")[0].replace(" ", "_")
    said = tag("time", clock(event.get("t"))) + tag("span", escape(words(event)))
    findings = event.get("findings") or []
    if findings:
        head = tag(
            "tr",
            *(tag("th", name, scope="col") for name in ("gate", "verdict", "value", "threshold", "reason")),
        )
        body = tag("table", tag("thead", head), tag("tbody", *(_finding(finding) for finding in findings)))
        said += tag("details", tag("summary", "what the gates found"), tag("div", body, class_="wide"))
    return tag("li", said, class_=kind)


def _finding(finding: Mapping[str, Any]) -> str:
    verdict = str(finding.get("verdict"))
    said = VERDICTS.get(verdict, (verdict, ""))[0]
    value, threshold = number(finding.get("value"), "{:.4g}"), number(finding.get("threshold"), "{:.4g}")
    cells = (finding.get("gate", ""), said, value, threshold, finding.get("reason", ""))
    return tag("tr", *(tag("td", escape(clean(cell))) for cell in cells), class_=verdict)


def _commands(result: Result) -> str:
    ledger = Path(str(result.get("ledger") or "tta-state/versions"))
    store = ledger.parent if ledger.name == "versions" else ledger
    lines = {
        f"export TTA_STORE__PATH={shlex.quote(str(store))}": "the ledger of this run",
        "tta-agent versions": "every candidate, whether it was certified, and why",
        "tta-agent rollback": "the version that served before serves again",
        "tta-agent replay RECORDING --policy tent": "what `tta-agent record` kept, through any policy",
    }
    return "\n".join(f"{escape(command)}  {tag('i', '# ' + note)}" for command, note in lines.items())


def _numbers(result: Result) -> Iterator[str]:
    for row in points(result):
        shares = [percent(row["served"]), percent(row["source"])]
        rest = [number(row["version"], "{}"), number(row["entropy"], "{:.2f}"), number(row["kept"], "{:.0%}")]
        yield tag("tr", *(tag("td", cell) for cell in (clock(row["t"]), *shares, *rest)))


PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>tta-agent demo: $headline</title>
<style>
:root { --bg: #fcfcfb; --ink: #1b1f24; --soft: #57606a; --rule: #e1e4e8; --shift: #f3ead9; --card: #f3f4f5;
  --served: #0072B2; --source: #C45500; --entropy: #9C4F7E; --kept: #00795A; --bad: #B3261E; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #14171b; --ink: #e6e8ea; --soft: #9aa4af; --rule: #2c323a; --shift: #262219; --card: #1c2127;
    --served: #56B4E9; --source: #E69F00; --entropy: #DA9CC0; --kept: #3FC09A; --bad: #FF8A80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 2rem 1.25rem 4rem; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; text-wrap: balance; }
h2 { font-size: 1.1rem; margin: 2.5rem 0 .5rem; }
p { color: var(--soft); margin: 0 0 1rem; }
.wide { overflow-x: auto; }
figure { margin: 1.5rem 0 0; position: relative; }
svg { display: block; width: 100%; min-width: 44rem; font-size: 12px; touch-action: pan-x; }
svg text { fill: var(--soft); }
svg .name { fill: var(--ink); font-weight: 600; font-size: 13px; }
.rule { stroke: var(--rule); fill: none; }
.axis { stroke: var(--soft); fill: none; }
.shift { fill: var(--shift); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line.served { stroke: var(--served); stroke-width: 2.75; }
.line.source { stroke: var(--source); stroke-dasharray: 7 4; }
.line.entropy { stroke: var(--entropy); }
.line.kept { stroke: var(--kept); stroke-dasharray: 7 4; }
.swap path, .rollback path { stroke: var(--ink); stroke-width: 1.25; fill: none; }
.rollback path { stroke: var(--bad); stroke-dasharray: 2 3; }
svg .swap text, svg .rollback text { fill: var(--ink); font-weight: 600; }
.cursor { stroke: var(--soft); stroke-dasharray: 3 3; fill: none; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0; padding: 0; list-style: none;
  font-size: .875rem; }
.legend li::before { content: ""; display: inline-block; width: 1.75rem; margin-right: .4rem;
  vertical-align: middle; border-top: 3px solid var(--key); }
.legend .dashed::before { border-top-style: dashed; }
#readout { display: block; min-height: 1.5rem; font-size: .875rem; color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; }
th, td { padding: .3rem .75rem .3rem 0; text-align: right; border-bottom: 1px solid var(--rule); }
th:first-child, td:first-child { text-align: left; }
thead th, tbody th { font-weight: 400; color: var(--soft); }
tbody + tbody tr:first-child > * { border-top: 2px solid var(--soft); }
#summary { max-width: 42rem; }
#summary td { font-weight: 600; }
.decisions { list-style: none; margin: 0; padding: 0; }
.decisions li { padding: .4rem 0 .4rem .75rem; border-left: 4px solid var(--rule); }
.decisions li.certified, .decisions li.swap { border-color: var(--served); }
.decisions li.rejected, .decisions li.rollback, .decisions li.swap_failed { border-color: var(--bad); }
.decisions time { display: inline-block; min-width: 3.25rem; color: var(--soft); }
.decisions td, .decisions th { text-align: left; vertical-align: top; }
.decisions details { margin-left: 3.25rem; font-size: .875rem; }
.decisions tr.fail td:nth-child(2) { color: var(--bad); font-weight: 600; }
summary { cursor: pointer; color: var(--soft); }
pre { background: var(--card); padding: 1rem; border-radius: .5rem; overflow-x: auto; font-size: .875rem; }
pre i { color: var(--soft); font-style: normal; }
:focus-visible { outline: 2px solid var(--served); outline-offset: 2px; }
</style>
</head>
<body>
<main>
<h1>$headline</h1>
<p>$subtitle</p>
<figure>
<ul class="legend">
<li style="--key: var(--served)">served</li>
<li class="dashed" style="--key: var(--source)">frozen source</li>
<li style="--key: var(--entropy)">entropy</li>
<li class="dashed" style="--key: var(--kept)">kept</li>
</ul>
<output id="readout" for="chart">Point at the chart, or focus it and use the arrow keys.</output>
<div class="wide">$chart</div>
</figure>
<h2>Summary</h2>
<div class="wide"><table id="summary">
<thead><tr><th scope="col"></th><th scope="col">served</th><th scope="col">frozen source</th></tr></thead>
$summary
</table></div>
<h2>Decisions</h2>
$decisions
<h2>Look deeper</h2>
<pre>$commands</pre>
<h2>The chart in numbers</h2>
<details><summary>Show the table</summary>
<div class="wide"><table>
<thead><tr><th scope="col">time</th><th scope="col">served</th><th scope="col">frozen source</th>
<th scope="col">version</th><th scope="col">entropy</th><th scope="col">kept</th></tr></thead>
<tbody>$numbers</tbody>
</table></div></details>
</main>
<script type="application/json" id="data">$data</script>
<script>
const {span, rows} = JSON.parse(document.getElementById("data").textContent);
const chart = document.getElementById("chart"), cursor = document.getElementById("cursor");
const share = v => v === null ? "\u2013" : (100 * v).toFixed(1) + "%";
const clock = t => Math.floor(t / 60) + ":" + String(Math.floor(t % 60)).padStart(2, "0");
let at = -1;
function show(i) {
  if (!rows.length) return;
  at = Math.min(Math.max(i, 0), rows.length - 1);
  const row = rows[at], x = $left + ($right - $left) * Math.min(row.t / span, 1);
  cursor.setAttribute("d", "M" + x + " 52V400");
  cursor.setAttribute("visibility", "visible");
  const parts = [clock(row.t), "served " + share(row.served), "frozen source " + share(row.source),
    "version " + (row.version ?? "\u2013"), "entropy " + (row.entropy?.toFixed(2) ?? "\u2013"),
    "kept " + share(row.kept)];
  document.getElementById("readout").textContent = parts.join(" \u00b7 ");
}
chart.addEventListener("pointermove", event => {
  const box = chart.getBoundingClientRect();
  const t = ((event.clientX - box.left) / box.width * $width - $left) / ($right - $left) * span;
  show(rows.reduce((best, row, i) => Math.abs(row.t - t) < Math.abs(rows[best].t - t) ? i : best, 0));
});
chart.addEventListener("keydown", event => {
  const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (step) { show(at + step); event.preventDefault(); }
});
</script>
</body>
</html>
"""
