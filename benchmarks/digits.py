"""A real change of domain out of packages: digits written by hand (scikit-learn) and printed (matplotlib's fonts).

A net trained on the one meets the other. Images are [N, 1, 28, 28] in 0 .. 1, ink is 1.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from tta_agent.samples.nets import fashion_net

SIDE = 28
FAMILIES = ("DejaVu*", "STIXGeneral*", "cmr10*", "cmss10*", "cmtt10*")


@functools.cache
def written():
    """All 1,797 handwritten digits, upsampled from 8 x 8: images and labels."""
    found = load_digits()
    x = torch.from_numpy(found.images).float().unsqueeze(1) / 16
    x = F.interpolate(x, (20, 20), mode="bicubic", align_corners=False).clamp(0, 1)
    return F.pad(x, (4, 4, 4, 4)), torch.from_numpy(found.target)


@functools.cache
def printed(count=5000, seed=0):
    """Digits of matplotlib's fonts at random sizes, angles and places: images and labels."""
    random = np.random.default_rng(seed)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = sorted(path for family in FAMILIES for path in folder.glob(f"{family}.ttf"))
    labels = random.integers(10, size=count)
    images = [_printed(str(label), fonts[random.integers(len(fonts))], random) for label in labels]
    return torch.from_numpy(np.stack(images)).unsqueeze(1), torch.from_numpy(labels)


def _printed(text, font, random):
    page = Image.new("L", (2 * SIDE, 2 * SIDE))
    draw = ImageDraw.Draw(page)
    face = ImageFont.truetype(str(font), int(random.uniform(30, 44)))
    place = SIDE + random.uniform(-4, 4, 2)
    draw.text(tuple(place), text, fill=255, font=face, anchor="mm")
    page = page.rotate(random.uniform(-12, 12), Image.Resampling.BILINEAR)
    return np.asarray(page.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) / 255


@functools.cache
def net(domain, epochs=6):
    """A FashionNet trained on one of the domains, `written` or `printed`, inference mode; kept in a file."""
    kept = Path(tempfile.gettempdir()) / f"tta-digits-{domain}-{epochs}.pt"
    model = fashion_net()
    if not kept.is_file():
        torch.save(_trained(domain, epochs).state_dict(), kept)
    model.load_state_dict(torch.load(kept, weights_only=True))
    return model.eval()


def _trained(domain, epochs):
    torch.manual_seed(0)
    (x, y), model = {"written": written, "printed": printed}[domain](), fashion_net().train()
    x, y = x[:4000], y[:4000]
    steps = epochs * (len(x) // 64)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, steps)
    for _ in range(steps):
        index = torch.randint(len(x), (64,))
        shift = torch.randint(-2, 3, (2,)).tolist()
        loss = nn.functional.cross_entropy(model(x[index].roll(shift, (2, 3))), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model
