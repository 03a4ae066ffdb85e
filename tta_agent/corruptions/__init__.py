"""The 15 common corruptions of batches of images [B, C, S, S], float in [0, 1].

The same seed and the same batch give the same pixels; torch's global random state is neither read nor moved.

References:
    Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations", ICLR 2019, arXiv:1903.12261. Frost is procedural here, where the paper has
    photographs.
"""

import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from tta_agent.core.errors import ConfigError, nearest
from tta_agent.corruptions import blur, digital, noise, weather
from tta_agent.corruptions.tables import CONSTANTS, Params

Family = Callable[[Tensor, Params, Generator], Tensor]

FAMILIES: dict[str, Family] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
NAMES = tuple(FAMILIES)


def corrupt(x: Tensor, name: str, severity: int = 5, seed: int = 0, constants: str = "cifar") -> Tensor:
    """Corrupt a batch by one family.

    Args:
        x: images [B, C, S, S] in [0, 1].
        name: one of NAMES.
        severity: 1 to 5.
        seed: of this family's random numbers, which all severities share.
        constants: `cifar` or `imagenet` (see tables.py).

    Raises:
        ConfigError: an unknown name, severity or table, or images that are not square.
    """
    params = _params(name, severity, constants)
    if x.ndim != 4 or x.shape[2] != x.shape[3]:
        raise ConfigError(f"corruptions take square images [B, C, S, S], not {list(x.shape)}")
    # seeded by the name and not by its place in the list: a new family does not change the old ones
    generator = Generator().manual_seed(zlib.crc32(f"{name} {seed}".encode()))
    with torch.no_grad():
        if not len(x):
            return x.clone()
        return (FAMILIES[name](x, params, generator).clamp(0, 1) * 255).round() / 255


def mixture(
    x: Tensor, names: Sequence[str], severity: int = 5, seed: int = 0, constants: str = "cifar"
) -> tuple[Tensor, Tensor]:
    """Corrupt each image by a random family of `names`.

    Returns:
        The images [B, C, S, S], and for each the index [B] into `names`.

    Raises:
        ConfigError: as `corrupt`, or no name is given.
    """
    if not names:
        raise ConfigError(f"a mixture needs at least one corruption; {nearest('', NAMES)}")
    for name in names:
        _params(name, severity, constants)
    generator = Generator().manual_seed(seed)
    which = torch.randint(0, len(names), (len(x),), generator=generator)
    out = x.clone()
    for index, name in enumerate(names):
        those = which == index
        out[those] = corrupt(x[those], name, severity, seed, constants)
    return out, which


def _params(name: str, severity: int, constants: str) -> Params:
    if name not in FAMILIES:
        raise ConfigError(f"no corruption {name!r}; {nearest(name, NAMES)}")
    if constants not in CONSTANTS:
        raise ConfigError(f"no table of constants {constants!r}; {nearest(constants, CONSTANTS)}")
    if severity not in range(1, 6):
        raise ConfigError(f"severity {severity} is not one of 1, 2, 3, 4, 5")
    return CONSTANTS[constants][name][severity - 1]
