"""The contrastive loss of RMT, and the projection that it is taken in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Module):
    """Linear F -> `size`, ReLU, Linear `size` -> `size`; features [..., F] -> unit vectors [..., size].

    Begins at random, as nn.Linear does: uniform within 1 / sqrt(inputs).
    """

    def __init__(self, features: int, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(features, size), nn.Linear(size, size)
        for layer in (self.hidden, self.out):
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -(layer.in_features**-0.5), layer.in_features**-0.5, generator)

    def forward(self, features: Tensor) -> Tensor:
        """[..., F] -> [..., size], of length 1."""
        return F.normalize(self.out(self.hidden(features).relu()), dim=-1)


def contrastive(views: Tensor, temperature: float) -> Tensor:
    """One number, >= 0 up to ln(V N - 1) and more, low = the views of a sample lie together, apart from all others.

    With unit vectors z_a of V views of N samples, a = 1 .. V N, and P(a) the other views of the same sample:

        loss = -1/(V N) sum_a 1/(V - 1) sum_{p in P(a)} ln( exp(z_a z_p / tau) / sum_{i != a} exp(z_a z_i / tau) )

    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv 2004.11362, equation 2, with each sample
    a class of its own. Finite at N = 1, where it is at least ln(V - 1).

    Args:
        views: [V, N, D], V >= 2.
        temperature: tau, > 0.
    """
    v, n, _ = views.shape
    z = views.flatten(0, 1)
    alike = z @ z.T / temperature
    itself = torch.eye(v * n, dtype=torch.bool, device=z.device)
    others = alike.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    sample = torch.arange(n, device=z.device).repeat(v)
    positive = (sample.unsqueeze(0) == sample.unsqueeze(1)) & ~itself
    return -torch.where(positive, alike - others, torch.zeros_like(alike)).sum(1).mean() / (v - 1)
