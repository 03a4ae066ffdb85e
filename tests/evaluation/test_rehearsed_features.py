import numpy as np
import pytest

from tta_agent.core.evidence import AnchorResult
from tta_agent.evaluation.rehearsed.features import features
from tta_agent.scoring.distributions import temperature


def logits(n, seed, sharp=4.0, classes=10, wrong=0.2):
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=n)
    z = random.standard_normal((n, classes))
    said = np.where(random.random(n) < wrong, random.integers(classes, size=n), labels)
    z[np.arange(n), said] += sharp
    return z, labels


def anchored(factor=1.0):
    z, labels = logits(400, 1)
    other, _ = logits(400, 1, wrong=0.3)
    return AnchorResult(labels, {"clean": z, "fog": z}, {"clean": factor * other, "fog": factor * other})


def test_doubled_logits_say_nothing_new():
    serving, candidate = logits(500, 2)[0], logits(500, 3)[0]
    once = features(serving, candidate, None, anchored(), {})
    twice = features(serving, 2 * candidate, None, anchored(2.0), {})
    assert once == pytest.approx(twice, abs=1e-9)


def test_equal_models_differ_in_nothing():
    z, labels = logits(400, 1)
    answers = {"clean": z, "fog": z}
    found = features(z, z, z, AnchorResult(labels, answers, answers), {})
    assert all(value == 0 for name, value in found.items() if name.endswith("_gained"))
    assert found["disagreement"] == 0


def test_evidence_hardly_depends_on_how_many_records_were_seen():
    serving, candidate = logits(4000, 4)[0], logits(4000, 5)[0]
    many = features(serving, candidate, None, anchored(), {})
    few = features(serving[:500], candidate[:500], None, anchored(), {})
    assert few == pytest.approx(many, abs=0.08)


def test_a_bias_to_one_class_shows():
    serving = logits(500, 6)[0]
    biased = serving.copy()
    biased[:, 3] += 6
    found = features(serving, biased, None, anchored(), {})
    assert found["spread_gained"] < -0.2 and found["top_class_gained"] > 0.2


def test_order_shows_only_in_what_looks_at_order():
    serving = logits(500, 7)[0]
    rows = np.argsort(serving.argmax(1), kind="stable")
    mixed = features(serving, serving, None, anchored(), {})
    sorted_ = features(serving[rows], serving[rows], None, anchored(), {})
    changed = {name for name in mixed if abs(mixed[name] - sorted_[name]) > 1e-6}
    assert changed and all(name.startswith(("drift", "runs")) for name in changed)


def test_the_temperature_follows_the_scale():
    z, labels = logits(400, 8)
    assert temperature(3 * z, labels) == pytest.approx(3 * temperature(z, labels))
