"""What published nets do that a plain net does not: heads for training, caches, attention in five axes."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tta_adapters.cotta import Cotta
from tta_adapters.tent import Tent
from tta_agent import testing
from tta_agent.core.errors import GraphError
from tta_agent.models import loader
from tta_agent.models.onnx_export import GraphTemplate, answers
from tta_agent.models.ort_sessions import open_session, run

SHAPE = (1, 8, 8)


class WithHelper(nn.Module):
    """A second head that takes part in training only; `always`: in the answer, too."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.net, self.always = testing.tiny_net("batch"), always
        self.helper = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4))

    def forward(self, x):
        if self.training or self.always:
            return self.net(x) + self.helper(x)
        return self.net(x)


def adapted(module, make=Tent):
    adapter = make(module)
    x = testing.batch()
    adapter.step(x, adapter.forward(x).float(), testing.everyone(x))
    return adapter.servable()


def equals(template, module):
    x = testing.batch(8, seed=5).numpy()
    return np.allclose(run(open_session(template.compose(module)), x), answers(module, x), atol=1e-5)


def test_a_head_that_only_training_uses_is_left_alone(caplog):
    source = WithHelper().eval()
    template = GraphTemplate(source, SHAPE)
    assert template.patchable and not [r for r in caplog.records if r.levelno >= logging.WARNING]
    served = adapted(source)
    assert equals(template, served)
    assert torch.equal(served.helper[1].weight, source.helper[1].weight)
    assert equals(
        GraphTemplate(WithHelper(always=True).eval(), SHAPE), adapted(WithHelper(always=True).eval())
    )


def test_what_is_missing_and_matters_is_exported_anew():
    template = GraphTemplate(WithHelper().eval(), SHAPE)
    assert not template._answers_by({"helper.1.weight"})
    assert template._answers_by({"net.0.weight"})


class Biased(nn.Module):
    """Keeps what it computes of a parameter, as LeViT does in inference mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = testing.tiny_net("batch")
        self.bias = nn.Parameter(torch.arange(4.0))
        self.attention_bias_cache: dict[str, torch.Tensor] = {}

    def forward(self, x):
        if "cpu" not in self.attention_bias_cache:
            self.attention_bias_cache["cpu"] = self.bias[torch.tensor([3, 2, 1, 0])]
        return self.net(x) + self.attention_bias_cache["cpu"]


def test_what_a_net_keeps_of_its_parameters_is_not_kept():
    source = loader.without_caches(Biased().eval().requires_grad_(False))
    source(testing.batch())
    template = GraphTemplate(source, SHAPE)
    assert template.patchable
    with torch.no_grad():
        before = source(testing.batch())
        source.bias.add_(2.0)
        assert torch.allclose(source(testing.batch()), before + 2.0)
    assert equals(template, source)
    assert equals(template, adapted(source, lambda m: Cotta(m, views=2)))


class FiveAxes(nn.Module):
    """Attention within windows, as Hiera has it: [B, heads, windows, tokens, channels]."""

    def __init__(self, *, plain: bool = True) -> None:
        super().__init__()
        self.norm, self.keys, self.head = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 4)
        if plain:
            self.fused_attn = True

    def forward(self, x):
        x = self.norm(x.flatten(1).unflatten(1, (8, 8)))
        q, k, v = self.keys(x).reshape(-1, 2, 4, 3, 2, 4).permute(3, 0, 4, 1, 2, 5)
        if getattr(self, "fused_attn", True):
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        return self.head(y.permute(0, 2, 3, 1, 4).flatten(3).mean((1, 2)))


def test_attention_that_the_exporter_does_not_know_is_written_out():
    torch.manual_seed(0)
    source = FiveAxes().eval()
    template = GraphTemplate(source, SHAPE)
    assert template.patchable and equals(template, adapted(source))
    assert source.fused_attn, "the source stays as it is"
    with pytest.raises(GraphError, match="the model cannot be exported to ONNX"):
        GraphTemplate(FiveAxes(plain=False).eval(), SHAPE)
