"""Server drivers: one file for each kind of model server, installed in the entry-point group `tta_agent.drivers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tta_agent.core import plugins
from tta_agent.core.errors import WrongAnswer
from tta_agent.core.protocols import ServerDriver
from tta_agent.core.types import Array, Golden, ServerInfo
from tta_agent.settings.secret import revealed

if TYPE_CHECKING:
    from tta_agent.settings.schema import Settings

TOLERANCE = 1e-3  # of a logit: kernels differ in the last bits between machines and batch sizes


def open_driver(settings: Settings, output: str | None = None) -> ServerDriver:
    """The driver that TTA_SWAP__DRIVER names, whatever the mode.

    Args:
        output: name of the output that is the answer, where the model has been asked; else TTA_MODEL__OUTPUT.

    Raises:
        ConfigError: no such driver, or its options do not fit.
    """
    swap = settings.swap
    output = output or settings.model.output
    named = settings.model.served_version or ""
    server = ServerInfo(
        swap.url, settings.model.served_as, swap.timeout_s, output, revealed(swap.token),
        source=int(named) if named.isdecimal() else 0,
    )  # fmt: skip
    driver: ServerDriver = plugins.make("drivers", swap.driver, swap.options, server)
    return driver


def check_golden(answer: Array, golden: Golden, who: str, tolerance: float = TOLERANCE) -> None:
    """Raise WrongAnswer unless the answer is finite and equals the golden logits."""
    if answer.shape != golden.logits.shape:
        raise WrongAnswer(f"{who} answers shape {list(answer.shape)}; expected {list(golden.logits.shape)}")
    if not np.isfinite(answer).all():
        bad = int(np.count_nonzero(~np.isfinite(answer)))
        raise WrongAnswer(
            f"{who} answers {bad} values that are not finite on the golden batch; expected none"
        )
    gap = float(np.abs(answer.astype(np.float64) - golden.logits).max(initial=0.0))
    if not gap <= tolerance:
        raise WrongAnswer(
            f"{who} differs from the golden logits by {gap:.3g}; at most {tolerance:g} is allowed"
        )
