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

FORMAT = 6
# names of format 5, which is read as well
FORMER = {
    "court": "promoter", "sentry": "monitor", "agenda": "queue", "trial": "running", "adjourned": "suspended",
    "wishes": "wanted", "posts": "deployments", "pace": "limits", "against": "opponent", "domain": "regime",
    "case": "facts", "pairing": "pairs", "born": "trained_until", "waiting": "unlabelled", "reverse": "regression",
}  # fmt: skip


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
    if state.get("format") == 5:
        state = upgraded(state)
    if state.get("format") != FORMAT or state.get("fingerprint") != fingerprint:
        raise CheckpointError(f"{path} was made by another model, adapter or version of tta-agent; {advice}")
    return state


def upgraded(state: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of format 5 under the names of today; what was learnt stays."""
    kept = {name: state[name] for name in ("fingerprint", "learner", "positions")}
    told = {FORMER[name]: _renamed(state[name]) for name in ("court", "sentry")}
    return {"format": FORMAT, **kept, **told}


def _renamed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {FORMER.get(name, name): _named(name, _renamed(inner)) for name, inner in value.items()}
    return type(value)(map(_renamed, value)) if isinstance(value, list | tuple) else value


def _named(name: str, value: Any) -> Any:
    """Two values that had another form: looks and successes in a row; a regime that is not known."""
    if name == "looks":
        return value[0]
    return value or None if name == "domain" else value
