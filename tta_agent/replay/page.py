"""The page of a replay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_agent.core.errors import TtaError
from tta_agent.core.events import Event
from tta_agent.replay import chart
from tta_agent.replay.chart import colour
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
from tta_agent.reports.decisions import ListedEvent
from tta_agent.reports.page import render
from tta_agent.reports.words import clean, clock, kind, known, percent, points

MOST_BYTES = 1_900_000
DETAILS = (200, 50, 10, 0)  # decisions listed of each policy, fewer until the page is small enough
LISTED = set(Event) - {Event.RESUMED, Event.RESET, Event.CANDIDATE}
LEGEND = (
    ("source dashed", "frozen source", ""), ("oracle dotted", "oracle", ""),
    ("mark", "swap", "▲"), ("mark", "back", "▼"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a policy's cost: length `share`, 0 .. 1, and the figures beside it."""

    name: str
    colour: str
    share: float
    text: str


@dataclass(frozen=True, slots=True)
class PolicyDecisions:
    """Decisions of one policy, the latest of them listed."""

    name: str
    colour: str
    counts: str
    shown: Sequence[ListedEvent]
    earlier: int


def html(result: Result) -> str:
    """The page as one HTML file, under 2 MB.

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
    names = [clean(one["name"], 60) for one in policies]
    return render(
        "replay.html",
        command="replay",
        headline=headline(result),
        subtitle=subtitle(result),
        head=HEAD,
        policies=[source_cells(result), *map(cells, policies), oracle_cells(result)],
        terms=TERMS,
        chart=chart.chart(result),
        legend=[*((colour(i), name, "") for i, name in enumerate(names)), *LEGEND],
        cursor=chart.cursor(result),
        chance=chance(result),
        labels=[_labels(one, i) for i, one in enumerate(policies)],
        compute=[_compute(one, i, policies) for i, one in enumerate(policies)],
        domain_head=["domain", "records", "source", *names],
        domains=list(_domains(result)),
        decided=[_decided(one, i, most) for i, one in enumerate(policies)],
        number_head=["records", "time", "domain", "source", "oracle", *names],
        numbers=list(_numbers(result)),
    )


def _labels(policy: Mapping[str, Any], i: int) -> Bar:
    arrived, used, each = policy["labels_arrived"], policy["labels_used"], policy["labels_per_swap"]
    swaps = f", {each:,.0f} for each swap" if known(each) else ""
    text = f"{used:,} of {arrived:,} that came{swaps}"
    return _bar(policy, i, used / max(arrived, 1), text)


def _compute(policy: Mapping[str, Any], i: int, policies: Sequence[Mapping[str, Any]]) -> Bar:
    most = max([one["times_forward"] for one in policies] + [1e-9])
    text = f"{policy['times_forward']:.1f} × forward, {policy['seconds']:.1f} s in all"
    return _bar(policy, i, policy["times_forward"] / most, text)


def _bar(policy: Mapping[str, Any], i: int, share: float, text: str) -> Bar:
    return Bar(clean(policy["name"], 60), colour(i), min(max(share, 0.0), 1.0), text)


def _domains(result: Result) -> Iterator[list[str]]:
    for i, row in enumerate(result["domains"]):
        served = [_served(one["domains"][i]["served"], row["source"]) for one in result["policies"]]
        yield [clean(row["domain"], 60), f"{row['records']:,}", percent(row["source"]), *served]


def _served(share: Any, source: Any) -> str:
    gain = f" ({points(share - source)})" if known(share) and known(source) else ""
    return percent(share) + gain


def _decided(policy: Mapping[str, Any], i: int, most: int) -> PolicyDecisions:
    events = [event for event in policy["events"] if kind(event) in LISTED]
    shown = [ListedEvent.of(e, f"{e['record']:,} · {clock(e['t'])}") for e in events[-most:]] if most else []
    counted = (("swap", "swaps"), ("roll-back", "rollbacks"), ("verdict", "verdicts"))
    counts = ", ".join(f"{len(policy[name])} {one}{'s' * (len(policy[name]) != 1)}" for one, name in counted)
    return PolicyDecisions(clean(policy["name"], 60), colour(i), counts, shown, len(events) - len(shown))


def _numbers(result: Result) -> Iterator[list[str]]:
    for i, row in enumerate(result["windows"]):
        served = [percent(one["windows"]["served"][i]) for one in result["policies"]]
        place = f"{row['first']:,}", clock(row["t"]), clean(row["domain"], 60)
        yield [*place, percent(row["source"]), percent(row["oracle"]), *served]
