"""The optimisers against those of torch, and the presets whose published configuration has Nesterov's momentum."""

import copy

import pytest
import torch

from tta_adapters.optimizers import make_optimizer
from tta_adapters.roid import Roid
from tta_adapters.tent import Tent
from tta_agent.core import plugins
from tta_agent.scoring.sample_scores import entropy
from tta_agent.settings.presets import preset, presets
from tta_agent.testing import batch, everyone, learn, tiny_net

# mariodoebler/test-time-adaptation (conf.py: NESTEROV = True, of which roid and rmt are the official code) and
# qinenergy/cotta (imagenet/imagenetc.py); the official TENT, EATA, SAR, DeYO and TeSLA take plain momentum
NESTEROV = {"roid-imagenet", "rmt-imagenet", "cotta-imagenet"}


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_that_of_torch(nesterov):
    adapter = Tent(tiny_net("group"), lr=0.05, optimizer="sgd", nesterov=nesterov)
    model = copy.deepcopy(adapter.model)
    theirs = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9, nesterov=nesterov
    )
    for seed in range(5):
        x = batch(seed=seed)
        adapter.step(x, adapter.forward(x), everyone(x))
        theirs.zero_grad()
        entropy(model(x)).mean().backward()
        theirs.step()
    mine = dict(adapter.model.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, mine[name], atol=1e-6), name


def test_nesterov_is_another_path():
    plain, ahead = (Roid(tiny_net("batch"), lr=0.01, optimizer="sgd", nesterov=n) for n in (False, True))
    learn(plain)
    learn(ahead)
    pairs = zip(plain.moved().values(), ahead.moved().values(), strict=True)
    assert any(not torch.allclose(a, b, atol=1e-5) for (a, _), (b, _) in pairs)


@pytest.mark.parametrize("name", presets())
def test_presets_are_the_published_configurations(name):
    adapt = preset(name).get("adapt", {})
    options = adapt.get("options", {}).get(adapt.get("method"), {})
    assert bool(options.get("nesterov")) == (name in NESTEROV)
    if name in NESTEROV:
        adapter = plugins.make("adapters", adapt["method"], adapt["options"], tiny_net("batch"))
        assert all(group["nesterov"] for group in adapter.optimizer.param_groups)  # rmt's projection too


def test_what_does_not_fit_is_refused():
    parameter = [torch.nn.Parameter(torch.zeros(1))]
    with pytest.raises(ValueError, match="expected it with optimizer 'sgd'"):
        make_optimizer("adam", parameter, 0.1, nesterov=True)
    with pytest.raises(ValueError, match="'rmsprop' is neither 'adam' nor 'sgd'"):
        make_optimizer("rmsprop", parameter, 0.1)
