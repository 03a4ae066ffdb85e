"""TeSLA's adversary: learns what makes the teacher unsure without moving its features far.

Tomar, Vray, Bozorgtabar, Thiran, "TeSLA: Test-Time Self-Learning With Automatic Adversarial Augmentation",
CVPR 2023, arXiv 2303.09870. With a pair of operations o and magnitudes m for every image x, it goes down

    l_i = -H(teacher(o(x_i; m))) + drift_i,   drift_i = mean over layers, channels of (mean_i - mean_i^before)^2

where mean_i are the channel means of what enters the teacher's normalisation layers, and `before` those of the
unchanged image. Magnitudes follow mean_i l_i through the operations; the pairs' probabilities p the score function
mean_i l_i ln p(o_i), for pairs drawn uniformly, with the drift weighted. Both by Adam, 0.1.

Deviation: the channel means of a LayerNorm are those over its tokens; the original averages the channels too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tta_adapters.learner import weighted_mean
from tta_adapters.pixels import Pixels
from tta_adapters.tesla_policy import Draw, Policy
from tta_agent.core.types import Selection
from tta_agent.models.batchnorm import AFFINE_NORMS, AdaptiveBatchNorm, unseen
from tta_agent.scoring.sample_scores import all_finite, entropy

STEP = 0.1  # Adam's


class Adversary:
    """Makes images hard.

    Args:
        policy: on the device of the teacher.
        pixels: how inputs were made of pixels.
        drift: its weight in the score function.
    """

    def __init__(self, policy: Policy, pixels: Pixels, drift: float) -> None:
        self.policy, self._pixels, self._drift = policy, pixels, drift
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=STEP)

    def learn(
        self,
        teacher: nn.Module,
        x: Tensor,
        before: Sequence[Tensor],
        selection: Selection,
        generator: torch.Generator,
    ) -> None:
        """One step against the teacher, whose layers remember nothing of it. Not finite: no step.

        Args:
            x: images [B, channels, H, W] as the model takes them.
            before: their `channel_means` in this teacher.
            selection: whose losses count.
        """
        draw = self.policy.draw(len(x), generator, learned=False)
        layers = [module for module in teacher.modules() if isinstance(module, AdaptiveBatchNorm)]
        with torch.enable_grad(), unseen(layers), channel_means(teacher) as now:
            logits = teacher(self._changed(x, draw, self.policy.magnitudes(draw))).float()
            unsure, drift = entropy(logits), drifted(now, before, logits)
            score = self.policy.log_probability(draw) * (self._drift * drift - unsure).detach()
            loss = weighted_mean(drift - unsure + score, selection)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        # of squares too, which the optimiser averages
        if all_finite(*(p.grad.square() for p in self.policy.parameters() if p.grad is not None)):
            self.optimizer.step()

    @torch.no_grad()
    def hard(self, x: Tensor, generator: torch.Generator, *, learned: bool = True) -> Tensor:
        """[B, channels, H, W] -> the same: by the learned policy, or by uniform pairs and magnitudes."""
        draw = self.policy.draw(len(x), generator, learned=learned)
        if learned:
            return self._changed(x, draw, self.policy.magnitudes(draw))
        return self._changed(x, draw, torch.rand(len(x), 2, generator=generator).to(x.device))

    def _changed(self, x: Tensor, draw: Draw, magnitudes: Tensor) -> Tensor:
        mean, std = self._pixels.scale(x)
        with torch.autocast(x.device.type, enabled=False):
            pixels: Tensor = self.policy((x.float() * std + mean).clamp(0, 1), draw, magnitudes)
            return ((pixels - mean) / std).to(x.dtype)


def drifted(now: Sequence[Tensor], before: Sequence[Tensor], logits: Tensor) -> Tensor:
    """How far the channel means [n, channels] of the layers have moved, [n], >= 0; 0 without layers."""
    moved = [((a - b) ** 2).mean(1) for a, b in zip(now, before, strict=True)]
    return torch.stack(moved).mean(0) if moved else logits.new_zeros(len(logits))


@contextmanager
def channel_means(model: nn.Module) -> Iterator[list[Tensor]]:
    """Fills the list, in one forward, with what enters every normalisation layer: its channel means [n, channels]."""
    means: list[Tensor] = []
    layers = [m for m in model.modules() if isinstance(m, (AdaptiveBatchNorm, *AFFINE_NORMS))]
    hooks = [
        m.register_forward_pre_hook(lambda m, inputs: means.append(_means(m, inputs[0]))) for m in layers
    ]
    try:
        yield means
    finally:
        for hook in hooks:
            hook.remove()


def _means(layer: nn.Module, x: Tensor) -> Tensor:
    """Over places; LayerNorm and RMSNorm have their channels last."""
    last = isinstance(layer, nn.LayerNorm | nn.RMSNorm)
    places = list(range(1, x.dim() - 1) if last else range(2, x.dim()))
    return (x.mean(places) if places else x).float()
