"""Regression of gain on evidence: two learners, and a lower bound by their errors on unseen families.

References:
    Geurts, Ernst, Wehenkel, "Extremely randomized trees", Machine Learning 63, 2006. Rasmussen, Williams, "Gaussian
    Processes for Machine Learning", 2006.
    Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005 (conformal bounds).
    Barber, Candès, Ramdas, Tibshirani, "Predictive inference with the jackknife+", Annals of Statistics 2021,
    arXiv:1905.02928 (residuals by leaving out). Lee, Barber, Willett, "Distribution-free inference with
    hierarchical data", 2023, arXiv:2306.06342 (groups that count the same).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist

from tta_agent.core import extras
from tta_agent.core.types import Array
from tta_agent.evaluation.rehearsed.table import EvidenceTable

if TYPE_CHECKING:
    from sklearn.ensemble import ExtraTreesRegressor

VERSION = 2  # of the learners: their errors are kept on disk and belong to them
TREES, LEFT_OUT_TREES, LEAF = 300, 150, 3
FEATURES = 0.4  # share of the evidence that a split may look at
STIFFNESS = 100.0  # of the line (ridge), in standardised evidence
ODD = ("conviction",)  # changes its sign when the roles are exchanged
LENGTH, SIZE, SLOPE, NOISE = 8.0, 0.03, 0.01, 0.02  # of the process, in standardised evidence and in gains
FLOOR = 0.01  # added to the trees' spread: a residual of a point means as much where all trees agree


@dataclass(frozen=True, slots=True)
class Guess:
    """Most likely gain [R], and standard deviation of the trees' gains [R]."""

    gain: Array
    spread: Array


@dataclass(frozen=True, slots=True)
class EvidenceScaler:
    """Scaler of evidence to mean 0 and deviation 1.

    Attributes:
        centre, scale: mean and standard deviation of each feature [F].
    """

    centre: Array
    scale: Array

    @classmethod
    def of(cls, evidence: Array) -> EvidenceScaler:
        """Fit to evidence [R, F]."""
        return cls(evidence.mean(0), evidence.std(0) + 1e-9)

    def __call__(self, evidence: Array) -> Array:
        """Scale other evidence [R, F]."""
        return np.asarray((evidence - self.centre) / self.scale)


class GainEnsemble:
    """Ensemble of a forest and a Gaussian process, which err in different ways: the mean of both.

    Leaving families out, each has a mean error of 2.7 or 2.8 points and both together of 2.4, as much as the noise of
    the true gains explains (ResNet-20, TENT, 555 rehearsed scenarios, gains over 1,000 images each). Their
    disagreement is added to the spread.

    Args:
        table: rows to learn from.
        trees: of the forest.
    """

    def __init__(self, table: EvidenceTable, trees: int = TREES) -> None:
        self._forest, self._process = Forest(table, trees), GaussianProcess(table)

    def guess(self, evidence: Array) -> Guess:
        """Estimate the gains of evidence [R, F]."""
        one, other = self._forest.guess(evidence), self._process.guess(evidence)
        return Guess((one.gain + other) / 2, np.hypot(one.spread, np.abs(one.gain - other) / 2))


class GaussianProcess:
    """Gaussian process with fixed, smooth kernels: few scenarios suffice, and it is exact where they are alike.

    With the roles exchanged a gain is its own negative, so the prior is of such functions alone: their kernel is
    k(x, y) - k(x, y exchanged), which costs an eighth of learning every pair both ways and says exactly the same.
    """

    def __init__(self, table: EvidenceTable) -> None:
        both, _ = _both_ways(table, _exchange(table.names))
        self._scaler = EvidenceScaler.of(both)
        self._points, self._turned = np.split(self._scaler(both), 2)
        kernel = self._odd(table.evidence) + NOISE**2 * np.eye(len(table))
        self._weights = cho_solve(cho_factor(kernel, lower=True, overwrite_a=True), table.gains)

    def guess(self, evidence: Array) -> Array:
        """Estimate the gains [R] of evidence [R, F]."""
        return np.asarray(self._odd(evidence) @ self._weights)

    def _odd(self, evidence: Array) -> Array:
        """Kernel [R, N] between evidence and what it was fitted on."""
        x, y, z = self._scaler(evidence), self._points, self._turned
        return np.asarray(SIZE * (smooth(x, y) - smooth(x, z)) + SLOPE / x.shape[1] * x @ (y - z).T)


def smooth(x: Array, y: Array) -> Array:
    """Radial basis function of LENGTH between standardised evidence [R, F] and [N, F]: [R, N], 0 .. 1."""
    return np.asarray(np.exp(-cdist(x, y, "sqeuclidean") / (2 * LENGTH**2)))


