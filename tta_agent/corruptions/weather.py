"""Weather: snow, frost, fog, and too much light."""

import torch
from torch import Generator, Tensor

from tta_agent.corruptions import filters
from tta_agent.corruptions.tables import Params

SHEETS = 8  # sheets of ice in a batch
CRYSTALS = 48  # cells of the ice on one sheet
LUMA = (0.299, 0.587, 0.114)


def snow(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """Snow: streaks of flakes over a paler image."""
    mean, deviation, factor, threshold, radius, sigma, share = params
    noise = torch.randn((len(x), 1, *x.shape[2:]), generator=generator)
    flakes = filters.zoom(mean + deviation * noise, factor)
    flakes = torch.where(flakes < threshold, 0.0, flakes).clamp(0, 1)
    flakes = filters.motion_blur(flakes, radius, sigma, (-135, -45), generator)
    pale = torch.maximum(x, 1.5 * _grey(x) + 0.5)
    return share * x + (1 - share) * pale + flakes + flakes.rot90(2, (2, 3))


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    return (x * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def frost(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """Frost on the lens: a crop of a sheet of crystals laid over the image."""
    size = x.shape[-1]
    sheets = ice(4 * size, generator)
    which = torch.randint(0, SHEETS, (len(x), 1, 1), generator=generator)
    top, left = torch.randint(0, 3 * size + 1, (2, len(x), 1), generator=generator)
    rows, columns = top + torch.arange(size), left + torch.arange(size)
    crops = sheets[which, rows[:, :, None], columns[:, None, :]]
    return params[0] * x + params[1] * crops[:, None]


def ice(size: int, generator: Generator) -> Tensor:
    """Sheets of ice [SHEETS, size, size] in [0, 1], as bright and as rough as photographs of frozen windows.

    Clouds give the thickness, the borders of a cellular pattern the rims of the crystals, and the creases of
    finer clouds the needles that grow from them.
    """
    thickness = filters.plasma(SHEETS, size, 2.5, generator)[:, 0]
    creases = filters.plasma(SHEETS, size, 1.7, generator)[:, 0]
    needles = (1 - (2 * creases - 1).abs()) ** 4
    texture = 0.5 * thickness + 0.25 * _rims(size, generator) + 0.25 * needles
    centred = texture - texture.mean((1, 2), keepdim=True)
    brightness = filters.uniform((SHEETS, 1, 1), 0.45, 0.8, generator)
    return (brightness + 0.12 * centred / centred.std((1, 2), keepdim=True)).clamp(0, 1)


def _rims(size: int, generator: Generator) -> Tensor:
    """One on the border of two crystals, falling to zero inside them."""
    centres = torch.rand((SHEETS, CRYSTALS, 2), generator=generator) * size
    rows, columns = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    pixels = torch.stack([rows, columns], -1).view(1, -1, 2).expand(SHEETS, -1, -1)
    # not by the faster matrix product, whose last bits differ from one machine to another
    distance = torch.cdist(pixels, centres, compute_mode="donot_use_mm_for_euclid_dist")
    near = distance.topk(2, dim=2, largest=False).values
    return torch.exp(-(near[:, :, 1] - near[:, :, 0]) / (0.02 * size)).view(SHEETS, size, size)


def fog(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """Fog: clouds added to the image, which keeps its brightest value."""
    density, decay = params
    brightest = x.amax((1, 2, 3), keepdim=True)
    clouds = filters.plasma(len(x), x.shape[-1], decay, generator)
    return (x + density * clouds) * brightest / (brightest + density)


def brightness(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """Brightness: a higher value at the same hue and saturation (the V of HSV)."""
    value = x.amax(1, keepdim=True)
    raised = (value + params[0]).clamp(max=1)
    return torch.where(value > 0, x / value.clamp(min=1e-6) * raised, raised)
