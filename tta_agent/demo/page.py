"""The page of a demo: one HTML file that needs no network, made of `assets/page.html`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from tta_agent.demo import svg
from tta_agent.demo.summary import Result, headline, sections, subtitle
from tta_agent.demo.svg import tag
from tta_agent.demo.timeline import MOST_EVENTS, points, span_s
from tta_agent.reports.words import VERDICTS, clean, clock, number, percent, words
from tta_agent.samples.dataset import ASSETS


def html(result: Result) -> str:
    """The page."""
    return Template((ASSETS / "page.html").read_text(encoding="utf-8")).substitute(
        headline=escape(headline(result)),
        subtitle=escape(subtitle(result)),
        chart=svg.chart(result),
        # inside <script> only "<" could end the data
        data=json.dumps({"span": span_s(result), "rows": points(result)}).replace("<", "\\u003c"),
        summary="".join(_summary(result)),
        decisions=_decisions(result),
        commands=_commands(result),
        numbers="".join(_numbers(result)),
        left=svg.LEFT, right=svg.RIGHT, width=svg.WIDTH, top=svg.ABOVE[0], bottom=svg.BELOW[1],
    )  # fmt: skip


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
