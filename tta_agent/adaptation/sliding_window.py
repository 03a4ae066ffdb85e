"""Sliding window for streams whose samples come one by one, or a few at a time.

As in the benchmark of Döbler, Marsden and Yang ("Universal Test-time Adaptation through Weight Ensembling,
Diversity Weighting, and Prior Correction", WACV 2024, arXiv 2306.00650): the newest `size` samples are kept; a
sample is answered together with those before it, so that BatchNorm has something to take statistics of, and
one step is taken per `size` arrivals, on the whole window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tta_agent.core.protocols import Adapter, StreamAveraging
from tta_agent.core.types import Selection, StepReport

STATE = "sliding_window"  # in the state of an adapter


class Window:
    """Adapter whose batches overlap. Batches of `size` and more pass untouched.

    Args:
        inner: the adapter.
        size: samples of the window, >= 2.
        coupled: the samples of a batch influence each other (BatchNorm); otherwise each is answered alone.
    """

    def __init__(self, inner: Adapter, size: int, *, coupled: bool = True) -> None:
        self.inner, self.size, self.coupled = inner, size, coupled
        self._x: Tensor | None = None
        self._weight = torch.zeros(0)
        self._fresh = 0

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, ...] -> [B, C]; no graph below `size` samples: the step makes its own."""
        return self.inner.forward(x) if len(x) >= self.size else self.predict(x)

    def predict(self, x: Tensor) -> Tensor:
        """Logits as `forward` gives them; the window does not move."""
        if len(x) >= self.size or not self.coupled or self._x is None:
            return self.inner.predict(x)
        return self.inner.predict(torch.cat((self._x, x))[-self.size :])[-len(x) :]

    def step(self, x: Tensor, logits: Tensor, selection: Selection) -> StepReport:
        """Take the batch into the window; learn from the window once it has been renewed.

        Whether a sample teaches is decided when it comes, and kept with its weight.
        """
        if len(x) >= self.size:
            return self.inner.step(x, logits, selection)
        self._let_in(x, selection)
        if self._x is None or self._fresh < self.size:
            return StepReport(len(x), 0, None)
        self._fresh = 0
        index = torch.nonzero(self._weight).flatten()
        chosen = Selection(index, self._weight[index])
        return self.inner.step(self._x, self.inner.forward(self._x), chosen)

    def _let_in(self, x: Tensor, selection: Selection) -> None:
        weight = torch.zeros(len(x), device=x.device)
        weight[selection.index] = selection.weight.to(weight.dtype)
        self._x = (x.clone() if self._x is None else torch.cat((self._x, x)))[-self.size :]
        self._weight = torch.cat((self._weight.to(x.device), weight))[-self.size :]
        self._fresh += len(x)

    def servable(self) -> nn.Module:
        """Frozen copy of the inner adapter."""
        return self.inner.servable()

    def source_share(self) -> float:
        """Of the inner adapter, 0 where it has none."""
        return self.inner.source_share() if isinstance(self.inner, StreamAveraging) else 0.0

    def moved(self) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Parameters of the inner adapter that learn, with their values in the source."""
        return self.inner.moved()

    def reset(self) -> None:
        """Back to the source, with an empty window."""
        self.inner.reset()
        self._x, self._weight, self._fresh = None, torch.zeros(0), 0

    def state_dict(self) -> dict[str, Any]:
        """The adapter's state, and the window's under a name of its own."""
        window = {"x": self._x, "weight": self._weight, "fresh": self._fresh}
        return {**self.inner.state_dict(), STATE: window}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; from that of the adapter alone with an empty window."""
        window = state.get(STATE, {"x": None, "weight": torch.zeros(0), "fresh": 0})
        self.inner.load_state_dict({name: part for name, part in state.items() if name != STATE})
        self._x, self._weight, self._fresh = window["x"], window["weight"], window["fresh"]
