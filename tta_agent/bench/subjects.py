"""Test images and models of the benchmark, by short names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tta_agent.core.errors import ConfigError, nearest
from tta_agent.samples import dataset as images
from tta_agent.samples.dataset import LabelledImages

CHECKOUT = Path(__file__).parents[2]
CIFAR_TEST, CIFAR_SOURCE = "cifar10_test.npz", "cifar10_source.npz"
CIFAR_SHAPE, FASHION_SHAPE = (3, 32, 32), (1, 28, 28)


@dataclass(frozen=True, slots=True)
class Net:
    """Factory of a net and its weights file; the nets take images in [0, 1] and normalise the pixels themselves."""

    factory: str
    weights: str


NETS = {
    "resnet20": Net("tta_agent.bench.nets:resnet20", "cifar10_resnet20.safetensors"),
    "fashion_bn": Net("tta_agent.samples.nets:fashion_net", images.WEIGHTS),
    "fashion_gn": Net("tta_agent.bench.nets:fashion_gn", "fashion_gn.safetensors"),
    "fashion_ln": Net("tta_agent.bench.nets:fashion_ln", "fashion_ln.safetensors"),
}
DEFAULT_NET: dict[tuple[int, ...], str] = {CIFAR_SHAPE: "resnet20", FASHION_SHAPE: "fashion_bn"}


def data_path(data: str | None) -> Path:
    """Path of the test images: CIFAR-10 where it can be found, the packaged `fashion`, or a file.

    Raises:
        ConfigError: none was named, and CIFAR-10 is missing.
    """
    if data == "fashion":
        return images.ASSETS / images.SHIPPED
    if data and data != "cifar":
        return Path(data)
    found = find(CIFAR_TEST)
    if found is None:
        raise ConfigError(
            f"no {CIFAR_TEST} in {' or '.join(map(str, _places()))}: name the test images by --data FILE, "
            f"{images.EXPECTED},\nor take the packaged ones: --data fashion"
        )
    return found


def model_flags(
    model: str | None, weights: Path | None, source_data: Path | None, shape: tuple[int, ...]
) -> dict[str, Any]:
    """Settings of the group `model`: a short name of NETS, module:callable, or a timm name.

    Args:
        model: name; None for the net that was trained on images of this shape.
        weights: file; wins over the one that belongs to a short name.
        source_data: labelled images for the methods that use some; those of CIFAR-10 where they can be found.
        shape: of one image.

    Raises:
        ConfigError: nothing fits the shape, or the weights that belong to the name are missing.
    """
    model = model or DEFAULT_NET.get(shape)
    if model is None:
        raise ConfigError(f"no net of ours takes images {list(shape)}: name yours by --model and --weights")
    source_data = source_data or (find(CIFAR_SOURCE) if model == "resnet20" else None)
    common = {
        "name": None, "factory": None, "weights": weights, "input_shape": shape, "source_data": source_data,
        "threads": 1,
    }  # fmt: skip
    if model in NETS:
        net = NETS[model]
        return {**common, "factory": net.factory, "weights": weights or _weights(model, net.weights)}
    if ":" in model:
        return {**common, "factory": model}
    if weights is None:
        raise ConfigError(f"--model {model} needs --weights, or is no name of ours; {nearest(model, NETS)}")
    return {**common, "name": model}


def strangers(shape: tuple[int, ...]) -> LabelledImages:
    """Images of unknown classes: Fashion-MNIST for CIFAR, and the other way round."""
    if shape != FASHION_SHAPE:
        return images.load()
    found = find(CIFAR_TEST)
    if found is None:
        raise ConfigError(
            f"protocol unknown needs {CIFAR_TEST} as strangers to Fashion-MNIST; it is not here"
        )
    return images.read_npz(found)


def find(name: str) -> Path | None:
    """Path of a file in the folders of data and weights; None where no folder holds it."""
    return next((place / name for place in _places() if (place / name).is_file()), None)


def _places() -> Iterable[Path]:
    shared = [Path.cwd() / "../shared/data", CHECKOUT / "../shared/data"]
    return [*dict.fromkeys(path.resolve() for path in shared), images.ASSETS, Path(__file__).parent / "assets",
            CHECKOUT / "benchmarks" / "weights"]  # fmt: skip


def _weights(model: str, name: str) -> Path:
    found = find(name)
    if found is None:
        raise ConfigError(f"--model {model}: no {name} in {', '.join(map(str, _places()))}; give --weights")
    return found
