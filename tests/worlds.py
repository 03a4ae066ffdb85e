"""Small worlds for tests of the whole loop: the demo's net and images, clean and shifted, as recordings."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import torch

from tta_agent import corruptions
from tta_agent.samples import dataset
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
