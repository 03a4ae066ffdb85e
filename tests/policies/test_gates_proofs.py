"""The proofs: what they promise, by simulation where it is a probability."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from tta_agent.core.evidence import AnchorResult, Evidence, GainEstimate, LabelledPair
from tta_agent.core.protocols import Gate
from tta_agent.evaluation.decision import kind_of
from tta_policies.gates.average import Average, boundary, log_mixture
from tta_policies.gates.certificate import Certificate, log_e
from tta_policies.gates.guarded import Guarded, light_gain
from tta_policies.gates.rehearsed import Rehearsed

ALPHA = 0.05
BLOCK = 50


def one_hot(classes, n=10):
    return np.eye(n, dtype=np.float32)[np.asarray(classes)] * 5


def outcomes(steps):
    kinds = {1: LabelledPair(1, 0, 1), 0: LabelledPair(1, 1, 1), -1: LabelledPair(1, 1, 0)}
    return tuple(kinds[int(step)] for step in steps)


def labelled(steps, alpha=0.01):
    z = one_hot([0])
    return Evidence(z, z, 0, 0, len(steps), alpha, judged=outcomes(steps))


def test_the_kinds_of_proof():
    kinds = {gate: kind_of(gate()) for gate in (Certificate, Average, Rehearsed, Guarded)}
    assert list(kinds.values()) == ["certified", "certified", "rehearsed", "guarded"]


@pytest.mark.parametrize(("s", "v", "rho"), [(3.0, 10.0, 8.0), (-4.0, 20.0, 3.0), (30.0, 200.0, 8.0)])
def test_the_mixture_is_the_integral_over_a_gamma_density(s, v, rho):
    def weight(u):
        return (1 - u) ** (rho - 1) * math.exp(-rho * (1 - u))

    def bet(u):
        return math.exp(u * s - (-math.log(1 - u) - u) * v) * weight(u)

    mixed = integrate.quad(bet, 0, 1)[0] / integrate.quad(weight, 0, 1)[0]
    assert math.exp(log_mixture(s, v, rho)) == pytest.approx(mixed, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.05, 0.001])
@pytest.mark.parametrize("v", [0, 1, 40, 5000])
def test_the_boundary_is_where_the_mixture_reaches_one_over_alpha(v, alpha):
    spread = 2 * math.log(1 / alpha)
    rho = 60.0 / (spread + math.log(1 + spread))
    assert log_mixture(boundary(v, alpha, 60.0), v, rho) == pytest.approx(math.log(1 / alpha))


def test_the_bound_on_which_it_stands():
    x, u = np.meshgrid(np.linspace(-1, 1, 401), np.linspace(0, 0.999, 400))
    assert (np.exp(u * x - (-np.log(1 - u) - u) * x**2) <= 1 + u * x + 1e-12).all()


def alternating(rng, runs, length):
    """P(win) .7 and .3 in blocks: no gain on average at the end of every second block. [runs, length] of +-1."""
    p = np.where(np.arange(length) // BLOCK % 2 == 0, 0.7, 0.3)
    return np.where(rng.random((runs, length)) < p, 1, -1), np.cumsum(2 * p - 1)


def test_the_average_covers_at_all_times_where_the_certificate_does_not():
    rng = np.random.default_rng(0)
    runs, length = 1000, 1000
    x, drift = alternating(rng, runs, length)
    bounds = np.array([boundary(v, ALPHA, 100.0) for v in range(1, length + 1)])
    missed = ((np.cumsum(x, 1) - bounds) > drift).any(1)
    assert missed.sum() <= stats.binom.ppf(0.999, runs, ALPHA)
    ends = np.arange(2 * BLOCK - 1, length, 2 * BLOCK)  # there the true mean is exactly 0
    wins = np.cumsum(x > 0, 1)[:, ends]
    certified = [
        any(log_e(int(w), int(t + 1 - w)) >= -math.log(ALPHA) for w, t in zip(row, ends, strict=True))
        for row in wins
    ]
    anytime = [
        any(log_e(w, t - w) >= -math.log(ALPHA) for t, w in enumerate(np.cumsum(row > 0).tolist(), 1))
        for row in x[:150]
    ]
    assert np.mean(anytime) > 0.3 and np.mean(certified) <= ALPHA  # it errs inside the blocks


def test_the_average_rarely_promotes_an_equal_and_soon_a_better_one():
    rng = np.random.default_rng(1)
    bounds = np.array([0.0] + [boundary(v, 0.01, 100.0) for v in range(1, 601)])

    def first(p, runs):
        x = np.where(rng.random((runs, 600)) < p, 1, -1)
        over = np.cumsum(x, 1) - bounds[1:] > 0.0025 * np.arange(1, 601)
        return np.where(over.any(1), over.argmax(1) + 1, 601)

    assert (first(0.5, 500) <= 600).sum() <= stats.binom.ppf(0.999, 500, 0.01)
    assert np.median(first(0.65, 500)) < 170
    assert np.median(first(0.8, 500)) < 45


def test_average_passes_by_its_bound_and_tells_it():
    gate = Average()
    assert gate.judge(labelled([])).verdict == "inconclusive"
    found = gate.judge(labelled([1] * 40 + [0] * 60 + [-1] * 5))
    assert found.verdict == "pass" and 0.0025 < found.bound < found.value == pytest.approx(35 / 105)
    assert found.bound == pytest.approx((35 - boundary(45, 0.01, 100.0)) / 105)  # of 45 decisive labels
    assert gate.judge(labelled([1] * 5)).verdict == "inconclusive"
    assert gate.judge(labelled([-1] * 300)).verdict == "inconclusive"
    assert gate.judge(labelled([0] * 5000)).verdict == "inconclusive"
    assert Average(margin=0.5).judge(labelled([1] * 40 + [0] * 60)).verdict == "inconclusive"


def test_the_order_of_ties_and_their_number_do_not_help():
    few, many = (Average().judge(labelled([1] * 30 + [0] * n)) for n in (0, 10_000))
    assert few.verdict == "pass" and many.verdict == "inconclusive"  # a gain below the margin


def reached(changed, n=2000, **more):
    serving = one_hot(np.zeros(n, int))
    candidate = one_hot(np.r_[np.ones(changed, int), np.zeros(n - changed, int)])
    return Evidence(serving, candidate, 0, 0, 0, 0.01, **more)


def light(mended, n=500):
    labels = np.zeros(n, int)
    serving = one_hot(np.r_[np.ones(n // 5, int), np.zeros(n - n // 5, int)])
    candidate = serving.copy()
    candidate[:mended] = one_hot(np.zeros(mended, int))
    return AnchorResult(labels, {"clean": serving, "fog": serving}, {"clean": serving, "fog": candidate})


def test_guarded_needs_a_small_reach_and_a_gain_on_the_corrupted_anchor():
    gate = Guarded()
    assert gate.judge(reached(20, anchor=light(20))).verdict == "pass"
    assert gate.judge(reached(20, anchor=light(0))).verdict == "fail"
    assert gate.judge(reached(20)).verdict == "inconclusive"
    assert Guarded(anchor=False).judge(reached(20)).verdict == "pass"
    assert (
        gate.judge(reached(55, anchor=light(20))).verdict == "inconclusive"
    )  # 2.75 %: its bound is above 3 %
    assert gate.judge(reached(80, anchor=light(20))).verdict == "fail"
    assert gate.judge(reached(0, n=99, anchor=light(20))).verdict == "inconclusive"


def test_guarded_measures_from_the_last_proven_version_so_that_steps_do_not_add_up():
    far = one_hot(np.full(2000, 2))
    assert Guarded().judge(reached(20, proven=far, anchor=light(20))).verdict == "fail"


def test_the_gain_on_the_anchor_counts_each_sample_once():
    one = light(12)
    twice = AnchorResult(
        one.labels,
        {**one.serving, "snow": one.serving["fog"]},
        {**one.candidate, "snow": one.candidate["fog"]},
    )
    assert light_gain(twice) == pytest.approx(light_gain(one))
    assert (
        light_gain(AnchorResult(one.labels, {"clean": one.serving["clean"]}, {"clean": one.serving["clean"]}))
        is None
    )


@pytest.mark.parametrize(
    ("expected", "verdict"),
    [
        (None, "inconclusive"),
        (GainEstimate(0.05, 0.01, 0.05, True, ""), "pass"),
        (GainEstimate(0.05, -0.01, 0.05, True, ""), "inconclusive"),
        (GainEstimate(0.05, 0.01, 0.05, False, "the world is unlike any"), "inconclusive"),
    ],
)
def test_rehearsed(expected, verdict):
    found = Rehearsed().judge(reached(20, expected=expected))
    assert found.verdict == verdict
    if expected is None:
        assert "tta-agent rehearse" in found.reason
    elif not expected.supported:
        assert found.reason == expected.reason and found.bound == 0.01


def test_every_announced_gate_is_a_gate():
    from tta_agent.core import plugins

    serving = one_hot(np.arange(200) % 10)
    gates: list[Gate] = [plugins.make("gates", name, {}) for name in plugins.available("gates")]
    for name, gate in zip(plugins.available("gates"), gates, strict=True):
        found = gate.judge(Evidence(serving, serving, 0, 0, 0, 0.01))
        assert found.gate == name and found.reason and found.verdict in ("pass", "fail", "inconclusive")


def test_rehearsed_says_whether_there_is_no_rehearsal_or_its_window_is_not_full():
    z = np.zeros((120, 3))
    for window, words in (
        (0, "no rehearsal to go by: run"),
        (500, "not full: 120 of 500"),
        (100, "asked again"),
    ):
        found = Rehearsed().judge(Evidence(z, z, 0, 0, 0, 0.01, rehearsed_window=window))
        assert found.verdict == "inconclusive"
        assert words in found.reason
