"""When a swap may happen, and how long a roll-back is remembered."""

from datetime import UTC, datetime

import pytest

from tta_agent.core.errors import ConfigError
from tta_agent.rollout.limits import DAY_S, Freeze, RolloutLimits


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("window", "moment", "held"),
    [
        ("Fri 16:00-Mon 06:00", "2026-11-20T15:59:59", False),  # a Friday
        ("Fri 16:00-Mon 06:00", "2026-11-20T16:00:00", True),
        ("Fri 16:00-Mon 06:00", "2026-11-22T12:00:00", True),
        ("Fri 16:00-Mon 06:00", "2026-11-23T06:00:00", False),
        ("22:00-02:30", "2026-11-18T23:59:00", True),
        ("22:00-02:30", "2026-11-18T02:29:59", True),
        ("22:00-02:30", "2026-11-18T02:30:00", False),
        ("fri 09:00 - fri 17:00", "2026-11-20T12:00:00", True),
    ],
)
def test_freeze_windows(window, moment, held):
    assert Freeze.parse(window).holds(at(moment)) is held
    assert bool(RolloutLimits(freeze=[window]).forbids(at(moment))) is held


@pytest.mark.parametrize("text", ["weekend", "Fri 16:00-06:00", "25:00-26:00", "Fry 16:00-Mon 06:00"])
def test_a_window_that_cannot_be_read_says_how_to_write_one(text):
    with pytest.raises(ConfigError, match=r"TTA_GATE__FREEZE"):
        RolloutLimits(freeze=[text])


def test_swaps_are_spaced_and_counted():
    pace = RolloutLimits(min_interval_s=60, per_day=2)
    assert pace.forbids(0.0) is None
    pace.swapped(0.0)
    assert "59 s ago" in pace.forbids(59.0)
    assert pace.forbids(60.0) is None
    pace.swapped(60.0)
    assert "2 swaps within 24 hours" in pace.forbids(3600.0)
    assert pace.forbids(DAY_S + 1.0) is None


def test_the_cool_down_doubles_until_a_version_has_settled():
    pace = RolloutLimits(cooldown_s=10, cooldown_most_s=60)
    assert not pace.cools(0.0)
    assert [pace.trip(0.0) for _ in range(5)] == [10, 20, 40, 60, 60]
    assert pace.cools(59.0)
    assert not pace.cools(60.0)
    pace.settled()
    assert pace.trip(100.0) == 10


def test_it_survives_a_restart():
    one, other = (RolloutLimits(min_interval_s=60, cooldown_s=10) for _ in range(2))
    one.swapped(5.0)
    one.trip(5.0)
    other.load_state_dict(one.state_dict())
    assert other.forbids(10.0) == one.forbids(10.0) is not None
    assert other.cools(14.0)
    assert other.trip(20.0) == 20
