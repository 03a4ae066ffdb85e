"""Logged events as the list of decisions of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tta_agent.reports.words import VERDICTS, LogLine, clean, number, tone, words


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """A logged event, for the macro `decisions` of the templates.

    Attributes:
        when: its time, for people.
        tone: as `words.tone`.
        tally: number of gates, and the names of those that failed; empty where no gate was asked.
        findings: of each gate, its verdict and the cells of its row.
    """

    when: str
    text: str
    tone: str
    tally: str
    findings: Sequence[tuple[str, Sequence[str]]]

    @classmethod
    def of(cls, line: LogLine, when: str) -> ListedEvent:
        """From a line of `events.jsonl`."""
        findings = line.get("findings") or []
        cells = [(str(finding.get("verdict")), _cells(finding)) for finding in findings]
        return cls(when, words(line), tone(line), _tally(findings), cells)


def _tally(findings: Sequence[Mapping[str, Any]]) -> str:
    if not findings:
        return ""
    failed = [clean(finding.get("gate", "")) for finding in findings if finding.get("verdict") == "fail"]
    gates = f"{len(findings)} gate{'s' * (len(findings) != 1)}"
    return gates + (f", failed: {', '.join(failed)}" if failed else "")


def _cells(finding: Mapping[str, Any]) -> list[str]:
    verdict = str(finding.get("verdict"))
    value, threshold = (number(finding.get(name), "{:.4g}") for name in ("value", "threshold"))
    said = VERDICTS.get(verdict, (verdict, ""))[0]
    return [clean(c) for c in (finding.get("gate", ""), said, value, threshold, finding.get("reason", ""))]
