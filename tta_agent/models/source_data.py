"""Reader of source data: an npz or a folder of images, as the model takes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tta_agent.core.errors import ConfigError
from tta_agent.core.types import Array

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


def read_source_data(
    path: Path,
    shape: tuple[int, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    *,
    classes: int | None = None,
    label_sets: bool = False,
    setting: str = "TTA_MODEL__SOURCE_DATA",
) -> tuple[Array, Array | None]:
    """Inputs [N, ...] float32, standardised, and labels [N] int64, of label sets [N, L], or None.

    An npz holds `inputs` (uint8 pixels, or float32 as the model takes them) and perhaps `labels`. A folder holds
    images, or one folder of images for each class, in the alphabetical order of the classes.

    Args:
        classes: of the model; labels lie below it.
        label_sets: labels tell for each of the model's whether it holds, 0 or 1.
        setting: variable that names the path, for messages.

    Raises:
        ConfigError: not there, cannot be read, of another shape, without a sample, or not finite.
    """
    try:
        inputs, labels = _folder(path, shape) if path.is_dir() else _npz(path)
        taken = _samples(inputs, shape, mean, std)
        as_read = _sets if label_sets else _classes
        return taken, None if labels is None else as_read(labels, len(taken), classes)
    except Exception as error:  # a damaged file raises whatever its reader meets first
        told = str(error).partition("\n")[0] or type(error).__name__
        raise ConfigError(f"{setting}={path}: {told}") from None


def _npz(path: Path) -> tuple[Array, Array | None]:
    if path.suffix != ".npz" or not path.is_file():
        raise ValueError("expected an existing .npz or a folder of images")
    try:
        with path.open("rb") as file, np.load(file) as arrays:  # which leaves a damaged file open by itself
            if "inputs" not in arrays:
                raise LookupError(f"no array 'inputs'; it has {', '.join(arrays) or 'none'}")
            found = arrays["inputs"], arrays.get("labels")
        if not all(isinstance(array, np.ndarray | None) for array in found):
            raise TypeError("inputs or labels are something else")
        return found
    except LookupError:
        raise
    except Exception as error:
        raise ValueError(f"not an .npz of plain arrays ({error})") from error


def _samples(inputs: Array, shape: tuple[int, ...], mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """The inputs as the model takes them."""
    if inputs.dtype.kind not in "biuf":
        raise ValueError(f"inputs are {inputs.dtype}; expected uint8 pixels or float32")
    if inputs.shape[1:] != tuple(shape) or not inputs.ndim or not len(inputs):
        raise ValueError(f"samples of shape {list(inputs.shape[1:])}, the model takes {list(shape)}")
    taken = standardised(inputs, mean, std)
    bad = np.flatnonzero(~np.isfinite(taken).reshape(len(taken), -1).all(1))
    if len(bad):
        raise ValueError(
            f"{len(bad)} of {len(taken)} samples hold NaN or infinity; the first is sample {bad[0]}"
        )
    return taken


def _classes(labels: Array, count: int, classes: int | None) -> Array:
    """The labels as class numbers [N]."""
    if labels.shape != (count,):
        raise ValueError(f"{count} inputs and labels of shape {list(labels.shape)}; expected one label each")
    whole = labels.dtype.kind in "biu" or (labels.dtype.kind == "f" and bool((labels % 1 == 0).all()))
    if not whole:
        raise ValueError(f"labels are {labels.dtype} like {labels[0]!r}; expected numbers of classes")
    if labels.min() < 0 or (classes is not None and labels.max() >= classes):
        most = "and up" if classes is None else f".. {classes - 1}"
        raise ValueError(f"labels from {labels.min()} to {labels.max()}; expected 0 {most}")
    return labels.astype(np.int64)


def _sets(labels: Array, count: int, classes: int | None) -> Array:
    """The labels as whether each holds, [N, L]."""
    if labels.shape != (count, classes):
        found = f"labels of shape {list(labels.shape)}"
        raise ValueError(f"{found}; expected [{count}, {classes}]: whether each of the model's labels holds")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels from {labels.min()} to {labels.max()}; expected 0 or 1 for each label")
    return labels.astype(np.int64)


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
        raise ValueError(f"no image in it ({', '.join(sorted(SUFFIXES))})")
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
        raise ValueError(f"{file.name} has shape {list(pixels.shape)}, the model takes {list(shape)}")
    return np.asarray(pixels)