class Forest:
    """Ridge regression, and a forest for its residuals.

    A forest alone halves every gain that is larger than most of the rehearsed (leaving families out, its error was
    twice as large), because trees do not extrapolate. Every pair is also learnt from with the roles exchanged and
    the gain negated, and estimated both ways: the better of two models cannot depend on which one serves.

    Args:
        table: rows to learn from.
        trees: number of them.
    """

    def __init__(self, table: EvidenceTable, trees: int = TREES) -> None:
        extras.require("rehearse", "a rehearsal")
        from sklearn.ensemble import ExtraTreesRegressor
        from sklearn.linear_model import Ridge

        self._exchange = _exchange(table.names)
        both, gains = _both_ways(table, self._exchange)
        self._scaler = EvidenceScaler.of(both)
        self._line = Ridge(STIFFNESS).fit(self._scaler(both), gains)
        self._forest: ExtraTreesRegressor = ExtraTreesRegressor(
            trees, min_samples_leaf=LEAF, max_features=FEATURES, n_jobs=1, random_state=0
        )
        self._forest.fit(both.astype(np.float32), gains - self._line.predict(self._scaler(both)))

    def guess(self, evidence: Array) -> Guess:
        """Estimate the gains of evidence [R, F]."""
        forward, backward = self._each(evidence), self._each(self._exchange(evidence))
        each = (forward - backward) / 2  # [trees, R]
        doubt = np.abs(forward.mean(0) + backward.mean(0)) / 2  # what the two ways disagree about
        return Guess(each.mean(0), np.hypot(each.std(0), doubt))

    def _each(self, evidence: Array) -> Array:
        x = np.ascontiguousarray(evidence, np.float32)
        rest = np.stack([tree.tree_.predict(x)[:, 0] for tree in self._forest.estimators_])
        return np.asarray(rest + self._line.predict(self._scaler(evidence)))


def _both_ways(table: EvidenceTable, exchange: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Pairs as they were and with the roles exchanged: evidence [2R, F], gains [2R]."""
    return np.concatenate([table.evidence, exchange(table.evidence)]), np.concatenate(
        [table.gains, -table.gains]
    )


def _exchange(names: Sequence[str]) -> Callable[[Array], Array]:
    """Function that exchanges the roles of serving and candidate in evidence [R, F]."""
    place = {name: i for i, name in enumerate(names)}
    other = {"_serving": "_candidate", "_candidate": "_serving"}
    order, sign = np.arange(len(names)), np.ones(len(names))
    for name, i in place.items():
        stem, _, side = name.rpartition("_")
        order[i] = place.get(stem + other.get(f"_{side}", ""), i)
        sign[i] = -1.0 if side == "gained" or name in ODD else 1.0
    return lambda evidence: np.asarray(evidence[:, order] * sign)


def left_out(table: EvidenceTable, trees: int = LEFT_OUT_TREES) -> Guess:
    """Estimate each row [R] by an ensemble that has seen nothing of its family; NaN where no other rows are."""
    gain, spread = np.full(len(table), np.nan), np.full(len(table), np.nan)
    for family in table.families:
        mine, others = table.of_family(family), table.without(family)
        if others.sum() >= 2 * LEAF:
            found = GainEnsemble(table.part(others), trees).guess(table.evidence[mine])
            gain[mine], spread[mine] = found.gain, found.spread
    return Guess(gain, spread)


def scores(guess: Guess, gains: Array) -> Array:
    """Overestimate of each gain, in units of the estimate's own spread [R]."""
    return np.asarray((guess.gain - gains) / (guess.spread + FLOOR))


def bound(guess: Guess, quantile: float) -> Array:
    """Lower bound of each gain [R]."""
    return np.asarray(guess.gain - quantile * (guess.spread + FLOOR))


def quantile(scores: Array, families: Array, alpha: float) -> float:
    """Score that a new family exceeds with probability `alpha`.

    Every family counts the same, and one more, unseen, counts as its own worst share, because the families are a
    finite sample.

    Args:
        scores: [R], NaN left out.
        families: names [R].
    """
    known = ~np.isnan(scores)
    scores, families = scores[known], families[known]
    names, which, count = np.unique(families, return_inverse=True, return_counts=True)
    weight = 1.0 / count[which] / len(names)
    order = np.argsort(scores)
    reached = np.cumsum(weight[order])
    wanted = min((1 - alpha) * (len(scores) + 1) / len(scores), 1.0)
    return float(scores[order][min(int(np.searchsorted(reached, wanted - 1e-12)), len(scores) - 1)])


def coverage(table: EvidenceTable, guess: Guess, alpha: float) -> float:
    """Share of rows whose gain is at least the bound, each family bounded by the errors of the others."""
    value, families = scores(guess, table.gains), np.array([row.family for row in table.rows])
    covered = np.full(len(table), np.nan)
    for family in table.families:
        mine = families == family
        limit = quantile(value[~mine], families[~mine], alpha) if (~mine).any() else np.nan
        covered[mine] = value[mine] <= limit
    return float(np.nanmean(covered))
