"""Recurrent layers: LSTM and GRU, one layer in one direction or both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tta_agent.models.onnx_import.operators import register

_LSTM = (0, 2, 3, 1)  # torch: input, forget, cell, output; the file: input, output, forget, cell
_GRU = (1, 0, 2)  # torch: reset, update, new; the file: update, reset, new


@register("LSTM")
def lstm(
    x: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor | None = None, lengths: Tensor | None = None,
    hidden: Tensor | None = None, cell: Tensor | None = None, peepholes: Tensor | None = None, *,
    hidden_size: int, **options: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Long short-term memory, [T, B, inputs] -> [T, directions, B, hidden], and the last states."""
    _refuse(lengths, peepholes, options)
    start = _start(x, weight, hidden, hidden_size), _start(x, weight, cell, hidden_size)
    y, h, c = torch.lstm(
        _turned(x, options), start, _parameters(weight, recurrence, bias, _LSTM), bias is not None, 1, 0.0, False,
        len(weight) == 2, False,
    )  # fmt: skip
    return _by_direction(_turned(y, options), len(weight)), h, c


@register("GRU")
def gru(
    x: Tensor, weight: Tensor, recurrence: Tensor, bias: Tensor | None = None, lengths: Tensor | None = None,
    hidden: Tensor | None = None, *, hidden_size: int, linear_before_reset: int = 0, **options: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gated recurrent unit, [T, B, inputs] -> [T, directions, B, hidden], and the last state."""
    _refuse(lengths, None, options)
    if not linear_before_reset:
        raise NotImplementedError("linear_before_reset=0")
    y, h = torch.gru(
        _turned(x, options), _start(x, weight, hidden, hidden_size), _parameters(weight, recurrence, bias, _GRU),
        bias is not None, 1, 0.0, False, len(weight) == 2, False,
    )  # fmt: skip
    return _by_direction(_turned(y, options), len(weight)), h


def _refuse(lengths: Tensor | None, peepholes: Tensor | None, options: dict[str, Any]) -> None:
    plain = all(name in ("sigmoid", "tanh") for name in (n.lower() for n in options.get("activations", ())))
    if (
        lengths is not None
        or peepholes is not None
        or options.get("layout")
        or "clip" in options
        or not plain
    ):
        raise NotImplementedError("lengths of sequences, peepholes, a layout, clipping, or other activations")


def _start(x: Tensor, weight: Tensor, given: Tensor | None, hidden: int) -> Tensor:
    return x.new_zeros(len(weight), x.shape[1], hidden) if given is None else given


def _turned(x: Tensor, options: dict[str, Any]) -> Tensor:
    return x.flip(0) if options.get("direction") == "reverse" else x


def _by_direction(y: Tensor, directions: int) -> Tensor:
    """[T, B, directions * hidden] -> [T, directions, B, hidden]."""
    return y.reshape(*y.shape[:2], directions, y.shape[2] // directions).transpose(1, 2)


def _parameters(
    weight: Tensor, recurrence: Tensor, bias: Tensor | None, order: tuple[int, ...]
) -> list[Tensor]:
    """Weights of each direction, their gates in torch's order."""
    found = []
    for i in range(len(weight)):
        parts = [weight[i], recurrence[i]]
        if bias is not None:
            parts += bias[i].chunk(2)
        found += [torch.cat([part.chunk(len(order))[k] for k in order]) for part in parts]
    return found
