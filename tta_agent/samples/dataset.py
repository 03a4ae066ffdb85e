"""Labelled images: the shipped test set, or a file of the user's."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tta_agent.core.errors import ConfigError
from tta_agent.core.types import Array

ASSETS = Path(__file__).parent / "assets"
SHIPPED = "fashion_mnist_test.npz"
WEIGHTS = "fashion_net.safetensors"  # of tta_agent.samples.nets:fashion_net
EXPECTED = "an .npz file with `inputs` uint8 [N, C, H, W] and `labels` integers [N]"

# raised by numpy for files that are cut off, damaged, pickles, or a single array
UNREADABLE = (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images `inputs` uint8 [N, C, H, W] and their classes `labels` int64 [N]."""

    inputs: Array
    labels: Array


def load(spec: str | None = None) -> LabelledImages:
    """Read the images that `spec` names.

    Args:
        spec: `npz:PATH`, or None for the shipped test images of Fashion-MNIST.

    Raises:
        ConfigError: no such file, or it does not hold the arrays EXPECTED.
    """
    if spec is None:
        return read_npz(ASSETS / SHIPPED)
    kind, _, path = spec.partition(":")
    if kind != "npz" or not path:
        raise ConfigError(f"unknown data {spec!r}: expected npz:PATH, {EXPECTED}")
    return read_npz(Path(path))


def read_npz(path: Path) -> LabelledImages:
    """Read one file.

    Raises:
        ConfigError: no such file, or it does not hold the arrays EXPECTED.
    """
    if not path.is_file():
        raise ConfigError(f"no data file {path}: expected {EXPECTED}")
    try:
        # allow_pickle stays off: a data file must not run code
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = {name: np.asarray(arrays[name]) for name in ("inputs", "labels") if name in arrays}
            held = ", ".join(arrays) or "nothing"
    except UNREADABLE as error:
        raise ConfigError(f"cannot read {path} ({error}): expected {EXPECTED}") from error
    if len(found) < 2:
        raise ConfigError(f"{path} holds {held}: expected {EXPECTED}")
    return checked(path, found["inputs"], found["labels"])


def read_domains(path: Path) -> Array | None:
    """Names of the domains of a file's images [N], or None where the file names none.

    Raises:
        ConfigError: its array `domain` does not fit the images.
    """
    images = read_npz(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            found = np.asarray(arrays["domain"]) if "domain" in arrays else None
    except UNREADABLE as error:
        raise ConfigError(f"cannot read `domain` of {path} ({error}): expected names") from error
    if found is None:
        return None
    if found.dtype.kind not in "US" or found.shape != (len(images.labels),):
        told = f"`domain` is {found.dtype} {list(found.shape)}"
        raise ConfigError(f"{path}: {told}, expected one name for each of the {len(images.labels)} images")
    return found.astype(str)


def checked(path: Path, inputs: Array, labels: Array) -> LabelledImages:
    """Check types and shapes of the arrays of a file.

    Raises:
        ConfigError: they are not as EXPECTED.
    """
    problem = None
    if inputs.dtype != np.uint8 or inputs.ndim != 4:
        problem = f"`inputs` is {inputs.dtype} {list(inputs.shape)}"
    elif labels.dtype.kind not in "iu" or labels.ndim != 1:
        problem = f"`labels` is {labels.dtype} {list(labels.shape)}"
    elif len(inputs) != len(labels) or not len(inputs):
        problem = f"there are {len(inputs)} inputs and {len(labels)} labels"
    if problem:
        raise ConfigError(f"{path}: {problem}, expected {EXPECTED}")
    return LabelledImages(inputs, labels.astype(np.int64))
