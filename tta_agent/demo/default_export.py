"""The demo from a served file: the net as an exporter writes it by default, its BatchNorms folded away."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from tta_agent.models.loader import load
from tta_agent.samples.dataset import LabelledImages

SOURCE = 300  # unlabelled images of before the shift, which give the statistics back


def write(
    folder: Path, factory: str, weights: Path, images: LabelledImages
) -> tuple[dict[str, str], LabelledImages]:
    """Export the net, and keep some images as source inputs; none of these arrives later.

    Returns:
        Variables that name the two files, and the images that are left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file, source = folder / "model.onnx", folder / "source.npz"
    model = load(None, factory, weights, shape=images.inputs.shape[1:], device="cpu")
    _export(model.module, torch.zeros(2, *model.shape), file)
    np.savez(source, inputs=images.inputs[-SOURCE:])
    left = LabelledImages(images.inputs[:-SOURCE], images.labels[:-SOURCE])
    names = {"TTA_MODEL__ONNX": str(file.resolve()), "TTA_MODEL__SOURCE_DATA": str(source.resolve())}
    return names, left


def _export(net: torch.nn.Module, example: torch.Tensor, file: Path) -> None:
    noisy = logging.getLogger("torch.onnx")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch")
        torch.onnx.export(net, (example,), file, dynamic_shapes=({0: batch},), verbose=False)
    noisy.setLevel(level)
