"""Ending of a model that answers probabilities: the logits that its last operators turn into them.

The logarithm of a probability that has saturated at 0 or 1 says nothing any more, and has no gradient. So the copy
learns on the input of the softmax (the sigmoid). Which value that is, the answers say: the last one of which the
softmax is the answer. Names and operators do not matter: exporters write a softmax as one node or as Exp, ReduceSum
and Div, with casts, reshapes and clips behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from tta_agent.models.outputs import Kind

FURTHEST = 16  # steps before the answer
ALIKE = 1e-3  # largest difference of probabilities: half precision, and clips
_INNER: Mapping[Kind, tuple[Kind, Callable[[Tensor], Tensor]]] = {
    "probabilities": ("logits", lambda z: z.softmax(1)),
    "odds": ("logits", torch.sigmoid),
    "probability": ("logit", torch.sigmoid),
    "sigmoids": ("scores", torch.sigmoid),
}


@runtime_checkable
class Cuttable(Protocol):
    """A module that can answer an earlier value than the last."""

    def last_values(self, x: Tensor, count: int) -> dict[str, Tensor]:
        """Values of the last steps, in the order of computation."""

    def cut(self, name: str | None) -> None:
        """Answer this value from now on; None: the last, as it is served."""


@torch.no_grad()
def logits_before(
    module: Cuttable, probes: list[Tensor], answer: Callable[[Tensor], Tensor], kind: Kind
) -> tuple[str, Kind] | None:
    """Name of the value that holds the logits, and its kind; None where there is none.

    Args:
        probes: inputs [N, ...] of different size, so that a value fits on all of them only if it is the logits.
        answer: the raw answer [N, C] to inputs.
        kind: of the answer.
    """
    if kind not in _INNER:
        return None
    inner, ending = _INNER[kind]
    fits: set[str] | None = None
    for x in probes:
        wanted = answer(x).double()
        values = {n: v.reshape(len(x), -1).double() for n, v in _of_size(module, x, wanted).items()}
        alike = {n for n, v in values.items() if float((ending(v) - wanted).abs().max()) <= ALIKE}
        fits = alike if fits is None else fits & alike
    names = [name for name in values if name in (fits or ())]
    return (names[-1], inner) if names else None


def _of_size(module: Cuttable, x: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    values = module.last_values(x, FURTHEST)
    return {
        n: v
        for n, v in values.items()
        if v.is_floating_point() and v.numel() == wanted.numel() and len(v) == len(x)
    }
