"""Few selected samples are forwarded again where samples do not influence each other; elsewhere never."""

import pytest
import torch

from tta_adapters.tent import Tent
from tta_agent.core.types import Selection
from tta_agent.testing import batch, tiny_net


def few(x):
    return Selection(torch.tensor([1, 5]), torch.ones(2))


def run(adapter, steps=25):
    graphs = []
    for seed in range(steps):
        x = batch(seed=seed)
        logits = adapter.forward(x)
        graphs.append(logits.requires_grad)
        adapter.step(x, logits, few(x))
    return graphs


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_few_samples_are_forwarded_again_with_the_same_result(kind):
    sparing, whole = Tent(tiny_net(kind)), Tent(tiny_net(kind))
    whole.apart = False
    graphs = run(sparing)
    assert graphs[0]
    assert not graphs[-1]
    assert all(run(whole))
    for name, (value, _) in whole.moved().items():
        assert torch.allclose(sparing.moved()[name][0], value, atol=1e-5), name


def test_where_everyone_teaches_the_graph_stays():
    adapter = Tent(tiny_net("group"))
    for seed in range(25):
        x = batch(seed=seed)
        logits = adapter.forward(x)
        assert logits.requires_grad
        adapter.step(x, logits, Selection(torch.arange(16), torch.ones(16)))


def test_batch_statistics_and_the_marginal_term_need_everyone():
    assert all(run(Tent(tiny_net("batch"))))
    assert all(run(Tent(tiny_net("group"), marginal=0.5)))
