"""TeSLA's policy: a distribution over pairs of operations, and the magnitudes of both.

Tomar, Vray, Bozorgtabar, Thiran, "TeSLA: Test-Time Self-Learning With Automatic Adversarial Augmentation",
CVPR 2023, arXiv 2303.09870. Learned by `tta_adapters.tesla_adversary`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tta_adapters.tesla_operations import LITERAL, OPERATIONS, applied

Rotation = Literal["corrected", "literal"]
PAIRS = tuple(itertools.combinations(range(len(OPERATIONS)), 2))  # 91, applied in the order of the table


@dataclass(frozen=True, slots=True)
class Draw:
    """One pair for each of n images: its number [n], the coins of both operations [n, 2]; on the CPU."""

    pair: Tensor
    sign: Tensor


class Policy(nn.Module):
    """Preferences among the pairs, and their magnitudes; everything starts at 0: uniform, and half-way.

    Args:
        rotation: corrected (-30 .. 30 degrees), or the literal range of the authors' code (-30 .. -30).
    """

    def __init__(self, rotation: Rotation = "corrected") -> None:
        super().__init__()
        self.operations = LITERAL if rotation == "literal" else OPERATIONS
        self.pairs = torch.tensor(PAIRS)
        self.preference = nn.Parameter(torch.zeros(len(PAIRS)))
        self.strength = nn.Parameter(torch.zeros(len(PAIRS), 2))

    def draw(self, n: int, generator: torch.Generator, *, learned: bool) -> Draw:
        """By the learned probabilities, or uniformly."""
        p = self.preference.detach().cpu().softmax(0) if learned else torch.ones(len(PAIRS))
        pair = torch.multinomial(p, n, replacement=True, generator=generator)
        return Draw(pair, 2.0 * torch.randint(0, 2, (n, 2), generator=generator) - 1)

    def magnitudes(self, draw: Draw) -> Tensor:
        """[n, 2] in 0 .. 1, with graph."""
        return self.strength[draw.pair.to(self.strength.device)].sigmoid()

    def log_probability(self, draw: Draw) -> Tensor:
        """ln p of every image's pair, [n], with graph."""
        return self.preference.log_softmax(0)[draw.pair.to(self.preference.device)]

    def forward(self, pixels: Tensor, draw: Draw, magnitudes: Tensor) -> Tensor:
        """[n, channels, H, W] in 0 .. 1 to the same: both operations of every image's pair."""
        for slot in range(2):
            number = self.pairs[draw.pair, slot]
            parts, order = [], []
            for one in sorted(set(number.tolist())):
                index = (number == one).nonzero().flatten()
                here = index.to(pixels.device)
                sign = draw.sign[index, slot].to(pixels.device)
                parts.append(applied(self.operations[one], pixels[here], magnitudes[here, slot], sign))
                order.append(index)
            pixels = torch.cat(parts)[torch.cat(order).argsort().to(pixels.device)]
        return pixels

    @torch.no_grad()
    def forget(self) -> None:
        """Back to the start."""
        self.preference.zero_()
        self.strength.zero_()
