"""Gates and the selector against their formulas."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from tta_agent.core import plugins
from tta_agent.core.evidence import Evidence
from tta_agent.core.types import View
from tta_policies.gates.certificate import Certificate, log_e
from tta_policies.gates.collapse import Collapse
from tta_policies.gates.disagreement import Disagreement
from tta_policies.gates.integrity import Integrity
from tta_policies.select.entropy import Entropy


def one_hot(classes, n=4):
    return np.eye(n, dtype=np.float32)[np.asarray(classes)] * 5


def evidence(serving, candidate, *, wins=0, losses=0, alpha=0.01, **more):
    return Evidence(one_hot(serving), one_hot(candidate), wins, losses, wins + losses, alpha, **more)


@pytest.mark.parametrize(("w", "l"), [(0, 0), (1, 0), (7, 3), (30, 60), (200, 150)])
def test_the_e_value_is_the_mixture_likelihood_ratio(w, l):  # noqa: E741
    p = np.linspace(0.5, 1, 400_001)
    density = 2 * p**w * (1 - p) ** l / 0.5 ** (w + l)
    assert math.isclose(math.exp(log_e(w, l)), np.trapezoid(density, p), rel_tol=1e-3)


def test_under_the_null_it_rarely_crosses():
    rng = np.random.default_rng(0)
    crossed = 0
    for _ in range(400):
        wins = np.cumsum(rng.random(300) < 0.5)
        crossed += any(log_e(int(w), n + 1 - int(w)) >= math.log(100) for n, w in enumerate(wins))
    assert crossed <= stats.binom.ppf(0.999, 400, 0.01)


def test_certificate_passes_at_one_over_alpha_and_never_fails():
    judge = Certificate().judge
    assert judge(evidence([0], [1], wins=12, losses=0)).verdict == "pass"
    assert judge(evidence([0], [1], wins=3, losses=0)).verdict == "inconclusive"
    assert judge(evidence([0], [1], wins=0, losses=500)).verdict == "inconclusive"
    assert judge(evidence([0], [1], wins=12, losses=0, alpha=1e-6)).verdict == "inconclusive"


def test_disagreement_bounds():
    judge = Disagreement(least=0.05, most=0.6, window=10).judge
    assert judge(evidence([0] * 9, [1] * 9)).verdict == "inconclusive"
    assert judge(evidence([0] * 100, [0] * 100)).verdict == "fail"
    assert judge(evidence([0] * 100, [1] * 20 + [0] * 80)).verdict == "pass"
    assert judge(evidence([0] * 100, [1] * 100)).verdict == "fail"


def test_collapse_is_directional():
    spread, narrow = [0, 1, 2, 3] * 25, [0] * 85 + [1, 2, 3] * 5
    judge = Collapse(window=10).judge
    assert judge(evidence(spread, narrow)).verdict == "fail"
    assert judge(evidence(narrow, spread)).verdict == "pass"
    assert judge(evidence(spread, spread)).verdict == "pass"
    assert judge(evidence(spread[:9], narrow[:9])).verdict == "inconclusive"


def test_integrity():
    judge = Integrity().judge
    assert judge(evidence([0], [0], parity=(1.0, 1e-6))).verdict == "pass"
    assert judge(evidence([0], [0], parity=(0.9, 1e-6))).verdict == "fail"
    assert judge(evidence([0], [0], parity=(1.0, float("nan")))).verdict == "fail"
    assert judge(evidence([0], [0], size_ratio=1.2)).verdict == "fail"
    broken = Evidence(one_hot([0]), one_hot([0]) * np.nan, 0, 0, 0, 0.01)
    assert judge(broken).verdict == "fail"


def view(logits):
    logits = torch.tensor(logits)
    return View(torch.zeros(len(logits), 1), logits, lambda x: x, lambda: logits, lambda: logits)


def test_entropy_selector_drops_at_the_threshold_and_weighs():
    logits = [[0.0, 0.0], [4.0, 0.0], [1.0, 0.0]]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    h = -(p * np.log(p)).sum(1)
    kept = Entropy(margin=1.0).select(view(logits))
    assert kept.index.tolist() == [1, 2]  # the uniform one stands exactly at ln 2
    assert kept.dropped == {"entropy": 1}
    weighted = Entropy(margin=0.9, weighted=True).select(view(logits))
    assert np.allclose(weighted.weight, np.exp(0.9 * math.log(2) - h[weighted.index.numpy()]), atol=1e-6)
    with pytest.raises(ValueError, match="share of ln C"):
        Entropy(margin=3.0)


def test_the_gates_that_judge_the_served_version_as_well():
    watching = {n for n in plugins.available("gates") if getattr(plugins.load("gates", n), "watches", False)}
    assert watching >= {"integrity", "collapse", "histogram", "flips", "forgetting"}
    assert not watching & {"certificate", "rehearsed", "guarded", "average", "health"}  # of candidates only
