"""The demo's model: a small residual net with BatchNorm for 28x28 grey images (about 175,000 parameters).

References:
    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# mean and standard deviation of the pixels of Fashion-MNIST's training images, in [0, 1]
PIXEL_MEAN = 0.286
PIXEL_STD = 0.353
WIDTHS = (24, 48, 96)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is projected where the shape changes."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        """Make a block of `inside` to `outside` channels; a stride of 2 halves the image."""
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, outside, H / stride, W / stride] of features [B, inside, H, W]."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class FashionNet(nn.Module):
    """Residual net from images [B, 1, 28, 28] in [0, 1] to logits [B, 10]; it normalises the pixels itself."""

    def __init__(self, classes: int = 10) -> None:
        """Draw fresh weights from torch's global random state."""
        super().__init__()
        narrow, middle, wide = WIDTHS
        # the stem halves the image at once: a quarter of the time per image
        self.conv = nn.Conv2d(1, narrow, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(narrow)
        self.stage1 = Block(narrow, narrow, 1)
        self.stage2 = Block(narrow, middle, 2)
        self.stage3 = Block(middle, wide, 2)
        self.head = nn.Linear(wide, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of images [B, 1, H, W]."""
        y = F.relu(self.bn(self.conv((x - PIXEL_MEAN) / PIXEL_STD)))
        y = self.stage3(self.stage2(self.stage1(y)))
        logits: Tensor = self.head(torch.mean(y, dim=(2, 3)))
        return logits


def fashion_net() -> nn.Module:
    """An untrained FashionNet; the trained weights are `assets/fashion_net.safetensors`."""
    return FashionNet()
