"""Reader of source data: an npz or a folder of images, as the model takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tta_agent.core.errors import ConfigError
from tta_agent.core.types import Array

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


def read_source_data(
    path: Path, shape: tuple[int, ...], mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[Array, Array | None]:
    """Inputs [N, ...] float32, standardised, and labels [N] int64 or None.

    An npz holds `inputs` (uint8 pixels, or float32 as the model takes them) and perhaps `labels`. A folder holds
    images, or one folder of images for each class, in the alphabetical order of the classes.

    Raises:
        ConfigError: not there, of another shape, without a sample, or not finite.
    """
    if path.is_dir():
        inputs, labels = _folder(path, shape)
    elif path.suffix == ".npz" and path.is_file():
        with np.load(path) as arrays:
            if "inputs" not in arrays:
                raise ConfigError(f"TTA_MODEL__SOURCE_DATA={path}: no array 'inputs'; it has {list(arrays)}")
            inputs = arrays["inputs"]
            labels = arrays["labels"].astype(np.int64) if "labels" in arrays else None
    else:
        raise ConfigError(f"TTA_MODEL__SOURCE_DATA={path}: expected an existing .npz or a folder of images")
    if inputs.shape[1:] != tuple(shape) or not len(inputs):
        raise ConfigError(
            f"TTA_MODEL__SOURCE_DATA={path}: samples of shape {list(inputs.shape[1:])}, the model takes {list(shape)}"
        )
    if labels is not None and len(labels) != len(inputs):
        raise ConfigError(f"TTA_MODEL__SOURCE_DATA={path}: {len(inputs)} inputs and {len(labels)} labels")
    taken = standardised(inputs, mean, std)
    bad = np.flatnonzero(~np.isfinite(taken).reshape(len(taken), -1).all(1))
    if len(bad):
        raise ConfigError(
            f"TTA_MODEL__SOURCE_DATA={path}: {len(bad)} of {len(taken)} samples hold NaN or infinity; the first is "
            f"sample {bad[0]}"
        )
    return taken, labels


def standardised(inputs: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """Pixels (uint8) to x = (pixel / 255 - mean) / std; floats are taken as they are."""
    if inputs.dtype != np.uint8:
        return np.ascontiguousarray(inputs, dtype=np.float32)
    per_channel = (1, -1, *[1] * (inputs.ndim - 2))
    centre, scale = (np.asarray(v, np.float32).reshape(per_channel) for v in (mean, std))
    return np.asarray((inputs.astype(np.float32) / 255 - centre) / scale)


def _folder(path: Path, shape: tuple[int, ...]) -> tuple[Array, Array | None]:
    """Images of the model's size; others are refused rather than resized: preprocessing is the user's."""
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES)
    if not files:
        raise ConfigError(f"TTA_MODEL__SOURCE_DATA={path}: no image in it ({', '.join(sorted(SUFFIXES))})")
    classes = sorted({f.parent for f in files if f.parent != path})
    labelled = len(classes) > 1 and all(f.parent != path for f in files)
    labels = np.array([classes.index(f.parent) for f in files], np.int64) if labelled else None
    return np.stack([_pixels(f, shape) for f in files]), labels


def _pixels(file: Path, shape: tuple[int, ...]) -> Array:
    from PIL import Image  # only needed for folders of images

    with Image.open(file) as image:
        pixels = np.asarray(image.convert("L" if shape[0] == 1 else "RGB"))
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if pixels.shape != tuple(shape):
        raise ConfigError(f"{file} has shape {list(pixels.shape)}, the model takes {list(shape)}")
    return np.asarray(pixels)
