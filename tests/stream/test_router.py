"""What becomes of records and labels before anything is learnt."""

import numpy as np
import pytest

from tta_agent.core.types import Label, Record
from tta_agent.labels.join import LabelJoiner
from tta_agent.stream.batcher import Batcher, held_out
from tta_agent.stream.router import RecordRouter


def record(i, *, time_s=100.0, key=None, served=(0.0, 1.0), offset=None):
    logits = None if served is None else np.asarray(served, np.float32)
    name = f"r{i}"
    return Record(
        name, time_s, np.zeros((1, 2, 2), np.float32), logits, 3, key or name, None, "t", 0,
        i if offset is None else offset, ("s", name, "type"),
    )  # fmt: skip


def sorter(**more):
    return RecordRouter(
        LabelJoiner(horizon_records=more.pop("horizon", 100)), 0.2, 10.0, lambda: 105.0, **more
    )


def test_an_entity_is_always_on_the_same_side():
    piles = sorter().sort([record(i, key=f"user-{i % 7}") for i in range(700)])
    held = {r.key for r in piles.held}
    assert held
    assert held.isdisjoint(r.key for r in piles.teach)


def test_the_hash_holds_out_the_share():
    share = np.mean([held_out(str(i), 0.2) for i in range(20_000)])
    assert 0.19 < share < 0.21


def test_duplicates_and_stale_records_are_counted_not_used():
    piles = sorter().sort([record(1), record(1), record(2, time_s=94.0)])
    assert len(piles.teach) + len(piles.held) == 1
    assert piles.dropped == {"duplicate": 1, "stale": 1}


@pytest.mark.parametrize("early", [False, True])
def test_a_label_finds_its_record_before_or_after_it(early):
    items = [record(1), Label("r1", 1, 0.0)]
    piles = sorter().sort(reversed(items) if early else items)
    assert [(o.version, o.correct) for o in piles.outcomes] == [(3, True)]
    assert {label.id for label in piles.labels} == {"r1"}


def test_an_item_without_a_usable_id_is_left_out_and_the_others_are_not():
    odd = [Label("\ud800", 1, 0.0), Label(None, 1, 0.0)]
    piles = sorter().sort([record(1), *odd, Label("r1", 1, 0.0)])
    assert piles.dropped == {"internal": 2}
    assert [(o.version, o.correct) for o in piles.outcomes] == [(3, True)]


def test_joins_are_bounded_and_counted():
    join = LabelJoiner(horizon_records=2)
    for i in range(5):
        join.expect(record(i))
        join.arrive(Label(f"unknown-{i}", 0, 0.0))
    join.flush()
    assert join.arrive(Label("r2", 1, 0.0)).late
    assert join.arrive(Label("r4", 0, 0.0)).correct is False
    assert join.counts["expired"] == 3
    assert join.counts["orphan"] == 3
    assert join.counts["matched"] == 1


def test_batches_by_size_and_age():
    batcher = Batcher(3, 2.0)
    assert [batcher.add(record(i), now_s=0.0) for i in range(2)] == [None, None]
    assert batcher.due(1.9) is None
    assert batcher.oldest() == {("t", 0): 0}
    assert len(batcher.due(2.0).records) == 2
    assert batcher.oldest() == {}
    assert batcher.due(99.0) is None
    full = [batcher.add(record(i), now_s=50.0) for i in range(3)][-1]
    assert full.x.shape == (3, 1, 2, 2)


def test_batches_that_were_put_back_come_again_in_their_order_and_size():
    batcher, clock = Batcher(3, 2.0), lambda: 10.0
    records = [record(i) for i in range(11)]
    batcher.put_back(batcher.full(records[:8], clock))
    assert [r.offset for r in batcher.waiting()] == list(range(8))
    again = batcher.full(records[8:10], clock)
    assert [[r.offset for r in batch.records] for batch in again] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert [r.offset for r in batcher.waiting()] == [9]


def test_what_was_dealt_with_is_known_after_any_number_of_restarts():
    waiting, identity = {("t", 0): 1}, record(2).identity
    first = sorter()
    first.sort([record(1), record(2)])
    done = first.dealt_with(waiting)
    assert identity in done
    for _ in range(2):
        again = sorter()
        again.remember(done)
        assert again.sort([record(2)]).dropped == {"duplicate": 1}
        done = again.dealt_with(waiting)
        assert identity in done
