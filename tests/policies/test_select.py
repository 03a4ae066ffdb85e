"""Selectors against their formulas, in NumPy, and what they remember."""

import math

import numpy as np
import pytest
import torch

from tta_agent.core.errors import ConfigError
from tta_agent.core.protocols import Stateful
from tta_agent.core.types import View
from tta_policies.select.confidence_drop import ConfidenceDrop
from tta_policies.select.deyo import DeyoSelector
from tta_policies.select.plpd import Plpd
from tta_policies.select.redundancy import Redundancy


def softmax(logits):
    p = np.exp(logits - np.max(logits, axis=1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def logits_of(p):
    return np.log(np.asarray(p, dtype=np.float64)).tolist()


def view(logits, *, without=None, source=None, source_batch=None, images=None):
    """`without`: what the copy answers to destroyed images; asked at most for those that came so far."""
    z = torch.tensor(logits)

    def predict(x):
        assert without is not None, "nobody should be scored again"
        rows = x[:, 0, 0, 0].long() if images is None else torch.arange(len(x))
        return torch.tensor(without)[rows]

    numbered = torch.arange(len(z)).float()[:, None, None, None].expand(-1, 1, 4, 4).clone()
    return View(
        numbered if images is None else images,
        z,
        predict,
        lambda: torch.tensor(source),
        lambda: torch.tensor(source_batch),
    )


def sharp(p, classes=4):
    """A row of probabilities: p on class 0, the rest alike."""
    return [p] + [(1 - p) / (classes - 1)] * (classes - 1)


SURE, FALLEN = logits_of([sharp(0.95)] * 3), logits_of([sharp(0.4), sharp(0.9), sharp(0.95)])


def test_plpd_keeps_what_needs_the_object():
    chosen = Plpd(threshold=0.2).select(view(SURE, without=FALLEN))
    assert chosen.index.tolist() == [0]
    assert chosen.weight.tolist() == [1.0]
    assert chosen.dropped == {"plpd": 2}


def test_plpd_exactly_at_the_threshold_is_dropped():
    z = [[0.0, -200.0], [0.0, -200.0]]  # exactly 1 and 0 in float32
    half = [[0.0, 0.0], [-200.0, 0.0]]  # falls of exactly 0.5 and 1
    assert Plpd(threshold=0.5).select(view(z, without=half)).index.tolist() == [1]


def test_plpd_is_the_answers_own_probability_and_not_the_largest_one():
    z, other = logits_of([sharp(0.9)]), logits_of([[0.1, 0.8, 0.05, 0.05]])
    drop = Plpd().drop(view(z, without=other), torch.arange(1))
    assert math.isclose(drop.item(), 0.9 - 0.1, abs_tol=1e-6)


def test_deyo_filters_by_entropy_then_plpd_and_adds_both_weights():
    rng = np.random.default_rng(0)
    z, without = (scale * rng.normal(size=(40, 5)) for scale in (4, 1))
    p, q = softmax(z), softmax(without)
    h, answer = -(p * np.log(p)).sum(1), p.argmax(1)
    plpd = p[range(40), answer] - q[range(40), answer]
    kept = np.flatnonzero((h < 0.5 * math.log(5)) & (plpd > 0.2))
    weight = np.exp(0.4 * math.log(5) - h) + np.exp(plpd)
    chosen = DeyoSelector().select(view(z.tolist(), without=without.tolist()))
    assert chosen.index.tolist() == kept.tolist()
    assert 0 < len(kept) < 40
    assert np.allclose(chosen.weight, weight[kept], rtol=1e-4)
    assert chosen.dropped["entropy"] == (h >= 0.5 * math.log(5)).sum()
    assert sum(chosen.dropped.values()) + len(kept) == 40


@pytest.mark.parametrize(("weights", "terms"), [("entropy", (1, 0)), ("plpd", (0, 1)), ("none", (0, 0))])
def test_deyo_weighs_by_one_of_the_two_or_none(weights, terms):
    p = np.asarray([sharp(0.95)])
    h = -(p * np.log(p)).sum()
    expected = terms[0] * math.exp(0.4 * math.log(4) - h) + terms[1] * math.exp(0.95 - 0.4)
    chosen = DeyoSelector(weights=weights).select(view(SURE[:1], without=FALLEN[:1]))
    assert math.isclose(chosen.weight.item(), expected if any(terms) else 1.0, rel_tol=1e-4)


def test_deyo_margins_follow_the_number_of_classes():
    for classes, kept in ((4, 0), (400, 1)):  # the same entropy, 1 nat, is half of ln 4 and a sixth of ln 400
        p = np.full(classes, 1e-12)
        p[:4] = [0.7, 0.1, 0.1, 0.1]
        chosen = DeyoSelector().select(
            view(logits_of([p / p.sum()]), without=np.zeros((1, classes)).tolist())
        )
        assert len(chosen.index) == kept


def test_deyo_scores_nobody_again_where_nobody_is_sure():
    selector = DeyoSelector()
    before = selector.state_dict()["random"]
    chosen = selector.select(view([[0.0, 0.0]] * 3))
    assert (len(chosen.index), len(chosen.weight), chosen.dropped) == (0, 0, {"entropy": 3})
    assert torch.equal(before, selector.state_dict()["random"])


def test_redundancy_follows_the_formula():
    rng = np.random.default_rng(1)
    selector, mean = Redundancy(d=0.6, momentum=0.9), None
    for turn in range(4):
        z = 2 * rng.normal(size=(30, 4))
        p = softmax(z)
        new = np.ones(30, bool)
        if mean is not None:
            new = np.abs(p @ mean) / (np.linalg.norm(p, axis=1) * np.linalg.norm(mean)) < 0.6
        chosen = selector.select(view(z.tolist()))
        assert chosen.index.tolist() == np.flatnonzero(new).tolist()
        assert chosen.dropped == {"redundancy": int((~new).sum())}
        assert turn == 0 or 0 < new.sum() < 30
        mean = p[new].mean(0) if mean is None else 0.9 * mean + 0.1 * p[new].mean(0)
        assert np.allclose(selector.state_dict()["mean"], mean, atol=1e-6)


def test_what_was_just_said_is_redundant_and_does_not_move_the_average():
    selector = Redundancy(d=0.9)
    selector.select(view(SURE))
    before = selector.state_dict()["mean"]
    again = selector.select(view(SURE))
    assert again.index.tolist() == []
    assert torch.equal(before, selector.state_dict()["mean"])


def test_redundancy_never_remembers_nan():
    selector = Redundancy()
    chosen = selector.select(view([[float("nan")] * 4, [5.0, 0.0, 0.0, 0.0]]))
    assert chosen.index.tolist() == [1]
    assert selector.state_dict()["mean"].isfinite().all()


def test_confidence_drop_compares_on_the_choice_of_the_source():
    source = logits_of([sharp(0.6), sharp(0.6), [0.3, 0.5, 0.1, 0.1]])
    adapted = logits_of([sharp(0.7), sharp(0.5), [0.6, 0.2, 0.1, 0.1]])
    chosen = ConfidenceDrop().select(view(adapted, source_batch=source))
    assert chosen.index.tolist() == [0]  # the last one is surer, but of another class
    assert chosen.dropped == {"confidence_drop": 2}


def test_a_tie_passes_and_so_does_float_noise():
    z = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    noisy = z - 3e-6 * torch.nn.functional.one_hot(z.argmax(1), 10)
    for adapted in (z, noisy):
        assert len(ConfidenceDrop().select(view(adapted.tolist(), source_batch=z.tolist())).index) == 50
    assert len(ConfidenceDrop(tolerance=0).select(view(noisy.tolist(), source_batch=z.tolist())).index) < 50


def test_the_reference_is_the_batch_or_what_was_served():
    z, lower, higher = (logits_of([sharp(p)]) for p in (0.6, 0.5, 0.7))
    assert len(ConfidenceDrop().select(view(z, source=higher, source_batch=lower)).index) == 1
    assert (
        len(ConfidenceDrop(reference="served").select(view(z, source=higher, source_batch=lower)).index) == 0
    )


@pytest.mark.parametrize("make", [Plpd, DeyoSelector, Redundancy])
def test_memory_survives_a_restart_and_a_reset_clears_it(make):
    images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    scored = []

    def look(selector):
        seen = view(SURE, without=FALLEN, images=images)
        record = View(
            seen.x, seen.logits, lambda x: scored.append(x) or seen.predict(x), *[seen.source_logits] * 2
        )
        index = selector.select(record).index.tolist()
        return index, scored.pop() if scored else None

    def same(one, other):
        return one[0] == other[0] and (one[1] is None or torch.equal(one[1], other[1]))

    selector = make()
    assert isinstance(selector, Stateful)
    first = look(selector)
    state = selector.state_dict()
    second = look(selector)
    assert not same(first, second)
    other = make()
    other.load_state_dict(state)
    assert same(look(other), second)
    selector.reset()
    assert same(look(selector), first)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Plpd(threshold=1.0), r"\[-1, 1\)"),
        (lambda: Plpd(transform="pach"), "did you mean patch"),
        (lambda: Plpd(patches=1), "at least 2"),
        (lambda: Plpd(transform="occlusion", occlusion=0), "share of the side"),
        (lambda: DeyoSelector(margin=3.0), "share of ln C"),
        (lambda: DeyoSelector(weight_margin=0), "weight_margin 0"),
        (lambda: DeyoSelector(weights="all"), "none of 'both'"),
        (lambda: Redundancy(d=0), "cosine"),
        (lambda: Redundancy(momentum=1), r"\[0, 1\)"),
        (lambda: ConfidenceDrop(tolerance=-1), "cannot be negative"),
        (lambda: ConfidenceDrop(reference="source"), "'batch' nor 'served'"),
    ],
)
def test_wrong_options_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_samples_that_are_no_images_are_refused():
    with pytest.raises(ConfigError, match="takes images"):
        Plpd().select(View(torch.zeros(2, 5), torch.zeros(2, 3), lambda x: x, lambda: None, lambda: None))
