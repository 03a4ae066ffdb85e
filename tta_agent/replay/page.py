"""The page of a replay: one HTML file that needs no network, made of `assets/replay.html`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from tta_agent.core.errors import TtaError
from tta_agent.demo.svg import LEFT, RIGHT, WIDTH, tag
from tta_agent.replay.chart import BOTTOM, TOP, chart, colour, middle
from tta_agent.replay.words import (
    HEAD,
    TERMS,
    Result,
    cells,
    chance,
    headline,
    oracle_cells,
    source_cells,
    subtitle,
)
from tta_agent.reports.words import VERDICTS, clean, clock, known, number, percent, points, words

ASSET = Path(__file__).parent / "assets" / "replay.html"
MOST_BYTES = 1_900_000
DETAILS = (200, 50, 10, 0)  # decisions of a policy with their findings, fewer until the page is small enough
TOLD = (
    "adjourned",
    "reopened",
    "swap",
    "rollback",
    "fallback",
    "reinstated",
    "withdrawn",
    "confirmed",
    "swap_failed",
    "verdict",
    "awaiting",
)


def html(result: Result) -> str:
    """The page, under 2 MB.

    Raises:
        TtaError: too many policies for one page.
    """
    for most in DETAILS:
        page = _page(result, most)
        if len(page.encode()) < MOST_BYTES:
            return page
    raise TtaError(f"{len(result['policies'])} policies make a page of over 2 MB: replay fewer at once")


def _page(result: Result, most: int) -> str:
    policies = result["policies"]
    return Template(ASSET.read_text(encoding="utf-8")).substitute(
        headline=escape(headline(result)),
        subtitle=escape(subtitle(result)),
        legend="".join(_key(one, i) for i, one in enumerate(policies)),
        chart=chart(result),
        chance=escape(chance(result)),
        # inside <script> only "<" could end the data
        data=json.dumps(_data(result)).replace("<", "\\u003c"),
        terms="".join(tag("dt", escape(word)) + tag("dd", escape(said)) for word, said in TERMS),
        table=_table(HEAD, [source_cells(result), *map(cells, policies), oracle_cells(result)]),
        labels="".join(_labels(one, i) for i, one in enumerate(policies)),
        compute="".join(_compute(one, i, policies) for i, one in enumerate(policies)),
        domains=_domains(result),
        decisions="".join(_decisions(one, i, most) for i, one in enumerate(policies)),
        numbers=_numbers(result),
        left=LEFT, right=RIGHT, width=WIDTH, top=TOP, bottom=BOTTOM,
    )  # fmt: skip


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = tag("tr", *(tag("th", escape(name), scope="col") for name in head))
    body = (
        tag("tr", tag("th", escape(first), scope="row"), *(tag("td", escape(cell)) for cell in rest))
        for first, *rest in rows
    )
    return tag("table", tag("thead", top), tag("tbody", *body))


def _key(policy: Mapping[str, Any], i: int) -> str:
    return tag("li", escape(clean(policy["name"], 60)), class_=colour(i))


def _data(result: Result) -> dict[str, Any]:
    """What the chart says where one points: time, domain, then source, oracle and every policy."""
    columns = [one["windows"]["served"] for one in result["policies"]]
    rows = [
        [middle(row), round(row["t"]), row["domain"], row["source"], row["oracle"], *(c[i] for c in columns)]
        for i, row in enumerate(result["windows"])
    ]
    names = ["source", "oracle", *(one["name"] for one in result["policies"])]
    return {"span": max(result["records"], 1), "names": names, "rows": rows}


def _bar(name: str, i: int, share: float, said: str) -> str:
    fill = tag("i", class_=colour(i), style=f"width: {100 * min(max(share, 0.0), 1.0):.1f}%")
    return tag("li", tag("span", escape(clean(name, 60))), tag("b", fill), tag("em", escape(said)))


def _labels(policy: Mapping[str, Any], i: int) -> str:
    arrived, used, each = policy["labels_arrived"], policy["labels_used"], policy["labels_per_swap"]
    swaps = f", {each:,.0f} for each swap" if known(each) else ""
    said = f"{used:,} of {arrived:,} that came{swaps}"
    return _bar(policy["name"], i, used / max(arrived, 1), said)


def _compute(policy: Mapping[str, Any], i: int, policies: Sequence[Mapping[str, Any]]) -> str:
    most = max([one["times_forward"] for one in policies] + [1e-9])
    said = f"{policy['times_forward']:.1f} × forward, {policy['seconds']:.1f} s in all"
    return _bar(policy["name"], i, policy["times_forward"] / most, said)


def _domains(result: Result) -> str:
    if not result["domains"]:
        return tag("p", "The recording names no domains.")
    policies = result["policies"]
    rows = [
        [clean(row["domain"], 60), f"{row['records']:,}", percent(row["source"]),
         *(_served(one["domains"][i]["served"], row["source"]) for one in policies)]
        for i, row in enumerate(result["domains"])
    ]  # fmt: skip
    return _table(["domain", "records", "source", *(one["name"] for one in policies)], rows)


def _served(share: Any, source: Any) -> str:
    gain = f" ({points(share - source)})" if known(share) and known(source) else ""
    return percent(share) + gain


def _decisions(policy: Mapping[str, Any], i: int, most: int) -> str:
    events = [event for event in policy["events"] if event["event"] in TOLD]
    shown = events[-most:] if most else []
    more = len(events) - len(shown)
    counted = (("swap", "swaps"), ("roll-back", "rollbacks"), ("verdict", "verdicts"))
    head = ", ".join(f"{len(policy[name])} {one}{'s' * (len(policy[name]) != 1)}" for one, name in counted)
    title = tag("h3", escape(clean(policy["name"], 60)), tag("small", head), class_=colour(i))
    before = tag("p", f"{more:,} earlier ones are in the JSON file.") if more else ""
    return title + before + tag("ol", *map(_decision, shown), class_=f"decisions {colour(i)}")


def _decision(event: Mapping[str, Any]) -> str:
    kind = clean(event.get("outcome") or event.get("event") or "").partition(",")[0].replace(" ", "_")
    did = words(event)
    why = f": {event['reason']}" if event.get("reason") and str(event["reason"]) not in did else ""
    said = tag("time", f"{event['record']:,} · {clock(event['t'])}")
    said += tag("span", escape(clean(did + why)))
    findings = event.get("findings") or []
    if findings:
        said += tag(
            "details", tag("summary", _tally(findings)), tag("div", _findings(findings), class_="wide")
        )
    return tag("li", said, class_=kind)


def _tally(findings: Sequence[Mapping[str, Any]]) -> str:
    failed = [str(finding["gate"]) for finding in findings if finding["verdict"] == "fail"]
    gates = "1 gate" if len(findings) == 1 else f"{len(findings)} gates"
    return escape(gates + (f", failed: {', '.join(failed)}" if failed else ""))


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    head = tag(
        "tr", *(tag("th", name, scope="col") for name in ("gate", "verdict", "value", "threshold", "reason"))
    )
    return tag("table", tag("thead", head), tag("tbody", *map(_finding, findings)))


def _finding(finding: Mapping[str, Any]) -> str:
    verdict = str(finding.get("verdict"))
    said = VERDICTS.get(verdict, (verdict, ""))[0]
    value, threshold = (number(finding.get(name), "{:.4g}") for name in ("value", "threshold"))
    told = (finding.get("gate", ""), said, value, threshold, finding.get("reason", ""))
    return tag("tr", *(tag("td", escape(clean(cell))) for cell in told), class_=verdict)


def _numbers(result: Result) -> str:
    policies = result["policies"]
    head = ["records", "time", "domain", "source", "oracle", *(one["name"] for one in policies)]
    return _table(head, list(_rows(result)))


def _rows(result: Result) -> Iterator[list[str]]:
    for i, row in enumerate(result["windows"]):
        served = [percent(one["windows"]["served"][i]) for one in result["policies"]]
        yield [f"{row['first']:,}", clock(row["t"]), clean(row["domain"], 60), percent(row["source"]),
               percent(row["oracle"]), *served]  # fmt: skip
