"""Late labels joined to what was served: counted once, bounded, and the same after a crash."""

import itertools
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tta_agent.core.errors import CheckpointError
from tta_agent.core.types import Label, Record
from tta_agent.labels import store as store_file
from tta_agent.labels.join import LabelJoiner
from tta_agent.labels.store import read_counts
from tta_agent.stream.router import RecordRouter


def record(i, *, time_s=None, version=1, says=0):
    served = None if says is None else np.eye(3, dtype=np.float32)[says]
    at = 100.0 + i if time_s is None else time_s
    x = np.zeros((1, 2, 2), np.float32)
    return Record(f"r{i}", at, x, served, version, f"k{i}", None, "t", 0, i, ("s", f"r{i}", "type"), "shop")


def label(i, truth=0, time_s=None):
    return Label(f"r{i}", truth, 105.0 + i if time_s is None else time_s)


def by_version(store):
    """Counts of each version, as others read them from the file."""
    store.flush()
    return read_counts(store._path)[1]


def test_counts_by_version_tell_realised_accuracy(tmp_path):
    store = LabelJoiner(tmp_path / "labels.db")
    for i in range(10):
        store.expect(record(i, version=i % 2, says=0))
    outcomes = [store.arrive(label(i, truth=int(i == 3))) for i in range(6)]
    assert [(o.version, o.correct) for o in outcomes[:4]] == [(0, True), (1, True), (0, True), (1, False)]
    assert outcomes[5].accuracy == pytest.approx(2 / 3)
    first, second = by_version(store)[0], by_version(store)[1]
    assert (first["answered"], first["matched"], first["right"], first["accuracy"]) == (5, 3, 3, 1.0)
    assert (second["answered"], second["matched"], second["right"]) == (5, 3, 2)
    assert store.counts["matched"] == 6


def test_a_label_that_came_first_waits_for_its_record():
    store = LabelJoiner()
    assert store.arrive(label(1)) is None
    store.flush()
    found = store.expect(record(1))
    assert (found.id, found.label) == ("r1", 0)
    assert store.arrive(found).correct
    assert store.counts == {"answered": 1, "matched": 1, "right": 1}


@pytest.mark.parametrize("look_up", [True, False])
def test_what_is_looked_up_together_is_what_is_found_one_by_one(look_up, monkeypatch):
    """Some are in the file, some in memory, one is nowhere; with digests that are all the same, ids decide."""
    monkeypatch.setattr(store_file, "digest", lambda id: 7)
    joiner = LabelJoiner()
    for i in (1, 2):
        joiner.arrive(label(i, truth=i))
    joiner.flush()
    joiner.arrive(label(3, truth=0))
    if look_up:
        joiner.look_up(["r1", "r3", "r4", "r2", "r1"])
    found = [joiner.expect(record(i)) for i in (1, 2, 3, 4, 1)]
    assert [one and one.label for one in found] == [1, 2, 0, None, 1]
    assert joiner.counts == {"answered": 4}


def test_what_was_looked_up_does_not_outlast_a_flush():
    joiner = LabelJoiner(horizon_s=10.0)
    joiner.expect(record(1))
    joiner.flush()
    joiner.look_up(["r1"])
    joiner.expect(record(2, time_s=112.0))
    joiner.flush()  # the first answer expires in the file
    assert joiner.arrive(label(1)).late
    assert (joiner.counts["expired"], joiner.counts["late"]) == (1, 1)


def test_a_record_without_an_answer_still_takes_its_label(tmp_path):
    store = LabelJoiner(tmp_path / "labels.db")
    store.expect(record(1, says=None))
    assert store.arrive(label(1)) is None
    assert store.counts["matched"] == 1
    assert by_version(store) == {}


def test_the_same_again_changes_nothing():
    store = LabelJoiner()
    for _ in range(3):
        store.expect(record(1))
        store.arrive(label(1))
        store.flush()
    assert store.counts == {"answered": 1, "matched": 1, "right": 1}


def test_a_record_that_comes_again_brings_its_early_label_again():
    """Who needs the label is younger than the store after a crash."""
    store = LabelJoiner()
    store.arrive(label(1))
    assert store.arrive(store.expect(record(1))).correct
    assert store.expect(record(1)).label == 0


