"""Source samples that the user gives, in shuffled batches, and what is computed from them once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tta_adapters.features import Split, class_means
from tta_agent.core.errors import CannotAdapt
from tta_agent.core.task import decide
from tta_agent.core.types import SourceInfo
from tta_agent.scoring.sample_scores import all_finite


@dataclass(frozen=True, slots=True)
class Sample:
    """Inputs [N, ...], labels [N] or None, and how many are taken at once."""

    inputs: Tensor
    labels: Tensor | None
    size: int

    @classmethod
    def of(cls, origin: SourceInfo | None, size: int) -> Sample | None:
        """None where there is not one sample."""
        if origin is None or origin.inputs is None or not len(origin.inputs):
            return None
        return cls(origin.inputs, origin.labels, size)

    def shuffled(self, generator: torch.Generator) -> Iterator[Tensor]:
        """Indices of one pass, in batches of about the size that differ by one at most: none is left too small.

        Shuffled, since batch statistics of samples in the order of their classes mislead.
        """
        order = torch.randperm(len(self.inputs), generator=generator)
        yield from order.tensor_split(self.batches)

    @property
    def batches(self) -> int:
        """Of one pass."""
        return max(1, round(len(self.inputs) / self.size))

    def draw(
        self, size: int, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """`size` samples at random, with replacement only where there are fewer."""
        n = len(self.inputs)
        order = (
            torch.randperm(n, generator=generator)
            if n >= size
            else torch.randint(n, (size,), generator=generator)
        )
        index = order[:size].to(self.inputs.device)
        labels = None if self.labels is None else self.labels[index.to(self.labels.device)].to(device)
        return self.inputs[index].to(device), labels


@torch.no_grad()
def prototypes(model: nn.Module, split: Split, sample: Sample, device: torch.device) -> Tensor:
    """Mean features [C', F] of the classes, under batch statistics; where no labels are given, of the answers.

    Raises:
        CannotAdapt: they are not finite.
    """
    features, logits, order = [], [], []
    for index in sample.shuffled(torch.Generator().manual_seed(0)):
        f, z = split(model, sample.inputs[index.to(sample.inputs.device)].to(device))
        features.append(f)
        logits.append(z)
        order.append(index)
    answers = torch.cat(logits)
    labels = (
        decide(answers) if sample.labels is None else sample.labels.to(device)[torch.cat(order).to(device)]
    )
    means = class_means(torch.cat(features), labels, answers.shape[1])
    if not all_finite(means):
        raise CannotAdapt("features of TTA_MODEL__SOURCE_DATA are not finite; look for inputs far outside")
    return means
