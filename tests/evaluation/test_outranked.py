"""All gates of the default on candidates that look like collapse and are not, and on some that are."""

from __future__ import annotations

import numpy as np
import pytest

from tta_agent.core import plugins
from tta_agent.core.evidence import Evidence, LabelledPair
from tta_agent.evaluation.decision import GateSet
from tta_agent.evaluation.label_guard import LabelGuard
from tta_agent.settings.schema import Settings


@pytest.fixture(scope="module")
def gates():
    return GateSet([plugins.make("gates", name, {}) for name in Settings().gate.gates], LabelGuard())


def judged(truth, serving, candidate, labels, **more):
    """Evidence of logits [N, C]; the first `labels` records have one."""
    named = (truth, serving.argmax(1), candidate.argmax(1))
    pairs = tuple(
        LabelledPair(*map(int, row)) for row in zip(*(column[:labels] for column in named), strict=True)
    )
    steps = [pair.step for pair in pairs]
    counts = steps.count(1), steps.count(-1), len(pairs)
    return Evidence(serving, candidate, *counts, 0.01, judged=pairs, source=serving, proven=serving, **more)


def failed(decision):
    return {result.gate for result in decision.results if result.verdict == "fail"}


def logits(names, classes, random, size=4.0):
    z = random.normal(0, 0.3, (len(names), classes))
    z[np.arange(len(names)), names] += size
    return z.astype(np.float32)


def new_domain(slope, seed=0, n=800, classes=7, right=(0.33, 0.62)):
    """A source that calls half of what arrives one thing, and a candidate that mends some, less sure than it was."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, n)
    wrong = np.where(random.random(n) < 0.6, 0, random.integers(0, classes, n))
    before = np.where(random.random(n) < right[0], truth, wrong)
    mends = random.random(n) < (right[1] - right[0]) / (1 - right[0])
    after = np.where((before == truth) | mends, truth, random.integers(0, classes, n))
    after = np.where((before == truth) & (random.random(n) < 0.08), random.integers(0, classes, n), after)
    return truth, logits(before, classes, random), slope * logits(after, classes, random)


@pytest.mark.parametrize("slope", [0.5, 0.53, 0.58, 0.63, 0.67])
def test_a_change_of_domain_that_lowers_the_logits_is_promoted_by_labels_and_refused_without(gates, slope):
    truth, serving, candidate = new_domain(slope)
    decision = gates.decide(judged(truth, serving, candidate, 150))
    assert decision.proof == "certified"
    assert failed(decision) == ({"calibration"} if slope < 0.65 else failed(decision) & {"calibration"})
    lower = new_domain(0.5)
    assert gates.decide(judged(*lower, 0)).outcome == "rejected"
    assert gates.decide(judged(*lower, 0), labels_come=True).outcome == "open"


def skewed(positives, wins, losses, lost=0.0, seed=0):
    """Serving calls negatives positive; so many labels are won and lost; and a share `lost` of positives."""
    random = np.random.default_rng(seed)
    n = max(round(20 / positives), 3 * (wins + losses))
    truth = (np.arange(n) < round(positives * n)).astype(int)
    before, after = truth.copy(), truth.copy()
    negatives = np.flatnonzero(truth == 0)
    before[negatives[:wins]] = 1
    after[negatives[wins : wins + losses]] = 1
    after[: round(lost * truth.sum())] = 0
    order = random.permutation(n)
    return truth[order], logits(before[order], 2, random), logits(after[order], 2, random)


CERTIFICATES = [(69, 8), (317, 37)]


@pytest.mark.parametrize("positives", [0.01, 0.02, 0.09, 0.3])
@pytest.mark.parametrize(("wins", "losses"), CERTIFICATES)
def test_a_useful_candidate_of_a_skewed_stream_is_promoted_by_labels(gates, positives, wins, losses):
    truth, serving, candidate = skewed(positives, wins, losses)
    assert gates.decide(judged(truth, serving, candidate, len(truth))).proof == "certified"


@pytest.mark.parametrize("positives", [0.01, 0.02, 0.09])
def test_without_labels_it_is_refused_as_before(gates, positives):
    assert gates.decide(judged(*skewed(positives, 317, 37), 0)).outcome == "rejected"


@pytest.mark.parametrize("positives", [0.01, 0.02, 0.09, 0.3])
@pytest.mark.parametrize("lost", [0.5, 1.0])
def test_a_candidate_that_loses_the_rare_class_is_not_promoted_though_accuracy_rises(gates, positives, lost):
    truth, serving, candidate = skewed(positives, 317, 0, lost=lost)
    accuracy = [(z.argmax(1) == truth).mean() for z in (serving, candidate)]
    evidence = judged(truth, serving, candidate, len(truth))
    if positives < 0.3 or lost < 1:
        assert accuracy[1] > accuracy[0]
    assert gates.decide(evidence).outcome != "proven"
    assert "worst_class" in {r.gate for r in gates.decide(evidence).results if r.verdict != "pass"}


@pytest.mark.parametrize("positives", [0.01, 0.09, 0.3])
def test_a_candidate_that_wins_as_often_as_it_loses_is_not_promoted(gates, positives):
    truth, serving, candidate = skewed(positives, 60, 60)
    assert gates.decide(judged(truth, serving, candidate, len(truth))).outcome != "proven"