@pytest.mark.parametrize("flushed", [False, True])
def test_a_label_after_the_horizon_is_late_by_the_records_own_clock(tmp_path, flushed):
    store = LabelJoiner(tmp_path / "labels.db", horizon_s=50.0)
    store.expect(record(1))
    store.expect(record(2, time_s=152.0))
    if flushed:
        store.flush()
    for _ in range(2):
        assert store.arrive(label(1, time_s=110.0)).late
    assert (store.counts["late"], store.counts["expired"], store.counts["matched"]) == (1, 1, 0)
    assert not store.arrive(label(2, time_s=153.0)).late
    assert by_version(store)[1]["late"] == 1


def test_a_label_may_itself_say_that_it_is_late():
    store = LabelJoiner(horizon_s=50.0)
    store.expect(record(1))
    assert store.arrive(label(1, time_s=1_000.0)).late


def test_late_labels_reach_nobody():
    sorter = RecordRouter(LabelJoiner(horizon_s=50.0), 0.2, 1e12)
    piles = sorter.sort([record(1), record(2), label(2, time_s=103.0), label(1, time_s=1_000.0)])
    assert [found.id for found in piles.labels] == ["r2"]
    assert [outcome.version for outcome in piles.outcomes] == [1]


def test_a_date_in_the_future_does_not_expire_the_others():
    store = LabelJoiner(horizon_s=7 * 86_400.0)
    now = time.time()
    store.expect(record(1, time_s=now))
    store.expect(record(2, time_s=now + 1e9))
    store.flush()
    assert store.arrive(label(1, time_s=now + 5)).correct


def test_labels_without_a_record_become_orphans():
    store = LabelJoiner(horizon_s=50.0)
    store.expect(record(1))
    store.arrive(label(7, time_s=101.0))
    store.expect(record(2, time_s=200.0))
    store.flush()
    assert (store.counts["orphan"], store.counts["expired"]) == (1, 1)


def test_what_waits_and_what_is_remembered_are_bounded(tmp_path):
    store = LabelJoiner(tmp_path / "labels.db", horizon_records=100)
    for i in range(1_000):
        store.expect(record(i))
        if i % 50 == 0:
            store.flush()
    store.flush()
    held = store._base.execute("SELECT state, count(*) FROM entries GROUP BY state ORDER BY state").fetchall()
    assert held == [("expired", 100), ("waiting", 100)]
    assert store.counts["expired"] == 900
    assert store.arrive(label(999)).correct
    assert store.arrive(label(850)).late


@pytest.mark.slow
@pytest.mark.parametrize("flood", ["before", "between", "after"])
def test_a_flood_of_labels_for_nobody_expires_no_answer(tmp_path, flood):
    """More of them than answers may wait; they take the places of one another."""
    store = LabelJoiner(tmp_path / "labels.db", horizon_records=300_000, unknown_labels=1_000)
    strangers = iter(Label(f"nobody#{i}", 0, 100.0) for i in range(400_000))
    honest = [record(i, time_s=100.0) for i in range(2_000)]
    for part in (honest[:1_000], honest[1_000:]) if flood == "between" else (honest,):
        if flood != "after":
            drain(store, strangers, 200_000)
        for item in part:
            store.expect(item)
    drain(store, strangers, 400_000)
    store.flush()
    assert store.counts["expired"] == 0
    assert all(store.arrive(label(i, time_s=100.0)).correct for i in range(2_000))
    store.flush()
    assert (store.counts["matched"], store.counts["orphan"]) == (2_000, 399_000)
    held = dict(store._base.execute("SELECT state, count(*) FROM entries GROUP BY state").fetchall())
    assert held == {"matched": 2_000, "early": 1_000, "orphan": 1_000}


def drain(store, labels, count):
    for item in itertools.islice(labels, count):
        store.arrive(item)


def test_an_answer_takes_its_label_out_of_the_place_of_the_unknown_ones(tmp_path):
    store = LabelJoiner(tmp_path / "labels.db", unknown_labels=10)
    for i in range(8):
        store.arrive(label(i))
    store.flush()
    for i in range(8):
        assert store.arrive(store.expect(record(i))).correct
    for i in range(20, 30):
        store.arrive(label(i))
    store.flush()
    assert store.counts["orphan"] == 0
    held = dict(store._base.execute("SELECT state, count(*) FROM entries GROUP BY state").fetchall())
    assert held == {"matched": 8, "early": 10}


