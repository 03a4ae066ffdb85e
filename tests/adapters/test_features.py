"""The feature split, on timm models and others, and class means."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tta_adapters.features import Split, class_means
from tta_agent.core.errors import CannotAdapt
from tta_agent.testing import batch, tiny_net


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout"]
)
def test_features_are_what_timm_calls_pre_logits(name):
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, num_classes=7, **({"img_size": 32} if "vit" in name else {})).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features, logits = Split(model)(model, x)
        expected = model.forward_head(model.forward_features(x), pre_logits=True)
        assert torch.allclose(features, expected.flatten(1), atol=1e-5)
        assert torch.equal(logits, model(x))


def test_features_are_what_enters_the_last_linear_layer():
    model, x = tiny_net("batch"), batch(5)
    features, logits = Split(model)(model, x)
    assert torch.allclose(features, model[:-1](x))
    assert torch.allclose(model[-1](features), logits)


def test_one_split_serves_every_copy_and_leaves_no_trace():
    model = tiny_net("batch")
    split, other = Split(model), copy.deepcopy(model)
    other[-1].weight.data.zero_()
    before = list(other.state_dict())
    assert torch.equal(split(other, batch(2))[1], other[-1].bias.expand(2, -1))
    assert list(other.state_dict()) == before
    assert not other[-1]._forward_pre_hooks
    copy.deepcopy(other)


def test_features_of_places_are_averaged():
    model = nn.Sequential(nn.Flatten(2), nn.Linear(64, 3))  # classifies each of two channels
    features, _ = Split(model)(model, torch.arange(256.0).view(2, 2, 8, 8))
    assert torch.equal(features, torch.arange(256.0).view(2, 2, 64).mean(1))


def test_a_model_without_linear_classifier_is_refused():
    with pytest.raises(CannotAdapt, match=r"nn\.Linear"):
        Split(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()))


class ReadsItsWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return x @ self.head.weight.T


def test_a_linear_layer_that_is_not_called_is_no_classifier():
    model = ReadsItsWeight()
    with pytest.raises(CannotAdapt, match=r"'head'.* takes no part"):
        Split(model)(model, torch.zeros(1, 4))


def test_class_means_leave_out_classes_without_a_sample():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(20, 5)).astype(np.float32), rng.choice([0, 1, 3], 20)
    expected = np.stack([features[labels == c].mean(0) for c in (0, 1, 3)])
    means = class_means(torch.from_numpy(features), torch.from_numpy(labels), 4)
    assert np.allclose(means, expected, atol=1e-6)


def test_a_label_beyond_the_classes_is_named():
    with pytest.raises(ValueError, match=r"0 \.\. 4 are not all in 0 \.\. 3"):
        class_means(torch.zeros(2, 3), torch.tensor([0, 4]), 4)
