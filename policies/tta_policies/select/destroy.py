"""Three ways to destroy the object in an image and keep what else may give its class away: colour, texture, scene.

Lee et al., "Entropy is not Enough for Test-Time Adaptation: From the Perspective of Disentangled Factors" (DeYO),
ICLR 2024, arXiv 2403.07366.

    patch      a grid of n x n tiles (n a side), permuted for each image by itself
    pixel      all pixel positions permuted, in the same way for the whole batch
    occlusion  a square in the middle, filled with the image's own mean of each channel

Deviations: the paper's square is 112 pixels at row and column 56, which is the middle half of a side of 224; here
it is that share of any image. An image with fewer than n pixels a side has as many tiles as pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from tta_agent.core.errors import ConfigError, nearest


def shuffle_patches(x: Tensor, patches: int, generator: torch.Generator) -> Tensor:
    """[B, channels, H, W] -> the same shape, `patches` x `patches` tiles of each image in an order of its own.

    A side that is not divisible is resized down to the largest multiple and back (bilinear).
    """
    b, channels, height, width = x.shape
    n = min(patches, height, width)
    h, w = height // n, width // n
    fits = (n * h, n * w) == (height, width)
    x = x if fits else F.interpolate(x, (n * h, n * w), mode="bilinear", antialias=True)
    tiles = x.reshape(b, channels, n, h, n, w).permute(0, 2, 4, 1, 3, 5).reshape(b, n * n, channels, h, w)
    order = torch.rand(b, n * n, generator=generator).argsort(dim=1).to(x.device)
    tiles = tiles[torch.arange(b, device=x.device)[:, None], order]
    y = tiles.view(b, n, n, channels, h, w).permute(0, 3, 1, 4, 2, 5).reshape(b, channels, n * h, n * w)
    return y if fits else F.interpolate(y, (height, width), mode="bilinear", antialias=True)


def shuffle_pixels(x: Tensor, generator: torch.Generator) -> Tensor:
    """[B, channels, H, W] -> the same shape, one permutation of the H W positions for all images."""
    order = torch.randperm(x.shape[2] * x.shape[3], generator=generator).to(x.device)
    return x.flatten(2)[..., order].reshape(x.shape)


def occlude(x: Tensor, share: float) -> Tensor:
    """[B, channels, H, W] -> the same shape, the middle `share` of each side filled with the channel's mean."""
    top, left = (round(side * (1 - share) / 2) for side in x.shape[2:])
    bottom, right = top + round(x.shape[2] * share), left + round(x.shape[3] * share)
    y = x.clone()
    y[:, :, top:bottom, left:right] = x.mean(dim=(2, 3), keepdim=True)
    return y


class Destroyer:
    """One of the transforms, with random numbers of its own: `tta_agent.core.protocols.Stateful`.

    Args:
        transform: patch, pixel or occlusion.
        patches: tiles a side (not pixels), >= 2.
        occlusion: side of the square as a share of the image's, in (0, 1].
        seed: of the permutations.
    """

    needs_images: ClassVar = True

    def __init__(
        self, transform: str = "patch", patches: int = 4, occlusion: float = 0.5, seed: int = 0
    ) -> None:
        if transform not in TRANSFORMS:
            raise ValueError(f"transform {transform!r} is none; {nearest(transform, TRANSFORMS)}")
        if patches < 2:
            raise ValueError(f"patches {patches} is not a number of tiles a side of at least 2")
        if not 0 < occlusion <= 1:
            raise ValueError(f"occlusion {occlusion} is not a share of the side in (0, 1]")
        self.transform, self.patches, self.occlusion, self.seed = transform, patches, occlusion, seed
        self.generator = torch.Generator().manual_seed(seed)

    def destroyed(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> a destroyed copy; a new draw with every call.

        Raises:
            ConfigError: not images.
        """
        if x.dim() != 4:
            raise ConfigError(
                f"the transform {self.transform!r} takes images [batch, channels, height, width], "
                f"got samples of shape {list(x.shape[1:])}; use TTA_SELECT__SELECTORS='[\"entropy\"]'"
            )
        return TRANSFORMS[self.transform](x, self)

    def reset(self) -> None:
        """The first draw comes next again."""
        self.generator.manual_seed(self.seed)

    def state_dict(self) -> dict[str, Any]:
        """Where the random numbers stand."""
        return {"random": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.generator.set_state(state["random"].cpu())


TRANSFORMS: Mapping[str, Callable[[Tensor, Destroyer], Tensor]] = {
    "patch": lambda x, how: shuffle_patches(x, how.patches, how.generator),
    "pixel": lambda x, how: shuffle_pixels(x, how.generator),
    "occlusion": lambda x, how: occlude(x, how.occlusion),
}