def test_a_store_of_before_keeps_its_labels(tmp_path):
    """Labels without an answer once stood among the answers."""
    store = LabelJoiner(tmp_path / "labels.db")
    store.expect(record(1))
    store.arrive(label(2))
    store.flush()
    store._base.execute("UPDATE entries SET seq = 1 WHERE seq < 0")
    store._base.close()
    again = LabelJoiner(tmp_path / "labels.db", unknown_labels=1)
    again.arrive(label(3))
    again.flush()
    assert again._base.execute("SELECT id FROM entries WHERE state = 'orphan'").fetchall() == [("r2",)]
    assert again.expect(record(2)).label == 0
    again.close()


def test_versions_are_bounded_and_the_source_stays(tmp_path):
    store = LabelJoiner(tmp_path / "labels.db")
    for i in range(200):
        store.expect(record(i, version=i))
    assert list(by_version(store)) == [0, *range(100, 200)]


def events(seed):
    """Records and labels in the order of a stream; some labels first, some never, some for nobody."""
    rng = random.Random(seed)
    placed = []
    for i in range(400):
        at = i + rng.random()
        placed.append((at, record(i, version=i // 100, says=rng.randrange(3))))
        if rng.random() < 0.6:
            placed.append((at + rng.uniform(-20, 60), label(i, rng.randrange(3))))
        if rng.random() < 0.05:
            placed.append((at, Label(f"nobody-{i}", 0, 100.0 + i)))
    return [item for _, item in sorted(placed, key=lambda pair: pair[0])]


def play(store, items):
    for item in items:
        if isinstance(item, Label):
            store.arrive(item)
        else:
            early = store.expect(item)
            if early:
                store.arrive(early)


@pytest.mark.parametrize("seed", range(5))
def test_any_crash_and_reading_again_give_the_same_counts(tmp_path, seed):
    items, rng = events(seed), random.Random(seed)
    whole = LabelJoiner(tmp_path / "whole.db")
    play(whole, items)
    checkpoint, path = 0, tmp_path / "labels.db"
    for _ in range(8):
        crash = rng.randrange(checkpoint, len(items))
        flushed = rng.randrange(checkpoint, crash + 1)  # memory may be written long before the checkpoint is
        store = LabelJoiner(path)
        play(store, items[checkpoint:flushed])
        store.flush()
        play(store, items[flushed:crash])
        store._base.close()
        checkpoint = rng.randrange(checkpoint, flushed + 1)
    store = LabelJoiner(path)
    play(store, items[checkpoint:])
    assert store.counts == whole.counts
    assert by_version(store) == by_version(whole)


KILLED = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from tests.labels.test_join import LabelJoiner, events, play
store, items = LabelJoiner(sys.argv[1]), events(1)
play(store, items[:300]); store.flush(); play(store, items[300:500])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_sigkill_loses_only_what_comes_again(tmp_path):
    path, root = tmp_path / "labels.db", Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(root)], env=os.environ, timeout=60, check=False
    )
    assert done.returncode == -9
    store, whole = LabelJoiner(path), LabelJoiner()
    assert store.counts["answered"] > 0
    play(store, events(1)[300:])
    play(whole, events(1))
    assert store.counts == whole.counts


def test_others_read_the_counts_while_it_is_open(tmp_path):
    path = tmp_path / "labels.db"
    assert read_counts(path) == ({}, {})
    store = LabelJoiner(path)
    store.expect(record(1))
    store.arrive(label(1))
    assert read_counts(path)[0] == {}
    store.flush()
    counts, by_version = read_counts(path)
    assert counts["matched"] == 1
    assert by_version[1]["accuracy"] == 1.0
    store.close()


def test_a_file_that_is_no_store_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "labels.db"
    path.write_bytes(b"not a database, but quite long enough to look like one" * 100)
    with pytest.raises(CheckpointError, match="move it"):
        LabelJoiner(path)
    with pytest.raises(CheckpointError, match=r"labels\.db"):
        LabelJoiner(Path("/proc/nowhere/labels.db"))


def test_what_expires_does_so_by_the_clock_of_the_stream():
    """A replay plays records of any time, before and after the wall clock's, and expires the same."""
    for later_s, expired in ((10.0, 0), (100.0, 1)):
        store = LabelJoiner(horizon_s=50.0, clock=lambda later_s=later_s: 5e9 + later_s)
        store.expect(record(1, time_s=5e9))
        store.expect(record(2, time_s=5e9 + later_s))
        store.flush()
        assert store.counts["expired"] == expired
