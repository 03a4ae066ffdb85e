"""Sample of each window: bounded, by hash, the same in any order, and told by reason; no label is lost by waiting."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tta_agent.core.types import Label, Record
from tta_agent.labels.join import LabelJoiner
from tta_agent.stream.router import RecordRouter, RoutedRecords
from tta_agent.stream.sampling import WindowSample

LONG_AFTER_S = 1e6


def record(i: int, time_s: float, tenant: str = "") -> Record:
    x, served = np.zeros((1, 2, 2), np.float32), np.eye(3, dtype=np.float32)[0]
    place = ("t", 0, i)
    return Record(f"r{i}", time_s, x, served, 0, f"k{i}", None, *place, ("s", f"r{i}", "i"), tenant)


def sample(most: int = 10, share: float = 1.0, now_s: float = LONG_AFTER_S) -> WindowSample:
    return WindowSample(most, 10.0, share, b"salt", lambda: now_s)


def window(records: list[Record], most: int = 10, share: float = 1.0) -> tuple[set[str], Counter[str]]:
    """Ids of the records of one window that are used, and the counts of the others."""
    dropped: Counter[str] = Counter()
    found = sample(most, share)
    for one in records:
        assert not found.add(one, None, dropped)
    return {one.record.id for one in found.add(record(-1, 25.0), None, dropped)}, dropped


def test_a_window_uses_so_many_the_same_in_any_order() -> None:
    records = [record(i, 10.0 + i % 10) for i in range(200)]
    used, dropped = window(records)
    assert (len(used), dropped) == (10, {"sampled_out": 190})
    shuffled = records[:]
    random.Random(0).shuffle(shuffled)
    assert window(shuffled)[0] == used
    few, none = window(records[:10])
    assert (len(few), none) == (10, {})


def test_the_records_that_are_used_are_a_fair_sample() -> None:
    hits: Counter[int] = Counter()
    for start in range(0, 40_000, 200):
        used, _ = window([record(start + i, 10.0) for i in range(200)])
        hits.update(int(name[1:]) % 200 // 50 for name in used)
    assert all(abs(n - 500) < 100 for n in hits.values()) and len(hits) == 4


@pytest.mark.parametrize("seed", range(5))
def test_a_tenant_has_its_share_at_most_in_any_order(seed: int) -> None:
    loud = [record(i, 12.0, "loud") for i in range(500)]
    quiet = [record(1000 + i, 12.0, f"quiet{i % 4}") for i in range(12)]
    mixed = loud + quiet
    random.Random(seed).shuffle(mixed)
    used, dropped = window(mixed, most=20, share=0.25)
    assert sum(int(name[1:]) < 500 for name in used) == 5
    assert len(used) == 17 and dropped["tenant_cap"] == 495
    assert used == window(loud + quiet, most=20, share=0.25)[0]


def test_late_records_and_dates_in_the_future_end_no_window() -> None:
    found, dropped = sample(most=3, now_s=25.0), Counter[str]()
    assert not found.add(record(1, 20.0), None, dropped)
    assert not found.add(record(2, 15.0), None, dropped)  # its window has ended
    assert not found.add(record(3, 9e8), None, dropped)
    assert {one.id for one in found.waiting()} == {"r1", "r2", "r3"}


def test_a_window_that_nothing_follows_ends_by_itself() -> None:
    now_s = [20.0]
    found = WindowSample(3, 10.0, 1.0, b"", lambda: now_s[0])
    found.add(record(1, 20.0), None, Counter())
    assert not found.due()
    now_s[0] = 40.0
    assert [one.record.id for one in found.due()] == ["r1"]
    assert not found.waiting()


def routed(most: int, items: list[Record | Label]) -> tuple[RecordRouter, RoutedRecords]:
    router = RecordRouter(LabelJoiner(), 0.2, 1e12, lambda: LONG_AFTER_S, b"salt", sample(most))
    return router, router.sort(items)


def test_a_label_waits_for_its_record_and_comes_after_it() -> None:
    router, out = routed(5, [record(1, 20.0), Label("r1", 0, 21.0), record(2, 21.0)])
    assert not (out.labels or out.teach or out.held)
    assert {one.id for one in router.waiting()} == {"r1", "r2"}
    out = router.sort([record(3, 35.0)])
    assert {one.id for one in out.teach + out.held} == {"r1", "r2"}
    assert [label.id for label in out.labels] == ["r1"] and out.outcomes[0].correct


def test_a_label_of_a_record_that_is_left_out_is_joined_all_the_same() -> None:
    records: list[Record | Label] = [record(i, 20.0) for i in range(20)]
    router, _ = routed(20, [*records, *(Label(f"r{i}", 0, 21.0) for i in range(20))])
    assert router.label_counts["matched"] == 0
    small, out = routed(2, [one for i in range(20) for one in (records[i], Label(f"r{i}", 0, 21.0))])
    out_later = small.sort([record(99, 35.0)])
    assert small.label_counts["matched"] == 20
    assert len(out_later.teach + out_later.held) == 2
    assert out.dropped["sampled_out"] == 18


def test_two_sources_may_give_the_same_id() -> None:
    twins = [replace(record(i, 10.0), id=f"r{i // 2}") for i in range(40)]
    _, dropped = window(twins, most=3)
    assert dropped == {"sampled_out": 37}
