"""The benchmark of poisoned streams, its short form: inputs out of range cost next to nothing of the gain."""

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
LENGTHS = (300, 1500)


@pytest.fixture
def poison(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import poison

    return poison


@pytest.mark.slow
def test_inputs_out_of_range_do_not_stop_adaptation(poison):
    honest, attacked = (
        poison.cell((attack, share, "norm", LENGTHS, 0, True))
        for attack, share in (("none", 0.0), ("out of range", 0.05))
    )
    assert honest["source"] == attacked["source"]  # the same users
    gain = honest["served"] - honest["source"]
    assert gain > 10
    assert attacked["served"] > honest["served"] - gain / 4  # a swap may come some records later
    assert attacked["worst_window"] <= 1.0
    assert attacked["rejected_implausible"] + attacked["held_out_implausible"] > 0.04 * sum(LENGTHS)


def test_the_honest_records_are_the_same_whatever_the_attack(poison):
    streams = {}
    for attack, share in (("none", 0.0), ("lying labels", 0.2), ("chosen keys", 0.2), ("one client", 0.2)):
        x, labels, keys, honest = poison.stream(attack, share, (100, 100), 0, None)
        assert honest.sum() == 200
        assert len(honest) == (200 if not share else 250)
        streams[attack] = x, labels, keys, honest
    first = streams["none"]
    for x, labels, _, honest in streams.values():
        assert np.array_equal(x[honest][:100], first[0][:100])
        assert np.array_equal(labels[honest], first[1])
    _, labels, keys, honest = streams["chosen keys"]
    assert all(
        poison.held_out(key, poison.HOLDOUT) for key, mine in zip(keys, honest, strict=True) if not mine
    )
    _, _, keys, honest = streams["one client"]
    assert len({key for key, mine in zip(keys, honest, strict=True) if not mine}) == 1
