"""When the next candidate is due."""

import pytest

from tta_agent.pipeline.cadence import Cadence


@pytest.mark.parametrize(("size", "rounds"), [(16, 5), (32, 3), (64, 2), (200, 2)])
def test_after_a_change_as_soon_as_a_batch_of_the_new_regime_alone_is_in_the_statistics(size, rounds):
    cadence = Cadence(8, 25, size)
    assert [cadence.candidate_due(n, soon=True) for n in (rounds - 1, rounds)] == [False, True]
    assert [cadence.candidate_due(n, soon=False) for n in (7, 8)] == [False, True]


def test_never_later_than_the_usual_rounds():
    assert Cadence(3, 25, 4).candidate_due(3, soon=True)


@pytest.mark.parametrize(("size", "rounds"), [(16, 17), (32, 9), (64, 5), (200, 3)])
def test_a_candidate_of_few_records_is_early(size, rounds):
    cadence = Cadence(8, 25, size)
    assert [cadence.is_early(n) for n in (rounds - 1, rounds)] == [True, False]


def test_the_next_one_has_learnt_from_twice_as_many_and_waits_no_longer_than_usual():
    cadence = Cadence(8, 25, 64)
    assert [cadence.candidate_due(n, soon=False, before=2) for n in (1, 2)] == [False, True]
    assert [cadence.candidate_due(n, soon=False, before=4) for n in (3, 4)] == [False, True]
    assert [cadence.candidate_due(n, soon=False, before=20) for n in (7, 8)] == [False, True]
