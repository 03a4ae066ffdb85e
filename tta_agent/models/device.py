"""Device of the copy: transfer of batches, precision, and behaviour when memory runs out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from tta_agent.core.types import Array

Precision = Literal["float32", "bfloat16"]
SMALLEST = 8  # samples: an adaptation step on fewer is not worth its noise
log = logging.getLogger(__name__)


class Accelerator:
    """A device with its own stream; on CUDA below the priority of whoever else computes there.

    Args:
        device: of the copy.
        precision: of activations; weights, statistics and losses stay float32.
        memory: share of the device's memory that this process may use, in (0, 1].
    """

    def __init__(self, device: torch.device, precision: Precision = "float32", memory: float = 1.0) -> None:
        self.device, self._half = device, precision == "bfloat16"
        self._stream: torch.cuda.Stream | None = None
        self._transfers: torch.cuda.Stream | None = None
        self._coming: tuple[Array, Tensor] | None = None
        if device.type == "cuda":
            device = torch.device(
                "cuda", torch.cuda.current_device() if device.index is None else device.index
            )
            torch.cuda.set_per_process_memory_fraction(memory, device)
            self._stream = _patient_stream(device)
            self._transfers = _patient_stream(device)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Context on the device's stream, in its precision."""
        stream = torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext()
        with stream, torch.autocast(self.device.type, torch.bfloat16, enabled=self._half):
            yield

    def expect(self, x: Array | None) -> None:
        """Start the transfer of the batch that comes next, while another is computed."""
        if self._transfers is None or x is None:
            return
        with torch.cuda.stream(self._transfers):
            self._coming = (x, torch.from_numpy(x).pin_memory().to(self.device, non_blocking=True))

    def put(self, x: Array) -> Tensor:
        """The batch on the device."""
        coming, self._coming = self._coming, None
        if coming is None or coming[0] is not x or self._transfers is None:
            return torch.from_numpy(x).to(self.device)
        here = torch.cuda.current_stream(self.device)
        here.wait_stream(self._transfers)
        coming[1].record_stream(here)
        return coming[1]


def _patient_stream(device: torch.device) -> torch.cuda.Stream:
    """Of the lowest priority there is: in CUDA the largest number, and 0 is the default and the lowest."""
    return torch.cuda.Stream(device, priority=0)  # type: ignore[no-untyped-call]


class Room:
    """Number of samples that fit into memory: halved when it runs out; in the end only scoring goes on.

    Attributes:
        samples: at most so many at once; None while memory never ran out.
        learns: False once not even `SMALLEST` samples fit a step.
    """

    def __init__(self) -> None:
        self.samples: int | None = None
        self.learns = True

    def fit(self, n: int) -> int:
        """Number of n samples that fit at once."""
        return min(self.samples or n, n)

    def shrink(self, n: int) -> None:
        """Fit fewer at once: n samples ran out of memory.

        Raises:
            torch.OutOfMemoryError: not even a single one fits without learning.
        """
        if self.learns and n // 2 < SMALLEST:
            self.learns = False
            log.error("out of memory with %d samples: adaptation is paused, scoring goes on", n)
            return
        if n == 1:
            raise torch.OutOfMemoryError("a single sample does not fit into memory")
        self.samples = n // 2
        log.warning("out of memory with %d samples: going on with %d at once", n, self.samples)
