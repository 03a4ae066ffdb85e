"""The outcome of a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from tta_agent.core.types import Array, StepReport
from tta_agent.scoring import sample_scores

SCORES = ("entropy", "confidence", "margin")


@dataclass(frozen=True, slots=True)
class StepResult:
    """Scores and report of one round. Logits [B, C]; entropy in nats, confidence and margin [B]."""

    logits: Array
    entropy: Array
    confidence: Array
    margin: Array
    dropped: Mapping[str, int]
    report: StepReport

    def numbers(self) -> dict[str, float | None]:
        """Means of the batch over finite scores, the share that was kept, and the loss, for the status."""
        scores = {name: getattr(self, name) for name in SCORES}
        finite = {name: values[np.isfinite(values)] for name, values in scores.items()}
        means = {name: float(values.mean()) if len(values) else None for name, values in finite.items()}
        return {**means, "kept": 1 - sum(self.dropped.values()) / len(self.logits), "loss": self.report.loss}


def scored(logits: Tensor) -> tuple[Array, Array, Array, Array]:
    """Logits [B, C] and their scores [B], as a result begins with."""
    entropy, confidence, margin = (getattr(sample_scores, name)(logits).cpu().numpy() for name in SCORES)
    return logits.cpu().numpy(), entropy, confidence, margin


def joined(parts: Sequence[StepResult]) -> StepResult:
    """Several pieces as one round."""

    def rows(name: str) -> Array:
        return np.concatenate([getattr(part, name) for part in parts])

    dropped: Counter[str] = Counter()
    for part in parts:
        dropped.update(part.dropped)
    reports = [part.report for part in parts]
    losses = [(r.loss, r.used) for r in reports if r.loss is not None]
    used = sum(r.used for r in reports)
    mean = sum(loss * n for loss, n in losses) / max(used, 1) if losses else None
    diagnostics = {name: value for r in reports for name, value in r.diagnostics.items()}
    report = StepReport(sum(r.seen for r in reports), used, mean, diagnostics)
    return StepResult(rows("logits"), rows("entropy"), rows("confidence"), rows("margin"), dropped, report)


def interleaved(inside: StepResult, outside: StepResult, kept: Array) -> StepResult:
    """Two pieces as one round, whose records [B] are those of `inside` where `kept` [B], in order."""
    both, order = joined([inside, outside]), np.argsort(np.argsort(~kept, kind="stable"))
    return replace(both, **{name: getattr(both, name)[order] for name in ("logits", *SCORES)})
