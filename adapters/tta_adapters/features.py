"""Where a model ends in a classifier: the features that enter it, and the answers that leave the model.

The features are taken by a hook on the classifier during one call, so the model stays whole: what is learnt,
copied, saved and served is the model itself. (Cutting a model in two leaves the head out of the student for timm
models: mariodoebler/test-time-adaptation, issue 13.)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tta_agent.core.errors import CannotAdapt


class Split:
    """Features and answers of a model, and of every copy of it.

    Args:
        model: its classifier is what `get_classifier()` says (timm), else the last nn.Linear.

    Raises:
        CannotAdapt: there is no such layer.
    """

    def __init__(self, model: nn.Module) -> None:
        self.name, layer = _classifier(model)
        self.weight = layer.weight.detach().flatten(1)  # [C, features]

    def __call__(self, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, ...] -> features [B, F] and logits [B, C], float32, with graph where there is one.

        Raises:
            CannotAdapt: the classifier was not called.
        """
        entered: list[Tensor] = []
        layer = model.get_submodule(self.name)
        hook = layer.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        try:
            logits = model(x)
        finally:
            hook.remove()
        if not entered:
            raise CannotAdapt(
                f"layer {self.name!r}, the last linear one, takes no part in the answer: {_NEED}"
            )
        return pooled(entered[-1], layer).float(), logits.float()


_NEED = "the classifier must be an nn.Linear module, or what the model's get_classifier() returns"


def pooled(features: Tensor, layer: nn.Module) -> Tensor:
    """[B, F], the mean over places or tokens where the classifier is applied to each."""
    last = 1 if isinstance(layer, nn.Conv2d) else features.dim() - 1
    places = [d for d in range(1, features.dim()) if d != last]
    return features.mean(places) if places else features


def _classifier(model: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """Name and layer."""
    known = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator]
    first = known[0] if isinstance(known, tuple | list) and known else known  # distilled models have two
    found = [(n, m) for n, m in model.named_modules() if m is first and isinstance(m, nn.Linear | nn.Conv2d)]
    found = found or [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    if not found:
        raise CannotAdapt(f"no classifier is found in this model: {_NEED}")
    return found[-1]


@torch.no_grad()
def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean features [C', F] of every class that has a sample, from features [N, F] and labels [N].

    A class without a sample has no mean and no row: C' <= C.

    Raises:
        ValueError: a label outside 0 .. classes - 1.
    """
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(
            f"labels {int(labels.min())} .. {int(labels.max())} are not all in 0 .. {classes - 1}"
        )
    count = torch.bincount(labels, minlength=classes)
    total = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return total[count > 0] / count[count > 0].unsqueeze(1)
