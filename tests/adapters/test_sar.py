"""SAR against an independent computation of its two passes, and its recovery."""

import math
from typing import get_args

import pytest
import torch

from tta_adapters.sar import Sar
from tta_agent.core.types import Selection
from tta_agent.testing import (
    ADAPTER_CHECKS,
    Kind,
    batch,
    everyone,
    fingerprint,
    learn,
    nobody,
    same,
    tiny_net,
)

WIDE = {"margin": 1.0, "recovery": 0.0}


@pytest.mark.parametrize("check", ADAPTER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("options", [WIDE, {"margin": 1.0, "recovery": 5.0}], ids=["learning", "recovering"])
def test_the_contract_where_it_learns_and_where_it_recovers(options, kind, check):
    """With the paper's margin a random net is sure of nothing, and the contract holds for want of a step."""
    check(lambda model: Sar(model, lr=0.05, **options), tiny_net(kind))


def norms(model):
    return {n: p for n, p in model.named_parameters() if n.split(".")[0] in ("1", "4")}


def entropy_gradients(values, x, index):
    """Mean entropy of `index` and its gradients at `values`, on a fresh net under batch statistics."""
    model = tiny_net("batch").train()
    with torch.no_grad():
        for name, p in norms(model).items():
            p.copy_(values[name])
    p = model(x)[index].softmax(1)
    loss = -(p * p.log()).sum(1).mean()
    return loss.item(), dict(zip(values, torch.autograd.grad(loss, list(norms(model).values())), strict=True))


def test_two_passes_follow_the_formula():
    index, rho, lr = torch.tensor([0, 2, 3, 9]), 0.3, 0.1
    adapter = Sar(tiny_net("batch"), rho=rho, lr=lr, **WIDE)
    values = {n: p.detach().clone() for n, p in norms(tiny_net("batch")).items()}
    momentum = {n: torch.zeros_like(p) for n, p in values.items()}
    for i in range(3):
        x = batch(seed=i)
        _, g = entropy_gradients(values, x, index)
        length = math.sqrt(sum(float((one**2).sum()) for one in g.values()))
        above = {n: p + rho * g[n] / (length + 1e-12) for n, p in values.items()}
        loss, uphill = entropy_gradients(above, x, index)
        momentum = {n: 0.9 * momentum[n] + uphill[n] for n in values}
        values = {n: p - lr * momentum[n] for n, p in values.items()}
        report = adapter.step(x, adapter.forward(x), Selection(index, torch.ones(4)))
        assert abs(report.loss - loss) < 1e-5
    for name, p in adapter.parameters.items():
        assert torch.allclose(p, values[name], atol=1e-5)


def test_the_second_pass_leaves_out_who_is_no_longer_sure():
    adapter, x = Sar(tiny_net("batch"), rho=2.0, recovery=0.0), batch(64)
    logits = adapter.forward(x)
    p = logits.detach().softmax(1)
    h = -(p * p.log()).sum(1)
    adapter.margin = float(h.median()) / math.log(4)
    sure = torch.nonzero(h < h.median()).flatten()
    report = adapter.step(x, logits, Selection(sure, torch.ones(len(sure))))
    assert 0 < report.used < len(sure)
    assert report.loss < h.median()


def test_no_one_sure_above_touches_nothing():
    adapter, x = Sar(tiny_net("batch"), margin=1e-6, recovery=0.0), batch()
    before = fingerprint(adapter)
    report = adapter.step(x, adapter.forward(x), everyone(x))
    assert (report.used, report.loss) == (0, None)
    assert same(before, fingerprint(adapter))


def test_weights_and_remembered_statistics_come_back_exactly():
    adapter, x = Sar(tiny_net("batch"), lr=0.0, rho=5.0, **WIDE), batch()
    plain = Sar(tiny_net("batch"), lr=0.0, rho=1e-9, **WIDE)
    for each in (adapter, plain):
        each.step(x, each.forward(x), everyone(x))
    source = tiny_net("batch").state_dict()
    assert all(torch.equal(p, source[name]) for name, p in adapter.parameters.items())
    served = [a.servable().state_dict() for a in (adapter, plain)]
    assert all(torch.equal(served[0][name], served[1][name]) for name in source)


def test_a_failure_above_leaves_the_weights_below(monkeypatch):
    adapter, x = Sar(tiny_net("batch"), **WIDE), batch()
    before, logits = fingerprint(adapter), adapter.forward(x)

    def full(x):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(adapter, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        adapter.step(x, logits, everyone(x))
    assert same(before, fingerprint(adapter))


@pytest.mark.parametrize(("scaled", "threshold"), [(True, 0.2 * math.log(4) / math.log(1000)), (False, 0.2)])
def test_the_threshold_of_recovery(scaled, threshold):
    adapter = Sar(tiny_net("batch"), scaled=scaled)
    assert math.isclose(adapter.threshold(4), threshold)
    assert math.isclose(adapter.threshold(1000), 0.2)


def test_the_level_is_an_average_and_below_the_threshold_everything_is_the_source():
    adapter, untouched = Sar(tiny_net("batch"), lr=0.1, **WIDE), Sar(tiny_net("batch"), lr=0.1, **WIDE)
    level = None
    for i in range(4):
        x = batch(seed=i)
        loss = adapter.step(x, adapter.forward(x), everyone(x)).loss
        level = loss if level is None else 0.9 * level + 0.1 * loss
    assert math.isclose(adapter.state_dict()["memory"]["e"].item(), level, rel_tol=1e-6)
    adapter.recovery = 50.0
    report = adapter.step(x, adapter.forward(x), everyone(x))
    assert report.diagnostics == {"recovered": 1.0}
    assert (report.used, report.loss) == (0, None)
    assert same(fingerprint(adapter), fingerprint(untouched))  # momentum and e among it
    adapter.recovery = 0.0
    learn(adapter)
    learn(untouched)
    assert same(fingerprint(adapter), fingerprint(untouched))


def test_two_forwards_and_two_backwards_at_most():
    counts = {"forward": 0, "backward": 0}
    model = tiny_net("batch")
    model.register_forward_pre_hook(lambda *_: counts.update(forward=counts["forward"] + 1))
    model[8].register_full_backward_hook(lambda *_: counts.update(backward=counts["backward"] + 1))
    adapter, x = Sar(model, **WIDE), batch()
    adapter.step(x, adapter.forward(x), everyone(x))
    assert counts == {"forward": 2, "backward": 2}
    adapter.step(x, adapter.forward(x), nobody(x))
    assert counts == {"forward": 3, "backward": 2}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"margin": 0.0}, "share of ln C"),
        ({"rho": 0.0}, "rho > 0"),
        ({"recovery": -0.1}, "recovery >= 0"),
        ({"layers": "all"}, "'last', 'literal', 'none'"),
        ({"optimizer": "lion"}, "'adam' nor 'sgd'"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Sar(tiny_net("batch"), **options)
