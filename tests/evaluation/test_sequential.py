"""The reverse test of what serves."""

import math
from fractions import Fraction

import numpy as np
import pytest

from tta_agent.evaluation.sequential import RUN_LENGTH, RegressionTest, log_e


def test_the_mixture_is_the_integral_that_it_claims_to_be():
    wins, losses = 7, 3
    p = np.linspace(0.5, 1, 200_001)
    ratio = p**wins * (1 - p) ** losses / 0.5 ** (wins + losses)
    assert math.exp(log_e(wins, losses)) == pytest.approx(np.trapezoid(ratio, p) * 2, rel=1e-6)


@pytest.mark.parametrize(("wins", "losses"), [(30, 10), (180, 1679), (0, 1100), (300, 2400), (5, 930)])
def test_e_of_many_outcomes_is_exact_also_where_the_probability_is_too_small_for_a_float(wins, losses):
    n = wins + losses
    tail = sum(math.comb(n + 1, k) for k in range(wins + 1))  # P(Beta(w + 1, l + 1) > 1/2), times 2^(n + 1)
    assert log_e(wins, losses) == pytest.approx(math.log(Fraction(tail, (n + 1) * math.comb(n, wins))))


def test_a_version_that_wins_thousands_of_records_is_never_called_worse():
    test = RegressionTest()
    test.count(300, 2700)
    assert test.since_start < 1 and test.since_any < 2  # one restart has seen nothing yet


def test_a_version_that_turns_bad_late_is_found_though_it_won_much_before():
    """The detector forgets the wins of another time, the test since the start does not."""
    reverse = RegressionTest()
    for _ in range(400):
        reverse.count(0, 1)
    assert reverse.since_any < 1
    steps = 0
    while reverse.since_any < RUN_LENGTH:
        reverse.count(1, 0)
        steps += 1
    assert steps < 40
    assert reverse.since_start < 1


def test_false_alarms_stay_below_their_bounds():
    """Fair coins: the test since the start errs in at most alpha of all runs, the detector hardly ever."""
    random, early, late = np.random.default_rng(0), 0, 0
    for _ in range(200):
        reverse, alarm = RegressionTest(), False
        for win in random.random(300) < 0.5:
            reverse.count(int(win), int(not win))
            alarm = alarm or reverse.since_start >= 20
            if reverse.since_any >= RUN_LENGTH:
                late += 1
                break
        early += alarm
    assert early / 200 <= 0.05 + 0.02
    assert late <= 4


def test_it_survives_a_restart():
    one, other = RegressionTest(), RegressionTest()
    for i in range(100):
        one.count(i % 3 == 0, i % 3 != 0)
    other.load_state_dict(one.state_dict())
    for each in (one, other):
        each.count(1, 0)
    assert (one.since_any, one.since_start, one.outcomes) == (
        other.since_any,
        other.since_start,
        other.outcomes,
    )
