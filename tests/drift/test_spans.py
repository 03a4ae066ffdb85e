"""Small changes, which only a long span of blocks shows.

The blocks alternate by one standard deviation around a level, so that every even span has exactly that level: a
change of the level by s is s / sqrt(1/k + 1/n) standard errors in a span of k blocks with n before it.
"""

import numpy as np
import pytest

from tta_agent.drift import block_means
from tta_agent.drift.block_means import BLOCK, FEATURES, BlockMeans
from tta_agent.drift.regime import KEPT, LEFT


def level(blocks, value=0.0):
    """Features [n, d] of so many blocks."""
    means = value + np.where(np.arange(blocks) % 2, 1.0, -1.0)
    return np.repeat(means, BLOCK)[:, None] * np.ones(len(FEATURES))


def seen_after(change, blocks=KEPT):
    """Blocks after a change of the level until it is seen; None: never."""
    detector = BlockMeans()
    assert not any(report.ended for report in detector.update(level(KEPT)).blocks)
    reports = detector.update(level(blocks, change)).blocks
    return next((i for i, report in enumerate(reports, 1) if report.ended), None)


def errors(change, span):
    """Standard errors of a change in a span that holds nothing else."""
    return change / np.sqrt(1 / span + 1 / (KEPT - span))


@pytest.mark.parametrize(("span", "shorter", "change"), [(32, 16, 1.7), (64, 32, 1.3)])
def test_a_change_that_only_a_long_span_shows_is_seen(monkeypatch, span, shorter, change):
    assert errors(change, shorter) < LEFT - 0.5 and errors(change, span) > LEFT + 0.5
    after = seen_after(change)
    assert after is not None and shorter < after <= span
    rest = tuple(k for k in block_means.LONGER if k < span)
    monkeypatch.setattr(block_means, "LONGER", rest)
    assert seen_after(change) is None, "no shorter span shows it"


def test_what_not_even_the_longest_span_shows_is_no_change():
    assert errors(1.0, 64) < LEFT
    assert seen_after(1.0) is None
