"""What logits decide: bit for bit as argmax of classes, and by label where a record has several."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tta_agent.core import task
from tta_agent.core.types import softmax
from tta_agent.scoring import distributions, sample_scores

ROOT = Path(__file__).parents[2]
ELSEWHERE = ("task.py", "answers.py")  # the module; scores in wire formats, before they are logits
RANDOM = np.random.default_rng(0)
Z = RANDOM.standard_normal((50, 5)).astype(np.float32)
LABELS = RANDOM.integers(5, size=50)


def of_labels(odds):
    """Logits [N, 2, L] of log-odds [N, L]."""
    odds = np.asarray(odds, np.float32)
    return np.stack([np.zeros_like(odds), odds], 1)


SETS = of_labels([[2.0, -1.0, 0.5], [-1.0, -2.0, -3.0], [1.0, 1.0, 1.0]])


def test_classes_are_decided_as_the_largest_logit():
    other = Z[::-1]
    assert task.answers(Z) == Z.argmax(1).tolist() and task.answer(Z[3]) == int(Z[3].argmax())
    assert (task.differs(Z, other) == (Z.argmax(1) != other.argmax(1))).all()
    assert (task.correct(Z, LABELS) == (Z.argmax(1) == LABELS)).all()
    assert (task.named(Z).argmax(1) == Z.argmax(1)).all() and task.named(Z).sum() == len(Z)
    assert task.tallies(Z).tolist() == np.bincount(Z.argmax(1), minlength=5).tolist()
    assert (task.certainty(Z) == softmax(Z).max(1)).all()
    assert (task.classes(Z), task.chance(Z)) == (5, 0.2)


def test_label_sets():
    assert task.answers(SETS) == [(0, 2), (), (0, 1, 2)] and task.answer(SETS[1]) == ()
    truth = np.array([[1, 0, 1], [0, 0, 1], [1, 1, 1]])
    assert task.correct(SETS, truth).tolist() == [True, False, True]
    assert task.differs(SETS, -SETS).tolist() == [True, True, True]
    assert task.differs(SETS, SETS * 2).tolist() == [False, False, False]
    assert task.tallies(SETS).tolist() == [2, 1, 2] and task.classes(SETS) == 3
    assert task.chance(SETS) == 1 / 8
    p = 1 / (1 + np.exp(-np.array([2.0, 1.0, 0.5])))
    assert task.certainty(SETS)[0] == pytest.approx(p.prod())


@pytest.mark.parametrize(
    ("before", "after", "truth", "wrong", "gain"),
    [
        (1, 2, 2, 0, 1), (2, 1, 2, 1, -1), (1, 3, 2, 1, 0), (2, 2, 2, 0, 0),
        ((0, 2), (0,), (0, 1), 1, 1), ((0,), (0, 2), (0, 1), 2, -1), ((), (3,), (0, 1), 3, -1),
        ((1,), (0,), (0, 1), 1, 0),
        ((), (), (), 0, 0),
    ],
)  # fmt: skip
def test_the_better_answer_has_fewer_errors(before, after, truth, wrong, gain):
    assert task.errors(after, truth) == wrong
    assert task.gain(before, after, truth) == gain
    assert task.from_json(task.to_json(after)) == after


def test_scores_are_those_of_each_label_on_the_average():
    z = torch.from_numpy(SETS)
    each = [torch.from_numpy(SETS[:, :, i]) for i in range(3)]
    for score in (sample_scores.entropy, sample_scores.confidence, sample_scores.margin):
        assert torch.allclose(score(z), torch.stack([score(one) for one in each]).mean(0))
    for score in (distributions.uncertainty, distributions.energy):
        assert np.allclose(score(SETS), np.mean([score(SETS[:, :, i]) for i in range(3)], 0))
    assert distributions.concentration(SETS) == pytest.approx(
        np.mean([distributions.concentration(SETS[:, :, i]) for i in range(3)])
    )
    assert distributions.histogram(SETS).tolist() == [0.4, 0.2, 0.4]
    assert distributions.effective_rank(SETS) == pytest.approx(distributions.effective_rank(SETS[:, 1] * 1.0))
    truth = (SETS[:, 1] > 0).astype(np.int64)
    assert distributions.temperature(2 * SETS, truth) == pytest.approx(
        2 * distributions.temperature(SETS, truth)
    )


def test_nobody_else_decides():
    """Outside the module no line takes the largest of the logits."""
    alone = re.compile(r"argmax\((1|dim=1|axis=1|-1|dim=-1)")
    files = [p for room in ("tta_agent", "adapters", "policies") for p in (ROOT / room).rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        if path.name not in ELSEWHERE
        for line in path.read_text().splitlines()
        if alone.search(line) and "centres" not in line  # the nearest prototype, in rmt
    ]
    assert len(files) > 300 and not found
