"""Small worlds for tests of the whole loop: the demo's net and images, clean and shifted, as recordings."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from tta_agent import corruptions
from tta_agent.samples import dataset
from tta_agent.samples.nets import fashion_net
from tta_agent.stream.recordings.reader import Preprocessing, import_npz
from tta_agent.testing import tiny_net

SHIFT = ("gaussian_noise", "impulse_noise")
FASHION = {
    "TTA_MODE": "auto",
    "TTA_MODEL__FACTORY": "tta_agent.samples.nets:fashion_net",
    "TTA_MODEL__WEIGHTS": str(dataset.ASSETS / dataset.WEIGHTS),
    "TTA_MODEL__INPUT_SHAPE": "[1,28,28]",
}


def tiny_batch_net() -> torch.nn.Module:
    """For TTA_MODEL__FACTORY."""
    return tiny_net("batch")


def no_norm_net() -> torch.nn.Module:
    """Nothing that TENT could adapt."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))


@functools.cache
def images(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first n test images in [0, 1], shifted ones, labels."""
    some = dataset.load()
    clean = torch.from_numpy(some.inputs[:n]).float() / 255
    shifted, _ = corruptions.mixture(clean, SHIFT, 4, 0, "imagenet")
    return clean.numpy(), shifted.numpy(), some.labels[:n]


def recording(folder: Path, clean: int, shifted: int) -> Path:
    """`clean` images, then `shifted` ones, 100 a second."""
    a, b, labels = images(clean + shifted)
    inputs = np.concatenate([a[:clean], b[clean:]])
    domain = np.array(["clean"] * clean + ["shifted"] * shifted)
    npz = folder / "arrays.npz"
    np.savez(npz, inputs=(inputs * 255).round().astype(np.uint8), labels=labels, domain=domain)
    import_npz(
        npz, folder / "recording", model="fashion", preprocessing=Preprocessing(1 / 255, (0.0,), (1.0,))
    )
    return folder / "recording"


def clean_environ() -> dict[str, str]:
    """This process's environment without TTA_* variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TTA_")}


class Answering(torch.nn.Module):
    """A net with another ending."""

    def __init__(self, net: torch.nn.Module, end: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.net, self.end = net, end

    def forward(self, x: torch.Tensor) -> object:
        return self.end(self.net(x))


def one_against_rest(z: torch.Tensor) -> torch.Tensor:
    """Logit [N, 1] of the first half of the classes against the others."""
    half = z.shape[1] // 2
    parts = z[:, :half], z[:, half:]
    most = [part.amax(1, keepdim=True) for part in parts]
    sums = [(part - top).exp().sum(1, keepdim=True).log() for part, top in zip(parts, most, strict=True)]
    return most[0] + sums[0] - most[1] - sums[1]


ENDINGS: dict[str, Callable[[torch.Tensor], object]] = {
    "logits": lambda z: z,
    "spatial": lambda z: z[:, :, None, None],
    "softmax": lambda z: z.softmax(1),
    "softmax, clamp": lambda z: z.softmax(1).clamp(1e-7, 1 - 1e-7),
    "softmax, reshape": lambda z: z.softmax(1).reshape(-1, z.shape[1], 1, 1),
    "softmax, cast": lambda z: z.softmax(1).double().float(),
    "logit": one_against_rest,
    "squeezed logit": lambda z: one_against_rest(z)[:, 0],
    "sigmoid": lambda z: one_against_rest(z).sigmoid(),
    "features, logits": lambda z: (z[:, :, None, None].expand(-1, -1, 2, 2), z),
    "named": lambda z: {"features": z * 2, "scores": z},
    "sigmoids": lambda z: z.sigmoid(),
}
KINDS = {
    "logits": "logits", "spatial": "logits", "features, logits": "logits", "named": "logits", "logit": "logit",
    "squeezed logit": "logit", "sigmoid": "probability", "sigmoids": "sigmoids", **{
        name: "probabilities" for name in ("softmax", "softmax, clamp", "softmax, reshape", "softmax, cast")
    },
}  # fmt: skip


def fashion_answering(ending: str) -> torch.nn.Module:
    """The demo's trained net with another ending."""
    net = fashion_net()
    net.load_state_dict(load_file(dataset.ASSETS / dataset.WEIGHTS))
    return Answering(net, ENDINGS[ending]).eval()


def fashion_probabilities() -> torch.nn.Module:
    """For TTA_MODEL__FACTORY."""
    return fashion_answering("softmax, clamp")


def fashion_binary() -> torch.nn.Module:
    """For TTA_MODEL__FACTORY: classes 0 to 4 are class 1."""
    return fashion_answering("logit")
