"""Recent held-out records: bounded in bytes, with their labels, through a restart."""

import numpy as np
import pytest

from tests.evaluation.test_candidate import label, record, torch_round_trip
from tta_agent.evaluation.recent import RecentRecords

SIZE = record(0, 0).nbytes


def kept(recent):
    return [one.id for one in recent.records]


def test_the_oldest_give_way_with_their_labels():
    recent = RecentRecords(3 * SIZE)
    recent.add([record(0, 0), record(1, 1)])
    recent.on_labels([label(0, 1), label(0, 2), label(1, 1), label(7, 1)])
    assert [(one.id, one.label) for one in recent.labels] == [("r0", 1), ("r1", 1)]
    recent.add([record(1, 1), record(2, 0), record(3, 0)])
    assert kept(recent) == ["r1", "r2", "r3"] and [one.id for one in recent.labels] == ["r1"]
    recent.clear()
    assert not recent.records and not recent.labels
    recent.add([record(i, 0) for i in range(9)])
    assert kept(recent) == ["r6", "r7", "r8"]


def test_a_bound_of_nothing_keeps_nothing():
    recent = RecentRecords(0)
    recent.add([record(0, 0)])
    assert not recent.records


@pytest.mark.parametrize("most", [9, 2])
def test_it_survives_a_restart(most):
    recent, again = RecentRecords(9 * SIZE), RecentRecords(most * SIZE)
    recent.add([record(i, i % 3) for i in range(4)])
    recent.on_labels([label(3, 1)])
    again.load_state_dict(torch_round_trip(recent.state_dict()))
    assert kept(again) == kept(recent)[-most:] and again.labels == recent.labels
    for one, other in zip(again.records, recent.records[-most:], strict=True):
        assert np.array_equal(one.x, other.x) and (one.key, one.offset, one.tenant) == (
            other.key,
            other.offset,
            other.tenant,
        )
