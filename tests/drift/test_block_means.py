"""Data regimes: blocks of what records look like and what the source answers."""

import numpy as np
import pytest

from tta_agent.drift.block_means import BLOCK, FEATURES, BlockMeans
from tta_agent.drift.regime import ENOUGH, FITTING, KEPT, LEFT, DataRegime


def answers(n, sure=2.0, seed=0, runs=1):
    """Logits [n, 10] of a model that is this sure of one class; classes come in runs, each with its own sureness."""
    random = np.random.default_rng(seed)
    classes = np.repeat(random.integers(0, 10, -(-n // runs)), runs)[:n]
    logits = random.standard_normal((n, 10))
    logits[np.arange(n), classes] += sure * (1 + 0.05 * classes)
    return logits


def rows(n, seed=0, size=1.0, **kind):
    """Features [n, 6] of such records; `size` is that of their inputs."""
    x = np.random.default_rng(seed + 1000).standard_normal((n, 1, 4, 4)) * size
    return BlockMeans().features(answers(n, seed=seed, **kind), x)


def blocks(n, **kind):
    """Block means of `n` blocks."""
    return np.stack([report.block for report in BlockMeans().update(rows(n * BLOCK, **kind)).blocks])


def changes(detector, logits):
    """For each block whether it shows a change, and the regime that has ended."""
    return [report.ended for report in detector.update(logits).blocks]


def test_the_features_is_what_the_papers_say_and_what_the_inputs_are():
    logits, x = np.array([[1.0, 1.0, 1.0, 1.0], [1e4, 0.0, 0.0, 0.0]]), np.zeros((2, 1, 2, 3))
    x[1] = [[[0.0, 2.0, 5.0], [3.0, 1.0, 0.0]]]
    flat, sure = (
        [np.log(4), 1 + np.log(4), 0, 0, 0, 0],
        [0.0, 1e4, 11 / 6, np.sqrt(39 / 6 - (11 / 6) ** 2), 2.0, 1.0],
    )
    assert BlockMeans().features(logits, x) == pytest.approx(np.array([flat, sure]))


def test_one_record_of_one_number_has_the_features():
    assert BlockMeans().features(np.zeros((1, 2)), np.ones((1, 1))).shape == (1, 6)


def test_what_the_source_says_and_what_the_inputs_are_both_tell():
    regime = DataRegime(blocks(KEPT))
    assert not regime.left_by(blocks(4, seed=1))
    assert regime.left_by(blocks(4, seed=1, size=1.5)) and regime.left_by(blocks(4, seed=1, sure=4.0))


def test_records_are_taken_in_blocks_however_they_come():
    at_once, in_parts = BlockMeans(), BlockMeans()
    logits = rows(3 * BLOCK + 5)
    assert len(changes(at_once, logits)) == 3
    assert sum(len(changes(in_parts, part)) for part in np.split(logits, [1, 40, 41])) == 3
    assert in_parts.steady == pytest.approx(at_once.steady)


def test_a_regime_that_knows_little_is_neither_left_nor_come_back_to():
    regime, other = DataRegime(blocks(ENOUGH - 1)), blocks(4, sure=6.0)
    assert not regime.left_by(other) and not regime.fits(blocks(FITTING, seed=1))
    regime.add(blocks(1, seed=2)[0])
    assert regime.left_by(other) > 5 and regime.fits(blocks(FITTING, seed=1))


def test_one_block_shows_a_large_change_and_sixteen_a_small_one():
    regime = DataRegime(blocks(KEPT))
    assert regime.left_by(blocks(1, seed=1, sure=6.0))
    small = blocks(16, seed=1, sure=2.6)
    assert not regime.left_by(small[:1]) and regime.left_by(small)


def test_between_left_and_fitting_there_is_room():
    regime = DataRegime(blocks(KEPT))
    between = [
        kind for kind in np.linspace(2.0, 3.0, 21) if _between(regime, blocks(FITTING, seed=3, sure=kind))
    ]
    assert between


def _between(regime, latest):
    return not regime.left_by(latest) and not regime.fits(latest)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e308])
@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_is_of_another_kind(value):
    broken = np.full((1, len(FEATURES)), value)
    assert DataRegime(blocks(KEPT)).left_by(broken) > 5


@pytest.mark.parametrize("runs", [1, 25])
def test_a_steady_stream_is_steady_though_classes_come_in_runs(runs):
    found = [ended for ended in changes(BlockMeans(), rows(1000 * BLOCK, runs=runs)) if ended]
    assert len(found) <= 4


@pytest.mark.parametrize("runs", [1, 25])
def test_a_change_is_seen_once_and_soon(runs):
    logits = np.concatenate([rows(80 * BLOCK, runs=runs), rows(80 * BLOCK, sure=4.0, seed=1, runs=runs)])
    [(when, ended)] = [(i, ended) for i, ended in enumerate(changes(BlockMeans(), logits)) if ended]
    assert 80 <= when <= 83
    assert ended.fits(blocks(FITTING, seed=2)) and ended.left_by(blocks(4, sure=4.0, seed=2))


def test_the_regime_is_what_came_since_the_last_change():
    detector = BlockMeans()
    detector.update(rows(80 * BLOCK))
    regime = detector.regime(detector.update(rows(80 * BLOCK, sure=4.0, seed=1)).recent)
    assert regime.fits(blocks(FITTING, sure=4.0, seed=2))
    assert regime.left_by(blocks(2, seed=2))


def test_a_short_excursion_leaves_what_was_known_before():
    detector = BlockMeans()
    streams = rows(80 * BLOCK), rows(12 * BLOCK, sure=6.0, seed=1), rows(80 * BLOCK, seed=2)
    assert [sum(ended is not None for ended in changes(detector, logits)) for logits in streams] == [0, 1, 0]
    assert detector.regime(detector.steady).left_by(blocks(1, seed=3, sure=6.0))
    assert [ended is not None for ended in changes(detector, rows(4 * BLOCK, sure=6.0, seed=4))].count(
        True
    ) == 1


def test_a_regime_follows_slow_drift():
    regime = DataRegime(blocks(KEPT))
    for i in range(800):
        block = blocks(1, sure=2.0 + i / 400, seed=i)
        assert not regime.left_by(block)
        regime.add(block[0])
    assert regime.fits(blocks(FITTING, sure=4.0, seed=8)) and not regime.fits(blocks(FITTING, seed=8))


def test_a_regime_survives_a_restart():
    one = DataRegime(blocks(KEPT))
    other = DataRegime(one.blocks.tolist())
    latest = blocks(4, seed=1)
    assert other.distance(latest) == one.distance(latest)


def test_distances_are_told_by_feature():
    detector = BlockMeans()
    steady = detector.update(rows(80 * BLOCK)).distances
    assert set(steady) == {*FEATURES, "together"} and max(steady.values()) < 8
    louder = detector.update(rows(BLOCK, seed=1, size=2.0))
    assert louder.ended and louder.distances["deviation"] > 8 > 2 * louder.distances["entropy"]


def test_features_that_move_apart_tell_more_than_each_alone():
    random = np.random.default_rng(0)
    contrast, rest = random.normal(size=(KEPT, 1)), random.normal(size=(KEPT, 2))
    regime = DataRegime(contrast + 0.1 * rest)  # deviation and roughness, say
    apart, along = np.array([[1.5, -1.5]]), np.array([[4.0, 4.0]])
    *each, together = regime.distances(apart)
    assert max(each) < 2 and together > LEFT and regime.left_by(apart) == together
    assert max(regime.distances(along)) < LEFT


def test_more_features_than_blocks_are_told_by_each_alone():
    regime = DataRegime(np.random.default_rng(0).normal(size=(ENOUGH, ENOUGH)))
    *each, together = regime.distances(regime.blocks[:1] + 20.0)
    assert together == 0.0 and min(each) > LEFT


def test_noise_is_told_from_detail_by_curvature():
    """Waves of any height are as rough as noise, which turns more; so five features together do not tell it."""
    random = np.random.default_rng(0)
    heights = random.uniform(0.5, 1.5, (KEPT * BLOCK, 1, 1, 1))
    waves = heights * np.sin(np.arange(32) / 3 + random.uniform(0, 6, (KEPT * BLOCK, 1, 1, 1)))
    noisy = waves[: 2 * BLOCK] + 0.05 * random.standard_normal((2 * BLOCK, 1, 1, 32))
    known = BlockMeans().features(answers(KEPT * BLOCK), waves).reshape(KEPT, BLOCK, -1).mean(1)
    latest = BlockMeans().features(answers(2 * BLOCK, seed=1), noisy).reshape(2, BLOCK, -1).mean(1)
    assert DataRegime(known).distances(latest)[-1] > 2 * LEFT
    assert max(DataRegime(known[:, :5]).distances(latest)) < LEFT / 2


def test_a_regime_of_an_older_checkpoint_goes_by_the_features_that_it_knows():
    now = blocks(KEPT)
    older = DataRegime(now[:, :5].tolist())
    assert older.fits(blocks(FITTING, seed=1)) and older.left_by(blocks(4, seed=1, size=1.5))
    older.follow(blocks(16, seed=2))
    assert older.blocks.shape == (KEPT, 5) and DataRegime([]).distance(now) == 0.0


def test_the_oldest_of_sixteen_blocks_is_followed_and_none_before():
    regime, latest = DataRegime(blocks(KEPT)), blocks(17, seed=9)
    regime.follow(latest[:15])
    assert not np.array_equal(regime.blocks[-1], latest[0])
    regime.follow(latest[:16])
    assert np.array_equal(regime.blocks[-1], latest[0])
    regime.follow(latest)
    assert np.array_equal(regime.blocks[-1], latest[1])


def test_rounding_of_probabilities_is_no_change():
    z = np.random.default_rng(0).normal(0, 3, (500, 10)).astype(np.float32)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    features = BlockMeans().features(np.log(p), np.zeros((500, 1, 4, 4)))
    assert (features[:, FEATURES.index("energy")] == 0).all()
