"""Polls of Kafka are bounded in bytes, whatever the records weigh."""

from tta_agent.core.types import RawRecord
from tta_agent.stream.kafka.poll_size import PollSize


def records(count, size, topic="t"):
    return [RawRecord(topic, 0, i, 0, None, bytes(size)) for i in range(count)]


def grown(size, rounds=10, bound=4 << 20):
    """After some polls with records of this size."""
    found = PollSize(500, bound)
    for _ in range(rounds):
        found.polled(records(found.records(), size))
    return found


def test_a_poll_of_large_records_ends_at_the_bound():
    assert grown(600_000).records() == (4 << 20) // 600_256
    assert grown(12_000).records() == (4 << 20) // 12_256
    assert grown(100).records() == 500


def test_the_first_polls_are_small_as_nothing_is_known_of_the_records():
    size = PollSize(500)
    asked = []
    for _ in range(5):
        asked.append(size.records())
        size.polled(records(1, 10))
    assert asked == [16, 64, 256, 500, 500]


def test_many_small_records_of_another_topic_do_not_let_the_large_ones_be_forgotten():
    size = grown(600_000)
    for _ in range(50):
        size.polled(records(100, 30, topic="labels"))
    assert size.records() == (4 << 20) // 600_256


def test_one_that_is_larger_than_the_bound_comes_alone_and_is_forgotten():
    size = grown(1000)
    size.polled(records(1, 9 << 20))
    assert size.records() == 1
    for _ in range(20):
        size.polled(records(size.records(), 1000))
    assert size.records() == 500
