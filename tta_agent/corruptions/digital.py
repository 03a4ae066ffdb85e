"""Digital corruptions: low contrast, elastic distortion, pixelation, JPEG."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor
from torch.nn import functional as F

from tta_agent.core.types import Array
from tta_agent.corruptions import filters
from tta_agent.corruptions.tables import Params


def contrast(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """Lower contrast: every channel of an image is drawn to its mean."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * params[0] + mean


def elastic_transform(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """Elastic distortion: a random affine map, and a smooth random displacement of every pixel."""
    strength, smoothness, corner = params
    count, size = len(x), x.shape[-1]
    move = _affine(count, size, corner * size, generator)
    rows, columns = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    at = torch.stack([columns, rows]).expand(count, 2, size, size)
    if strength > 0:
        shift = filters.uniform((count, 2, size, size), -1, 1, generator)
        at = at + strength * size * filters.gaussian_blur(shift, max(smoothness * size, 0.1), reach=3)
    source = torch.einsum("bij,bjhw->bhwi", move[:, :, :2], at) + move[:, None, None, :, 2]
    return F.grid_sample(x, (2 * source + 1) / size - 1, align_corners=False, padding_mode="reflection")


def _affine(count: int, size: int, reach: float, generator: Generator) -> Tensor:
    """Maps [B, 2, 3] from output to input pixels: three points of the image, each moved by up to `reach`."""
    middle, third = size // 2, size // 3
    high, low = float(middle + third), float(middle - third)
    points = torch.tensor([[high, high], [high, low], [low, low]]).expand(count, 3, 2)
    moved = points + filters.uniform((count, 3, 2), -reach, reach, generator)
    back: Tensor = torch.linalg.solve(torch.cat([moved, torch.ones(count, 3, 1)], 2), points)
    return back.transpose(1, 2)


def pixelate(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """Fewer, larger pixels: down by a box filter, up by the nearest pixel."""
    size = x.shape[-1]
    small = max(1, int(size * params[0]))
    box = _box(size, small)
    return F.interpolate(box @ x @ box.T, size=(size, size), mode="nearest-exact")


def _box(size: int, small: int) -> Tensor:
    """Weights [small, size]: how much of each old pixel lies in each new one."""
    start = torch.arange(small)[:, None] * size / small
    at = torch.arange(size)[None, :]
    overlap = torch.minimum(start + size / small, at + 1.0) - torch.maximum(start, at + 0.0)
    return overlap.clamp(min=0) * small / size


def jpeg_compression(x: Tensor, params: Params, generator: Generator) -> Tensor:
    """JPEG coding and decoding; images that are neither grey nor RGB are coded channel by channel."""
    count, channels, height, width = x.shape
    planes = x if channels == 3 else x.reshape(-1, 1, height, width)
    pixels = (planes * 255).round().to(torch.uint8).permute(0, 2, 3, 1).squeeze(-1).numpy()
    coded = torch.from_numpy(np.stack([_jpeg(image, int(params[0])) for image in pixels]))
    coded = coded.permute(0, 3, 1, 2) if channels == 3 else coded
    return coded.reshape(count, channels, height, width).to(x.dtype) / 255


def _jpeg(image: Array, quality: int) -> Array:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as decoded:
        return np.array(decoded)
