"""Result of a replay in words and figures, alike in the terminal's table and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from tta_agent.core.events import Event
from tta_agent.reports.words import MOVES, known, number, percent, points

Result: TypeAlias = Mapping[str, Any]  # of `outcome.compare`
HEAD = (
    "policy", "served", "against source", "online", "below oracle", "worst window", "swaps", "roll-backs",
    "labels used", "compute",
)  # fmt: skip
TERMS = (  # meaning of the columns, for the page
    ("served", "accuracy of the answers that users got, over the records whose label is known"),
    ("against source", "the same, less the accuracy of the deployed model, in percentage points"),
    ("online", "accuracy of the adapting copy itself, promoted or not"),
    ("below oracle", "percentage points below the oracle, which takes in each window the best of all, in hindsight"),
    ("worst window", "most percentage points below the source in one window"),
    ("labels used", "labels that the gate used for its decisions"),
    ("compute", "time of the agent, as a multiple of one plain forward pass over all records"),
)  # fmt: skip
EVEN = 0.0005  # half of the last digit shown


def headline(result: Result) -> str:
    """The best policy in a sentence."""
    told = [one for one in result["policies"] if known(one["gain"])]
    if not told:
        return "Nothing was labelled: no accuracy is known"
    best = max(told, key=lambda one: one["gain"])
    source = percent(result["source_accuracy"])
    if best["gain"] <= EVEN and len(told) > 1:
        return f"No policy serves better than the source, {source}"
    served, gain = percent(best["served_accuracy"]), points(best["gain"])
    return f"{best['name']} serves {served} right answers, the frozen source {source}: {gain} points"


def chance(result: Result) -> str:
    """Chance error of one window's accuracy in a sentence: two standard deviations, at an accuracy of a half."""
    labelled = sorted(row["labelled"] for row in result["windows"] if row["labelled"])
    if not labelled:
        return ""
    most = 100 / labelled[len(labelled) // 2] ** 0.5
    return f"In one window, {most:.0f} points more or less can be chance."


def subtitle(result: Result) -> str:
    """Records and labels of the replay in a sentence."""
    labels = result["labels"]
    told = f"{result['records']:,} records of {result['recording']}, {result['labelled']:,} labelled"
    whose = "of those that it asks for" if labels["which"] == "requested" else "of them"
    late = f"a label for {labels['rate']:.0%} {whose}, {labels['delay_s']:g} s late; seed {labels['seed']}"
    part = "" if result["complete"] else "; interrupted: some policies are missing"
    return f"{told}; {late}{part}"


def cells(policy: Mapping[str, Any]) -> list[str]:
    """Row of a policy under HEAD."""
    return [
        policy["name"],
        percent(policy["served_accuracy"]),
        points(policy["gain"]),
        percent(policy["online_accuracy"]),
        points(policy["regret"], "{:.1f}"),
        points(-policy["worst_window_below_source"] if known(policy["worst_window_below_source"]) else None),
        f"{len(policy['swaps'])}",
        f"{len(policy['rollbacks'])}",
        f"{policy['labels_used']:,}",
        f"{policy['times_forward']:.1f} × forward",
    ]


def source_cells(result: Result) -> list[str]:
    """Row of the source."""
    return [
        "frozen source",
        percent(result["source_accuracy"]),
        "",
        "",
        points(_room(result), "{:.1f}"),
        *[""] * 5,
    ]


def oracle_cells(result: Result) -> list[str]:
    """Row of the oracle."""
    return ["oracle, in hindsight", percent(result["oracle_accuracy"]), points(_room(result)), *[""] * 7]


def _room(result: Result) -> float | None:
    """Accuracy of the oracle less that of the source."""
    oracle, source = result["oracle_accuracy"], result["source_accuracy"]
    return oracle - source if known(oracle) and known(source) else None


def reason(event: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    """Reason of a change of the serving version: of the event, else of the verdict on that version."""
    if event.get("reason"):
        return str(event["reason"])
    same = [e for e in events if e["event"] == Event.VERDICT and e.get("version") == event.get("version")]
    findings = same[-1].get("findings") or [] if same else []
    proofs = [f for f in findings if f["gate"] in ("certificate", "average", "rehearsed", "guarded")]
    passed = [f for f in proofs or findings if f["verdict"] == "pass"]
    return str(passed[0]["reason"]) if passed else ""


def did(event: Mapping[str, Any]) -> str:
    """Label of a change of the serving version on the chart."""
    number_of = number(event.get("version"), "{}")
    return f"{MOVES[event['event']]} to {number_of}"
