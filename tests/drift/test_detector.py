"""Where a proof holds: blocks of what records look like and what the source says."""

import numpy as np
import pytest

from tta_agent.drift.detector import BLOCK, ENOUGH, FITTING, KEPT, DataRegime, DriftDetector, features


def answers(n, sure=2.0, seed=0, runs=1):
    """Logits [n, 10] of a model that is this sure of one class; classes come in runs, each with its own sureness."""
    random = np.random.default_rng(seed)
    classes = np.repeat(random.integers(0, 10, -(-n // runs)), runs)[:n]
    logits = random.standard_normal((n, 10))
    logits[np.arange(n), classes] += sure * (1 + 0.05 * classes)
    return logits


def rows(n, seed=0, size=1.0, **kind):
    """Signatures [n, 5] of such records; `size` is that of their inputs."""
    x = np.random.default_rng(seed + 1000).standard_normal((n, 1, 4, 4)) * size
    return features(answers(n, seed=seed, **kind), x)


def blocks(n, **kind):
    """Block means of `n` blocks."""
    lookout = DriftDetector()
    found = []
    for _ in lookout.see(rows(n * BLOCK, **kind)):
        found.append(lookout.latest[-1])
    return np.stack(found)


def test_a_signature_is_what_the_papers_say_and_what_the_inputs_are():
    logits, x = np.array([[1.0, 1.0, 1.0, 1.0], [1e4, 0.0, 0.0, 0.0]]), np.zeros((2, 1, 2, 2))
    x[1] = [[[0.0, 2.0], [4.0, 6.0]]]
    flat, sure = [np.log(4), 1 + np.log(4), 0, 0, 0], [0.0, 1e4, 3.0, np.sqrt(5), 2.0]
    assert features(logits, x) == pytest.approx(np.array([flat, sure]))


def test_one_record_of_one_number_has_a_signature():
    assert features(np.zeros((1, 2)), np.ones((1, 1))).shape == (1, 5)


def test_what_the_source_says_and_what_the_inputs_are_both_tell():
    domain = DataRegime(blocks(KEPT))
    assert not domain.left_by(blocks(4, seed=1))
    assert domain.left_by(blocks(4, seed=1, size=1.5)) and domain.left_by(blocks(4, seed=1, sure=4.0))


def test_records_are_taken_in_blocks_however_they_come():
    at_once, in_parts = DriftDetector(), DriftDetector()
    logits = rows(3 * BLOCK + 5)
    assert len(list(at_once.see(logits))) == 3
    assert sum(len(list(in_parts.see(part))) for part in np.split(logits, [1, 40, 41])) == 3
    assert in_parts.latest == pytest.approx(at_once.latest)


def test_a_domain_that_knows_little_is_neither_left_nor_come_back_to():
    domain, other = DataRegime(blocks(ENOUGH - 1)), blocks(4, sure=6.0)
    assert not domain.left_by(other) and not domain.fits(blocks(FITTING, seed=1))
    domain.add(blocks(1, seed=2)[0])
    assert domain.left_by(other) > 5 and domain.fits(blocks(FITTING, seed=1))


def test_one_block_shows_a_large_change_and_sixteen_a_small_one():
    domain = DataRegime(blocks(KEPT))
    assert domain.left_by(blocks(1, seed=1, sure=6.0))
    small = blocks(16, seed=1, sure=2.6)
    assert not domain.left_by(small[:1]) and domain.left_by(small)


def test_between_left_and_fitting_there_is_room():
    domain = DataRegime(blocks(KEPT))
    between = [
        kind for kind in np.linspace(2.0, 3.0, 21) if _between(domain, blocks(FITTING, seed=3, sure=kind))
    ]
    assert between


def _between(domain, latest):
    return not domain.left_by(latest) and not domain.fits(latest)


def test_what_is_not_finite_is_of_another_kind():
    broken = np.full((1, 5), np.nan)
    assert DataRegime(blocks(KEPT)).left_by(broken) > 5


@pytest.mark.parametrize("runs", [1, 25])
def test_a_steady_stream_is_steady_though_classes_come_in_runs(runs):
    changes = [ended for ended in DriftDetector().see(rows(1000 * BLOCK, runs=runs)) if ended]
    assert len(changes) <= 4


@pytest.mark.parametrize("runs", [1, 25])
def test_a_change_is_seen_once_and_soon(runs):
    logits = np.concatenate([rows(80 * BLOCK, runs=runs), rows(80 * BLOCK, sure=4.0, seed=1, runs=runs)])
    [(when, ended)] = [(i, ended) for i, ended in enumerate(DriftDetector().see(logits)) if ended]
    assert 80 <= when <= 83
    assert ended.fits(blocks(FITTING, seed=2)) and ended.left_by(blocks(4, sure=4.0, seed=2))


def test_the_domain_is_what_came_since_the_last_change():
    lookout = DriftDetector()
    list(lookout.see(rows(80 * BLOCK)))
    list(lookout.see(rows(80 * BLOCK, sure=4.0, seed=1)))
    assert lookout.domain().fits(blocks(FITTING, sure=4.0, seed=2))
    assert lookout.domain().left_by(blocks(2, seed=2))


def test_a_short_excursion_leaves_what_was_known_before():
    lookout = DriftDetector()
    streams = rows(80 * BLOCK), rows(12 * BLOCK, sure=6.0, seed=1), rows(80 * BLOCK, seed=2)
    assert [sum(ended is not None for ended in lookout.see(logits)) for logits in streams] == [0, 1, 0]
    assert lookout.domain().left_by(blocks(1, seed=3, sure=6.0))
    assert [ended is not None for ended in lookout.see(rows(4 * BLOCK, sure=6.0, seed=4))].count(True) == 1


def test_a_domain_follows_slow_drift():
    domain = DataRegime(blocks(KEPT))
    for i in range(800):
        block = blocks(1, sure=2.0 + i / 400, seed=i)
        assert not domain.left_by(block)
        domain.add(block[0])
    assert domain.fits(blocks(FITTING, sure=4.0, seed=8)) and not domain.fits(blocks(FITTING, seed=8))


def test_a_domain_survives_a_restart():
    one = DataRegime(blocks(KEPT))
    other = DataRegime(one.blocks.tolist())
    latest = blocks(4, seed=1)
    assert other.distance(latest) == one.distance(latest)
