"""The optional marginal-entropy term of every learning adapter."""

import numpy as np
import pytest
import torch

from tta_adapters.learner import marginal_entropy
from tta_adapters.sar import Sar
from tta_adapters.tent import Tent
from tta_agent.core.types import Selection
from tta_agent.testing import batch, everyone, fingerprint, learn, nobody, same, tiny_net


def test_the_term_is_the_entropy_of_the_mean_answer():
    z = 5 * torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    p = np.exp(z.double().numpy())
    p = (p / p.sum(1, keepdims=True)).mean(0)
    assert abs(marginal_entropy(z).item() + (p * np.log(p)).sum()) < 1e-6
    certain = torch.tensor([[0.0, -500.0]] * 3, requires_grad=True)
    marginal_entropy(certain).backward()
    assert torch.isfinite(certain.grad).all()


def test_it_looks_at_the_whole_batch_and_not_only_at_the_selected():
    x = batch()
    start = {n: p.detach().clone() for n, p in Tent(tiny_net("group")).parameters.items()}
    adapter = Tent(tiny_net("group"), optimizer="sgd", lr=0.1, marginal=0.5)
    adapter.step(x, adapter.forward(x), Selection(torch.tensor([3]), torch.ones(1)))
    model = tiny_net("group")
    p = model(x).softmax(1)
    loss = -(p[3] * p[3].log()).sum() + 0.5 * (p.mean(0) * p.mean(0).log()).sum()
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    for name, parameter in adapter.parameters.items():
        assert torch.allclose(parameter, start[name] - 0.1 * gradients[name], atol=1e-6)


@pytest.mark.parametrize("make", [Tent, Sar])
def test_with_nobody_selected_it_does_nothing_either(make):
    adapter, x = make(tiny_net("batch"), marginal=1.0), batch()
    learn(adapter)
    before = fingerprint(adapter)
    adapter.step(x, adapter.forward(x), nobody(x))
    assert same(before, fingerprint(adapter))


def test_it_keeps_the_answers_spread():
    def spread(marginal):
        adapter, x = Tent(tiny_net("batch"), lr=0.05, marginal=marginal), batch(64)
        for _ in range(40):
            adapter.step(x, adapter.forward(x), everyone(x))
        return marginal_entropy(adapter.predict(x)).item()

    assert spread(1.0) > spread(0.0) + 0.1


def test_a_negative_strength_is_refused():
    with pytest.raises(ValueError, match="cannot be negative"):
        Tent(tiny_net("batch"), marginal=-0.1)
