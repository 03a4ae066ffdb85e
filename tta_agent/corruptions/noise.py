"""Noise: gaussian, shot (photons) and impulse (salt and pepper)."""

import torch
from torch import Generator, Tensor

from tta_agent.corruptions.tables import Params


def gaussian_noise(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """Gaussian noise of a sensor in low light."""
    return x + params[0] * torch.randn(x.shape, generator=generator)


def shot_noise(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """Poisson noise of few photons."""
    return torch.poisson(x * params[0], generator=generator) / params[0]


def impulse_noise(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """Salt and pepper noise: pixels that are lost, black or white."""
    lost = torch.rand(x.shape, generator=generator) < params[0]
    white = torch.rand(x.shape, generator=generator) < 0.5
    return torch.where(lost, white.to(x.dtype), x)
