"""Cost of a round: passes counted by hooks, and time as a multiple of one plain forward."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tta_agent.core.types import Array


@dataclass(slots=True)
class Passes:
    """Counts of rows that went through the classifier head."""

    forwards: int = 0
    backwards: int = 0


class Counter:
    """Hook that counts rows through the classifier head, forwards and backwards, in every copy of a model.

    The hook is put on the model before an adapter copies it, and is copied with it: a teacher, an anchor or a
    source beside the student counts too. A pass without the head (features only) is not seen. A backward pass
    counts with all rows of the graph that it goes through, also where a sample's gradient is zero.

    Args:
        model: hooked in place.
        classes: width of the head.
    """

    def __init__(self, model: nn.Module, classes: int) -> None:
        self._now: Passes | None = None

        # functions and not methods: deepcopy takes them as they are, so that all copies count here
        def back(grad: Tensor) -> None:
            if self._now is not None:
                self._now.backwards += len(grad)

        def forth(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            if self._now is not None:
                self._now.forwards += len(output)
                if output.requires_grad:
                    output.register_hook(back)  # type: ignore[no-untyped-call]

        head(model, classes).register_forward_hook(forth)

    @contextmanager
    def counting(self) -> Iterator[Passes]:
        """Count the passes inside this context, and no others: the benchmark's own stay outside."""
        self._now = passes = Passes()
        try:
            yield passes
        finally:
            self._now = None


def head(model: nn.Module, classes: int) -> nn.Module:
    """Last linear layer with one output a class; the whole model where there is none."""
    found = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == classes]
    return found[-1] if found else model


class Clock:
    """Stopwatch of several actions on the same batches.

    They run one after the other, in an order that rotates from batch to batch, so that other load of the machine
    falls on all of them alike.

    Args:
        actions: by name; each gets the batch [B, ...] and returns when it is done.
        device: synchronised before each reading.
    """

    def __init__(self, actions: Mapping[str, Callable[[Array], object]], device: torch.device) -> None:
        self._actions, self._device = dict(actions), device
        self.seconds: dict[str, list[float]] = {name: [] for name in actions}

    def run(self, batches: Iterable[Array], warm: int, least: int, limit_s: float) -> None:
        """Run `warm` batches untimed, then at least `least`, until `limit_s` are spent or the batches end."""
        gc.collect()
        was_on = gc.isenabled()
        gc.disable()  # a collection in one action would count against it
        try:
            started_s = time.perf_counter()
            for i, x in enumerate(batches):
                self._round(x, i, timed=i >= warm)
                if i + 1 >= warm + least and time.perf_counter() - started_s > limit_s:
                    break
        finally:
            if was_on:
                gc.enable()

    def _round(self, x: Array, turn: int, *, timed: bool) -> None:
        names = list(self._actions)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            self._wait()
            began_s = time.perf_counter()
            self._actions[name](x)
            self._wait()
            if timed:
                self.seconds[name].append(time.perf_counter() - began_s)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def median(self, name: str) -> float:
        """Median seconds of one batch."""
        return statistics.median(self.seconds[name])
