"""Three small classifiers, one for each kind of normalisation: BatchNorm, GroupNorm and LayerNorm.

All take images in [0, 1] and standardise the pixels themselves, so that whatever corrupts or augments images
meets plain pixels. Each factory can be TTA_MODEL__FACTORY. The last module (`linear` or `head`) takes the
penultimate features. The trained weights of the two for Fashion-MNIST are in `benchmarks/weights`.

References:
    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.
    Wu and He, "Group Normalization", ECCV 2018, arXiv:1803.08494.
    Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tta_agent.samples.nets import PIXEL_MEAN, PIXEL_STD

Three = tuple[int, int, int]
Norm = Callable[[int], nn.Module]  # channels to a layer
Data = tuple[Three, tuple[float, ...], tuple[float, ...]]

CLASSES = 10
# Shape of an image; mean and deviation of each channel. CIFAR's are those that the public weights expect.
CIFAR: Data = ((3, 32, 32), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
FASHION: Data = ((1, 28, 28), (PIXEL_MEAN,), (PIXEL_STD,))


class PixelStandardiser(nn.Module):
    """Layer that brings images [B, C, H, W] in [0, 1] to pixels of mean 0 and deviation 1."""

    pixels: Tensor

    def __init__(self, data: Data) -> None:
        super().__init__()
        # Not persistent: a weights file holds what was learnt, and the public one has no such tensors.
        self.register_buffer("pixels", torch.tensor(data[1:])[..., None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise; the shape stays."""
        return (x - self.pixels[0]) / self.pixels[1]


class Basic(nn.Module):
    """Residual block: two 3x3 convolutions and a shortcut without parameters, option A of He et al.

    `bn1` and `bn2` are the layers that `norm` makes: weights files of such nets have these names.
    """

    def __init__(self, inside: int, outside: int, norm: Norm) -> None:
        super().__init__()
        self.zeros = (outside - inside) // 2  # channels that the shortcut adds on either side
        self.conv1 = nn.Conv2d(inside, outside, 3, 2 if self.zeros else 1, padding=1, bias=False)
        self.bn1 = norm(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = norm(outside)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, inside, H, W] to [B, outside, H', W'], half the size where the channels change."""
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.zeros:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.zeros, self.zeros))
        return F.relu(y + x)


class ResNet(nn.Module):
    """Residual network of three stages with `blocks` basic blocks each; a `stride` of 2 halves the image first."""

    def __init__(self, data: Data, widths: Three, blocks: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.input_shape = data[0]
        self.standard = PixelStandardiser(data)
        self.conv1 = nn.Conv2d(self.input_shape[0], widths[0], 3, stride, padding=1, bias=False)
        self.bn1 = norm(widths[0])
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Basic(before, width, norm), *(Basic(width, width, norm) for _ in range(blocks - 1)))
            for before, width in pairwise((widths[0], *widths))
        )
        self.linear = nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, C, H, W] in [0, 1] to logits [B, 10]."""
        y = F.relu(self.bn1(self.conv1(self.standard(x))))
        y = self.layer3(self.layer2(self.layer1(y)))
        return self.linear(torch.mean(y, dim=(2, 3)))  # type: ignore[no-any-return]


class NextBlock(nn.Module):
    """ConvNeXt block on [B, H, W, D]; half as wide inside and without layer scale, because the net is small."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, H, W, D] to the same shape."""
        y = F.gelu(self.wide(self.norm(convolve(self.depthwise, x))))
        return x + self.narrow(y)  # type: ignore[no-any-return]


class NextNet(nn.Module):
    """ConvNeXt for grey images; its stem takes patches of 2x2, not 4x4, because the images are small."""

    def __init__(self, widths: Three, depths: Three) -> None:
        super().__init__()
        self.input_shape = FASHION[0]
        self.standard = PixelStandardiser(FASHION)
        self.stem = nn.Conv2d(1, widths[0], 2, stride=2)
        self.stem_norm = nn.LayerNorm(widths[0])
        self.stages = nn.ModuleList(
            nn.Sequential(*(NextBlock(n) for _ in range(depth)))
            for n, depth in zip(widths, depths, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.halves = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.head = nn.Linear(widths[-1], CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [B, 1, H, W] in [0, 1] to logits [B, 10]."""
        y = self.stem(self.standard(x)).permute(0, 2, 3, 1)
        y = self.stages[0](self.stem_norm(y))
        for norm, half, stage in zip(self.norms[:-1], self.halves, self.stages[1:], strict=True):
            y = stage(convolve(half, norm(y)))
        return self.head(self.norms[-1](torch.mean(y, dim=(1, 2))))  # type: ignore[no-any-return]


def convolve(layer: nn.Module, x: Tensor) -> Tensor:
    """Convolve [B, H, W, D], where the channels stand last, as nn.LayerNorm wants them."""
    return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


def resnet20() -> nn.Module:
    """ResNet-20 of He et al. for CIFAR-10 with BatchNorm; 270,000 parameters, images [B, 3, 32, 32]."""
    return ResNet(CIFAR, (16, 32, 64), blocks=3, stride=1, norm=nn.BatchNorm2d)


def fashion_gn() -> nn.Module:
    """ResNet with GroupNorm, 8 channels a group, for Fashion-MNIST; 168,000 parameters, [B, 1, 28, 28]."""
    return ResNet(FASHION, (24, 48, 96), blocks=1, stride=2, norm=lambda n: nn.GroupNorm(n // 8, n))


def fashion_ln() -> nn.Module:
    """ConvNeXt with LayerNorm for Fashion-MNIST; 161,000 parameters, images [B, 1, 28, 28]."""
    return NextNet((32, 64, 128), (1, 2, 1))
