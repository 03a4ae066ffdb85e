"""The copy on a CUDA device learns as it does on the CPU."""

import pytest
import torch

from tta_adapters.norm import Norm
from tta_adapters.tent import Tent
from tta_agent import models, testing
from tta_agent.types import Selection

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="gpu: no CUDA device is visible"),
]


def test_auto_takes_the_device():
    assert models.pick_device("auto").type == "cuda"


@pytest.mark.parametrize("make", [Norm, Tent])
def test_equal_to_the_cpu_within_tolerance(make):
    served = {}
    for device in ("cpu", "cuda"):
        adapter = make(testing.tiny_net("batch").to(device))
        for seed in range(3):
            x = testing.batch(seed=seed).to(device)
            index, weight = torch.arange(len(x), device=device), torch.ones(len(x), device=device)
            adapter.step(x, adapter.forward(x), Selection(index, weight))
        again = make(testing.tiny_net("batch").to(device))
        again.load_state_dict(adapter.state_dict())
        served[device] = again.servable().cpu()(testing.batch(seed=9))
    assert torch.allclose(served["cpu"], served["cuda"], atol=1e-4)
