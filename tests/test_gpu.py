"""The copy on a CUDA device learns as it does on the CPU, whatever the method."""

from typing import get_args

import numpy as np
import pytest
import torch

from tta_agent import testing
from tta_agent.adaptation.step import Adaptation
from tta_agent.core import plugins
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.types import Selection
from tta_agent.models import loader
from tta_agent.models.device import Accelerator
from tta_agent.telemetry.facade import Telemetry

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="gpu: no CUDA device is visible"),
]
CUDA = torch.device("cuda")


def test_auto_takes_the_device():
    assert loader.pick_device("auto").type == "cuda"


@pytest.mark.parametrize("kind", get_args(testing.Kind))
@pytest.mark.parametrize("name", plugins.available("adapters"))
def test_equal_to_the_cpu_within_tolerance(name, kind):
    served = {}
    for device in ("cpu", "cuda"):
        try:
            adapter = plugins.load("adapters", name)(testing.tiny_net(kind).to(device))
        except CannotAdapt as reason:
            pytest.skip(str(reason))
        for seed in range(3):
            x = testing.batch(seed=seed).to(device)
            index, weight = torch.arange(len(x), device=device), torch.ones(len(x), device=device)
            adapter.step(x, adapter.forward(x), Selection(index, weight))
        again = plugins.load("adapters", name)(testing.tiny_net(kind).to(device))
        again.load_state_dict(adapter.state_dict())
        served[device] = again.servable().cpu()(testing.batch(seed=9))
    assert torch.allclose(served["cpu"], served["cuda"], atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", plugins.available("adapters"))
def test_a_round_on_the_device_with_a_batch_that_was_announced(name, precision):
    model = testing.tiny_net("batch").to(CUDA)
    adapter = plugins.load("adapters", name)(model)
    own = getattr(adapter, "selectors", {})
    selectors = [plugins.make("selectors", key, own) for key in own]
    accelerator = Accelerator(CUDA, precision)
    teacher = Adaptation(adapter, model, selectors, accelerator, Telemetry.off())
    first, second = testing.batch(32, seed=1).numpy(), testing.batch(32, seed=2).numpy()
    accelerator.expect(second)
    teacher.round(first)
    done = teacher.round(second)
    assert done.logits.shape == (32, testing.CLASSES)
    assert np.isfinite(done.logits).all()
