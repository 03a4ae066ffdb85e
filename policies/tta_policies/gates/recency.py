"""Is what arrives now still what the evidence speaks of?

Labels come late, and a proof counts from the candidate's birth: a candidate can be proven on noise just when clean
data return. Where the two graphs differ on a share of the latest records that is unlike the share among those that
labels have spoken of, the stream has changed meanwhile, and the proof waits until labels of the new kind have had
their say. Both shares are of all records, labelled or not, so that it does not matter which labels were asked for;
without any label (a rehearsed proof) the latest records are compared with all before them. Two shares, pooled
standard error.

It never rejects and proves nothing: it only holds back. It does not see a change after which both graphs differ
as often as before, and it sees one only after some dozens of records.
"""

from __future__ import annotations

import math

from tta_agent.evidence import Evidence
from tta_agent.types import Finding


class Recency:
    """Holds a proof back while the latest records are unlike those that it rests on.

    Args:
        latest: records that stand for what arrives now; half as many others are needed to compare.
        errors: standard errors by which the shares may differ.
    """

    def __init__(self, latest: int = 64, errors: float = 3.0) -> None:
        self.latest = latest
        self.errors = errors

    def judge(self, evidence: Evidence) -> Finding:
        """Value is the difference of the two shares in standard errors."""
        differs = evidence.serving.argmax(1) != evidence.candidate.argmax(1)
        latest, earlier = differs[-self.latest :], differs[: -self.latest]
        if evidence.spoken:
            earlier = earlier[: evidence.spoken]
        least = self.latest // 2
        if len(earlier) < least:
            reason = f"{len(earlier)} of {least} earlier records to compare with"
            return Finding("recency", 0.0, self.errors, "pass", reason)
        before, now = float(earlier.mean()), float(latest.mean())
        value = abs(now - before) / _error(before, len(earlier), now, len(latest))
        told = (
            f"differs on {now:.0%} of the latest {len(latest)} records, on {before:.0%} of those it rests on"
        )
        if value > self.errors:
            return Finding("recency", value, self.errors, "inconclusive", f"{told}: the stream has changed")
        return Finding("recency", value, self.errors, "pass", told)


def _error(p: float, n: int, q: float, m: int) -> float:
    """Standard error of the difference of two shares when nothing differs; never 0."""
    share = (n * p + m * q) / (n + m)
    return math.sqrt(max(share * (1 - share), 1e-12) * (1 / n + 1 / m))
