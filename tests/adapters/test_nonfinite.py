"""Numbers that are not finite: who is to blame, what is skipped, and what starts over."""

import copy
import logging

import pytest
import torch

from tta_adapters.eata import Eata
from tta_adapters.norm import Norm
from tta_adapters.rmt import Rmt
from tta_adapters.tent import Tent
from tta_adapters.tesla import Tesla
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.types import SourceInfo
from tta_agent.testing import batch, everyone, fingerprint, learn, same, tiny_net

MAKE = {
    "norm": Norm,
    "tent": Tent,
    "sgd": lambda model: Tent(model, optimizer="sgd"),
    "rmt": Rmt,
    "tesla": lambda model: Tesla(model, queue=4),
}


def wild(value, *, seed=9, record=3):
    x = batch(seed=seed)
    x[record, 0, 2, 2] = value
    return x


def step(adapter, x):
    return adapter.step(x, adapter.forward(x), everyone(x))


def floats(state, path=()):
    """Paths of the tensors that average something."""
    if isinstance(state, torch.Tensor):
        return [path] if state.is_floating_point() else []
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    return [found for key, inner in items for found in floats(inner, (*path, key))]


def put(state, path, value):
    for key in path:
        state = state[key]
    state.view(-1)[:1] = value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", MAKE)
def test_each_single_tensor_that_is_not_finite_starts_the_copy_over(name, value):
    adapter, untouched = (MAKE[name](tiny_net("batch")) for _ in range(2))
    learn(adapter)
    sound = copy.deepcopy(adapter.state_dict())
    for path in floats(sound)[::5]:
        state = copy.deepcopy(sound)
        put(state, path, value)
        adapter.load_state_dict(state)
        if step(adapter, batch(seed=7)).diagnostics.get("nonfinite"):
            assert same(fingerprint(adapter), fingerprint(untouched)), path
        else:  # made anew by every batch
            assert path[-1].endswith((".before", ".count", ".kept", ".last", ".shrunk")), path
            assert all(t.isfinite().all() for t in fingerprint(adapter) if t.is_floating_point())


@pytest.mark.parametrize("name", MAKE)
def test_a_batch_with_a_wild_input_is_skipped_and_learning_goes_on_as_before(name):
    adapter = MAKE[name](tiny_net("batch"))
    learn(adapter)
    before = fingerprint(adapter)
    report = step(adapter, wild(1e20))
    assert (report.used, report.loss, dict(report.diagnostics)) == (0, None, {"skipped": 1.0})
    after, random = fingerprint(adapter), adapter.state_dict()["random"]
    changed = [t for t, b in zip(after, before, strict=True) if not torch.equal(t, b)]
    assert all(torch.equal(t, random) for t in changed)  # draws for views that led to nothing
    assert step(adapter, batch(seed=8)).used == 16


@pytest.mark.parametrize("make", [Norm, Tent])
def test_where_no_single_input_is_to_blame_the_copy_starts_over(make):
    adapter, untouched = make(tiny_net("batch")), make(tiny_net("batch"))
    learn(adapter)
    report = step(adapter, batch() * 1e25)  # all alike
    assert report.diagnostics["nonfinite"]
    assert same(fingerprint(adapter), fingerprint(untouched))


def test_it_is_told_once(caplog):
    adapter = Tent(tiny_net("batch"))
    with caplog.at_level(logging.WARNING):
        for value in (1e20, 1e20, 1e20):
            step(adapter, wild(value))
        for _ in range(2):
            step(adapter, torch.full((4, 1, 8, 8), float("nan")))
    skips, resets = (
        [line for line in caplog.messages if word in line] for word in ("are skipped", "starts over")
    )
    assert (len(skips), len(resets)) == (1, 1)


def test_source_data_that_leads_to_infinity_is_named_at_the_start():
    inputs = torch.randn(64, 1, 8, 8) * 1e25  # finite, and their squares are not
    known = SourceInfo(inputs=inputs, labels=torch.arange(64) % 4)
    with pytest.raises(CannotAdapt, match="TTA_MODEL__SOURCE_DATA"):
        Rmt(tiny_net("group"), origin=known, warmup_steps=0)
    with pytest.raises(CannotAdapt, match="Fisher information on TTA_MODEL__SOURCE_DATA"):
        Eata(tiny_net("group"), origin=known)
