"""The error budget of candidates, for each regime."""

import numpy as np
import pytest

from tests.evaluation.test_candidate import torch_round_trip
from tta_agent.drift.regime import DataRegime
from tta_agent.rollout.spending import MOST, AlphaSpending

FIRST, SECOND, THIRD = (6 * 0.01 / (np.pi * k) ** 2 for k in (1, 2, 3))


def blocks(mean, n=40, seed=0):
    return mean + np.random.default_rng(seed).standard_normal((n, 2))


def home(mean=0.0):
    return DataRegime(blocks(mean))


@pytest.fixture
def spending():
    return AlphaSpending(0.01)


def test_the_levels_of_one_regime_sum_to_alpha(spending):
    levels = [spending.next(blocks(0.0)) for _ in range(2000)]
    assert levels[:3] == pytest.approx([FIRST, SECOND, THIRD])
    assert 0.0099 < sum(levels) < 0.01


def test_a_regime_is_not_charged_for_forerunners_on_other_records(spending):
    spending.next(blocks(0.0))
    spending.next(blocks(0.0))
    spending.left(home(0.0))
    assert spending.next(blocks(50.0, 9)) == pytest.approx(FIRST)


def test_but_for_its_own_when_its_records_are_back(spending):
    spending.next(blocks(0.0))
    spending.left(home(0.0))
    spending.next(blocks(50.0))
    spending.left(home(50.0))
    assert spending.next(blocks(0.0, 9, seed=1)) == pytest.approx(SECOND)
    spending.left(home(0.0))
    assert spending.next(blocks(0.0, 9, seed=2)) == pytest.approx(THIRD)


def test_what_has_decided_nothing_is_given_back_and_a_promotion_renews_all(spending):
    spending.next(blocks(0.0))
    spending.give_back()
    spending.give_back()
    assert spending.next(blocks(0.0)) == pytest.approx(FIRST)
    spending.left(home(0.0))
    spending.next(blocks(50.0))
    spending.renew()
    assert spending.next(blocks(0.0)) == spending.next(blocks(50.0)) * 4 == pytest.approx(FIRST)


def test_it_survives_a_restart_and_stays_bounded(spending):
    for i in range(MOST + 3):
        spending.next(blocks(50.0 * i))
        spending.left(home(50.0 * i))
    assert len(spending.state_dict()["others"]) == MOST
    again = AlphaSpending(0.01)
    again.load_state_dict(torch_round_trip(spending.state_dict()), DataRegime)
    assert again.state_dict() == spending.state_dict()
    assert again.next(blocks(500.0, 9)) == spending.next(blocks(500.0, 9)) == pytest.approx(SECOND)
    assert again.next(blocks(0.0)) == spending.next(blocks(0.0))
