"""What survives a crash, in one atomic file: weights, optimiser, statistics, gate evidence, and the offsets of
the records that made them. After a crash these offsets win over those of the consumer group, so that no record
is learnt twice into saved weights.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tta_agent.core.atomic_files import write_atomic
from tta_agent.core.errors import CheckpointError

FORMAT = 5


def save(path: Path, fingerprint: str, state: Mapping[str, Any]) -> None:
    """Write it; durable when this returns. Tensors and plain values only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "fingerprint": fingerprint, **state}, buffer)
    write_atomic(path, buffer.getvalue())


def load(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Read it, or None where there is none yet. `fingerprint` names model and adapter.

    Raises:
        CheckpointError: it is damaged, or was made by another model or adapter.
    """
    if not path.exists():
        return None
    advice = f"choose another TTA_STORE__PATH, or remove {path} to start from the source"
    try:
        state = dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file raises whatever the reader meets first
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__}); {advice}") from None
    if state.get("format") != FORMAT or state.get("fingerprint") != fingerprint:
        raise CheckpointError(f"{path} was made by another model, adapter or version of tta-agent; {advice}")
    return state
