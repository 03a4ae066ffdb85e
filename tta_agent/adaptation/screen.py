"""Inputs that take no part in a round: chosen before the learning forward pass, whose statistics are the batch's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor

from tta_agent.core.protocols import InputSelector
from tta_agent.core.types import View


class Screen:
    """Input selectors, applied one after the other; without any, everything passes."""

    def __init__(self, selectors: Sequence[InputSelector] = ()) -> None:
        self.selectors = tuple(selectors)

    @torch.no_grad()
    def select(self, x: Tensor) -> tuple[Tensor, Counter[str]]:
        """Which of the inputs [B, ...] pass, [B], and how many do not, by reason."""
        index, dropped = torch.arange(len(x), device=x.device), Counter[str]()
        for selector in self.selectors:
            if len(index):
                chosen = selector.select(_inputs(x if len(index) == len(x) else x[index]))
                index = index[chosen.index]
                dropped.update(chosen.dropped)
        return torch.zeros(len(x), dtype=torch.bool, device=x.device).index_fill_(0, index, True), dropped

    @torch.no_grad()
    def look(self, x: Tensor) -> Tensor:
        """Which of the inputs [B, ...] would pass, [B]; nothing is remembered."""
        passes = torch.ones(len(x), dtype=torch.bool, device=x.device)
        for selector in self.selectors:
            passes &= selector.look(x)
        return passes


def _inputs(x: Tensor) -> View:
    """Inputs without answers."""
    return View(x, x.new_empty(len(x), 0), _refuse, _refuse, _refuse)


def _refuse(*_: Tensor) -> NoReturn:
    raise RuntimeError("an input selector is asked before the forward pass: there are no answers yet")
