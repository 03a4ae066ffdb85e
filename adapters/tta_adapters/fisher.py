"""Which parameters the source's answers depend on: the diagonal of the Fisher information.

As EATA estimates it (Niu et al., ICML 2022, arXiv 2204.02610, after Kirkpatrick et al., PNAS 2017, arXiv 1612.00796):
over batches b of 64 source samples under the statistics of the batch, with the model's own answers y = argmax p as
labels,

    F_i = mean_b (d/d theta_i  mean_{x in b} -ln p(y | x))^2
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tta_adapters.cached import cached, digest
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.task import decide
from tta_agent.scoring.sample_scores import all_finite

BATCH = 64


def information(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], inputs: Tensor, folder: Path | None = None
) -> dict[str, Tensor]:
    """F of each parameter, >= 0; high = the answers depend on it.

    Args:
        model: gives logits of a batch.
        parameters: of the model, by name; those that need a gradient.
        inputs: source samples [N, ...].
        folder: where the result is kept under the hash of model and inputs, or None.
    """
    key = "" if folder is None else digest(model.state_dict(), list(parameters), inputs)
    found = cached(folder, "fisher", key, lambda: estimate(model, parameters, inputs))
    return {name: found[name].to(parameter.device) for name, parameter in parameters.items()}


def estimate(model: nn.Module, parameters: Mapping[str, nn.Parameter], inputs: Tensor) -> dict[str, Tensor]:
    """The same, computed.

    Raises:
        CannotAdapt: it is not finite.
    """
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    batches = torch.split(inputs, BATCH)
    device = next(iter(parameters.values())).device
    for x in batches:
        with torch.enable_grad():
            logits = model(x.to(device))
            loss = F.cross_entropy(logits, decide(logits))
            gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            total[name] += gradient**2
    if not all_finite(*total.values()):
        raise CannotAdapt(
            "the Fisher information on TTA_MODEL__SOURCE_DATA is not finite; look for inputs far outside"
        )
    return {name: value.detach() / len(batches) for name, value in total.items()}
