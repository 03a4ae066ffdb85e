"""Stages: order, limits, idling, failures, and an end that loses nothing."""

import threading
import time

import pytest

from tta_agent.pipeline.stages import StageThreads


def rooms(**work):
    built = StageThreads(threaded=True, limit_bytes=100)
    pipes = {name: built.before_all(name, do, lambda: None) for name, do in work.items()}
    return built, pipes


def test_items_come_in_order_and_the_end_waits_for_all_of_them():
    seen = []
    built, pipes = rooms(last=lambda item: (time.sleep(0.001), seen.append(item)))
    built.start()
    for i in range(50):
        pipes["last"].put(i)
    built.finish(10, after_first=lambda: seen.append("after"))
    assert seen == [*range(50), "after"]


def test_full_is_by_bytes_and_putting_waits_until_there_is_room():
    gate = threading.Event()
    built, pipes = rooms(slow=lambda item: gate.wait(10))
    built.start()
    pipes["slow"].put("a", 60)
    assert not pipes["slow"].full()
    pipes["slow"].put("b", 60)
    assert pipes["slow"].full()
    assert built.held_bytes == 120
    waiting = threading.Thread(target=pipes["slow"].put, args=("c", 60))
    waiting.start()
    waiting.join(1.5)
    assert waiting.is_alive() and built.held_bytes == 120  # however long the stage hangs
    gate.set()
    waiting.join(10)
    assert not waiting.is_alive() and not pipes["slow"].full()
    built.finish(10, after_first=lambda: None)


def test_nobody_waits_for_a_stage_that_has_failed():
    def fail(item):
        raise ValueError(item)

    built, pipes = rooms(bad=fail)
    built.start()
    pipes["bad"].put("why", 1000)
    for _ in range(3):
        pipes["bad"].put("more", 1000)
    assert built.finish(10, after_first=lambda: None) == []
    with pytest.raises(ValueError, match="why"):
        built.raise_failure()


def test_at_the_end_nobody_waits_and_the_first_stage_leaves_what_is_queued():
    gate, learnt, rolled = threading.Event(), [], []
    built = StageThreads(threaded=True, limit_bytes=1)
    last = built.before_all("last", lambda item: (gate.wait(10), rolled.append(item)), lambda: None)
    first = built.before_all("first", lambda item: (learnt.append(item), last.put(item, 100)), lambda: None)
    built.start()
    first.put(1)
    while built.held_bytes < 100:
        time.sleep(0.01)
    for item in (2, 3, 4):
        first.put(item)
    while len(learnt) < 2:  # the second waits for the last stage, which hangs
        time.sleep(0.01)
    threading.Timer(0.2, gate.set).start()
    assert built.finish(10, after_first=lambda: last.put("barrier"), drop=True) == []
    assert learnt == [1, 2] and rolled == [1, 2, "barrier"]


def test_a_failure_is_raised_and_its_state_is_left_alone():
    def fail(item):
        raise ValueError(item)

    touched = []
    built, pipes = rooms(bad=fail)
    built.start()
    pipes["bad"].put("why")
    built.finish(10, after_first=lambda: touched.append(1))
    with pytest.raises(ValueError, match="why"):
        built.raise_failure()
    assert touched == []


def test_a_room_that_does_not_end_in_time_is_not_touched():
    gate, touched = threading.Event(), []
    built, pipes = rooms(stuck=lambda item: gate.wait(10))
    built.start()
    pipes["stuck"].put("x")
    built.finish(0.05, after_first=lambda: touched.append(1))
    assert touched == []
    gate.set()


def test_idle_rooms_are_called():
    called = threading.Event()
    built = StageThreads(threaded=True, limit_bytes=1)
    built.before_all("idle", lambda item: None, called.set)
    built.start()
    assert called.wait(10)
    built.finish(10, after_first=lambda: None)


def test_without_threads_a_room_is_a_call():
    seen = []
    pipe = StageThreads(threaded=False, limit_bytes=1).before_all("x", seen.append, lambda: None)
    pipe.put("a", 10**9)
    assert (seen, pipe.full()) == (["a"], False)
