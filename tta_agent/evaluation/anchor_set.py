"""The labelled set that no candidate may forget: a few hundred images, clean and under light corruptions.

It is read, corrupted and kept once; every candidate answers the same pixels. The light corruptions stand for shifts
that a served model ought to bear: one of each kind (noise, blur, weather, digital) at severity 1 of Hendrycks and
Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019,
arXiv 1903.12261. Rehearsals look at the first two of them, in this order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from tta_agent.core.errors import ConfigError
from tta_agent.core.evidence import AnchorResult
from tta_agent.core.types import Array
from tta_agent.models.ort_sessions import Session, run
from tta_agent.models.source_data import read_source_data

CLEAN = "clean"
LIGHT = ("gaussian_noise", "defocus_blur", "fog", "jpeg_compression")
SEVERITY = 1
IMAGES = 500  # drawn of the set: an accuracy over them has a standard error of 2.2 points at most
Floats = tuple[float, ...]


class AnchorSet:
    """Labelled inputs and their light corruptions.

    Args:
        inputs: as the model takes them, [A, ...] float32.
        labels: classes [A], or for each label whether it holds, [A, L].
        mean, std: how pixels in 0 .. 1 became inputs, per channel or one for all: x = (pixel - mean) / std.

    Raises:
        ConfigError: no sample, or not one label for each.
    """

    def __init__(self, inputs: Array, labels: Array, mean: Floats = (0.0,), std: Floats = (1.0,)) -> None:
        if not len(inputs) or len(inputs) != len(labels):
            raise ConfigError(
                f"an anchor set needs one label a sample: {len(inputs)} samples, {len(labels)} labels"
            )
        self.inputs = np.ascontiguousarray(inputs, dtype=np.float32)
        self.labels = np.asarray(labels, dtype=np.int64)
        self._mean, self._std = mean, std
        self._views: Mapping[str, Array] | None = None

    @classmethod
    def read(
        cls, path: Path, shape: tuple[int, ...], mean: Floats, std: Floats, count: int = IMAGES, seed: int = 0,
        *, must: bool = True, classes: int | None = None, label_sets: bool = False,
    ) -> AnchorSet | None:  # fmt: skip
        """About `count` samples of an .npz or a folder, as many of each class as there are, evenly.

        Args:
            must: False returns None where the data has no labels, instead of raising.
            classes: of the model; labels lie below it.
            label_sets: the model answers label sets.

        Raises:
            ConfigError: cannot be read, has another shape, or (with `must`) no labels.
        """
        setting = "TTA_GATE__ANCHOR" if must else "TTA_MODEL__SOURCE_DATA"
        inputs, labels = read_source_data(
            path, shape, mean, std, classes=classes, label_sets=label_sets, setting=setting
        )
        if labels is None:
            if not must:
                return None
            raise ConfigError(
                f"TTA_GATE__ANCHOR={path} has no labels; expected an .npz with `inputs` and `labels`, or a folder "
                "with one folder of images for each class"
            )
        rows = stratified(labels, count, seed)
        return cls(inputs[rows], labels[rows], mean, std)

    def __len__(self) -> int:
        """Samples, each counted once."""
        return len(self.labels)

    def views(self) -> Mapping[str, Array]:
        """Inputs [A, ...] by name, `clean` first; only that where samples are not square grey or colour images."""
        if self._views is None:
            self._views = MappingProxyType({CLEAN: self.inputs, **self._light()})
        return self._views

    def _light(self) -> dict[str, Array]:
        shape = self.inputs.shape[1:]
        if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
            return {}
        import torch  # slow to import, and only needed here

        from tta_agent.corruptions import corrupt

        per_channel = (1, -1, 1, 1)
        centre, scale = (np.asarray(v, np.float32).reshape(per_channel) for v in (self._mean, self._std))
        pixels = torch.from_numpy(np.clip(self.inputs * scale + centre, 0, 1))
        constants = "cifar" if shape[1] <= 64 else "imagenet"
        images = {name: corrupt(pixels, name, SEVERITY, constants=constants).numpy() for name in LIGHT}
        return {name: np.asarray((x - centre) / scale, np.float32) for name, x in images.items()}

    def answers(self, ask: Session | Callable[[Array], Array], batch: int = 100) -> Mapping[str, Array]:
        """Logits [A, C] by view of a session, or of a function from inputs [B, ...] to logits [B, C].

        Raises:
            GraphError: the graph refuses the samples or fails.
        """
        one = ask if callable(ask) else lambda x: run(ask, x)
        return {
            name: np.concatenate([np.asarray(one(x[i : i + batch])) for i in range(0, len(x), batch)])
            for name, x in self.views().items()
        }

    def compare(self, serving: Mapping[str, Array], candidate: Mapping[str, Array]) -> AnchorResult:
        """Both graphs' answers as gates look at them."""
        return AnchorResult(self.labels, serving, candidate)


def stratified(labels: Array, count: int, seed: int) -> Array:
    """`count` rows (fewer where there are fewer), drawn in turns from the classes, in the order of the data.

    Each set of labels that occurs counts as a class of its own.
    """
    if labels.ndim > 1:
        labels = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    for klass in np.unique(labels):
        own = shuffled[labels[shuffled] == klass]
        turn[own] = np.arange(len(own))
    order = shuffled[np.argsort(turn[shuffled], kind="stable")]
    return np.sort(order[:count])
