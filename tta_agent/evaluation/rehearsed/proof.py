"""Proof by rehearsal: the estimated gain of a candidate in production, from evidence without labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from tta_agent.core.evidence import AnchorResult, GainEstimate
from tta_agent.core.types import Array
from tta_agent.evaluation.rehearsed import regress
from tta_agent.evaluation.rehearsed.features import features
from tta_agent.evaluation.rehearsed.limits import limits
from tta_agent.evaluation.rehearsed.moved import moved
from tta_agent.evaluation.rehearsed.support import Support
from tta_agent.evaluation.rehearsed.table import EvidenceTable, RehearsedRow

ALPHA = 0.05
ALPHAS = (0.02, 0.05, 0.10)
FEWEST = 60  # rows below which there is no estimate


@dataclass(frozen=True, slots=True)
class Fit:
    """Errors of the estimate on families that were left out; slow to compute, so stored.

    Attributes:
        quantiles: of the scores, by alpha.
        coverage: share of rows at or above their bound, by alpha; aimed at 1 - alpha.
        error: mean absolute error, as a share of accuracy.
        correlation: of estimated and true gain.
        guesses: estimate of each row, by learners that have not seen its family.
        lower: bound of each row at `ALPHA`.
    """

    quantiles: Mapping[str, float]
    coverage: Mapping[str, float]
    error: float
    correlation: float
    guesses: Sequence[float]
    lower: Sequence[float]


def fit(rows: Sequence[RehearsedRow]) -> Fit:
    """Fit learners with every family left out in turn; about half a second each."""
    table = EvidenceTable.of(rows)
    guess = regress.left_out(table)
    value, families = regress.scores(guess, table.gains), np.array([row.family for row in rows])
    quantiles = {f"{alpha:g}": regress.quantile(value, families, alpha) for alpha in ALPHAS}
    error = np.abs(guess.gain - table.gains)
    return Fit(
        quantiles,
        {f"{alpha:g}": regress.coverage(table, guess, alpha) for alpha in ALPHAS},
        float(np.nanmean(error)),
        float(np.corrcoef(guess.gain, table.gains)[0, 1]),
        guess.gain.tolist(),
        regress.bound(guess, quantiles[f"{ALPHA:g}"]).tolist(),
    )


class GainEstimator:
    """Estimator of a candidate's gain.

    Args:
        rows: of all rehearsed scenarios.
        known: errors of the estimate, from `fit`.
        source: the deployed module.
        window: records of one estimate, in production as in the rehearsal.
        alpha: one of `ALPHAS`.
    """

    def __init__(
        self, rows: Sequence[RehearsedRow], known: Fit, source: nn.Module, window: int, alpha: float = ALPHA
    ) -> None:
        self.window, self.alpha, self.known, self._source = window, alpha, known, source
        self._rows, self._table = rows, EvidenceTable.of(rows)
        self._ensemble = regress.GainEnsemble(self._table)
        self._support = Support(self._table)

    def moved(self, module: nn.Module) -> Mapping[str, float]:
        """Distances of a candidate from the source, see `moved.py`."""
        return moved(self._source, module)

    def limits(self, gates: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
        """Options of plausibility gates by what useful candidates looked like, see `limits.py`."""
        return limits(self._rows, gates)

    def expect(
        self,
        serving: Array,
        candidate: Array,
        source: Array | None,
        anchor: AnchorResult | None,
        moved: Mapping[str, float],
    ) -> GainEstimate:
        """Estimate the gain of candidate over serving, from logits [N, C] in order of arrival.

        Never raises for odd logits: evidence that cannot be computed is not supported.
        """
        reason = _unreadable(serving, candidate, source, anchor, self.window)
        if reason is not None or anchor is None:
            return self._nothing(str(reason))
        seen = features(serving, candidate, source, anchor, moved)
        return self.judge(np.array([seen.get(name, 0.0) for name in self._table.names]))

    def judge(self, evidence: Array) -> GainEstimate:
        """Estimate the gain of evidence [F] in the order of the table."""
        outside = self._support.outside(evidence)
        if outside is not None:
            return self._nothing(f"not rehearsed: {outside}")
        guess = self._ensemble.guess(evidence[None])
        lower = float(regress.bound(guess, self.known.quantiles[f"{self.alpha:g}"])[0])
        gain = float(guess.gain[0])
        told = (
            f"rehearsed scenarios that look like this gain {100 * gain:+.1f} points, "
            f"at least {100 * lower:+.1f} in {1 - self.alpha:.0%}"
        )
        return GainEstimate(gain, lower, self.alpha, True, told)

    def _nothing(self, reason: str) -> GainEstimate:
        return GainEstimate(0.0, -1.0, self.alpha, False, reason)


def _unreadable(
    serving: Array, candidate: Array, source: Array | None, anchor: AnchorResult | None, window: int
) -> str | None:
    if anchor is None:
        return "no anchor answers: rehearsals need TTA_GATE__ANCHOR in production too"
    if len(serving) < window:
        return f"{len(serving)} records of the {window} that were rehearsed"
    given = (serving, candidate, *(() if source is None else (source,)), *anchor.serving.values(),
             *anchor.candidate.values())  # fmt: skip
    if not all(math.isfinite(float(np.sum(z))) for z in given):
        return "logits that are not finite"
    return None
