"""Checkpoints: weights, optimiser, statistics, gate evidence, and the offsets of the records that made them.

One atomic file with a checksum, and the one before it. After a crash its offsets win over those of the consumer
group, so that no record is learnt twice into saved weights.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from tta_agent.core.atomic_files import open_atomic
from tta_agent.core.errors import CheckpointError
from tta_agent.models.heap import trim_after

FORMAT = 8
MAGIC = b"tta-agent checkpoint\n"  # then the SHA-256 of what follows; files of format 5 have neither
NONE: Mapping[str, Any] = {"inputs": [], "fields": [], "labels": []}  # recent records
EVER = 2**62  # records that teach: every entity that does has done so before
# names of format 5, which is read as well
FORMER = {
    "agenda": "queue", "trial": "running", "adjourned": "suspended", "wishes": "wanted", "pace": "limits",
    "against": "opponent", "domain": "regime", "case": "facts", "pairing": "pairs", "born": "trained_until",
    "waiting": "unlabelled", "reverse": "regression",
}  # fmt: skip
log = logging.getLogger(__name__)


def save(path: Path, fingerprint: str, state: Mapping[str, Any]) -> None:
    """Write it; durable when this returns. The one before stays as `<name>.before`. Tensors and plain values only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomic(path) as file:  # never as a whole in memory
        content = _Hashing(file)
        trim_after(content)  # what was pickled leaves holes in the heap
        file.write(MAGIC + content.digest() + b"\n")  # a place for the sum
        torch.save({"format": FORMAT, "fingerprint": fingerprint, **state}, content)  # type: ignore[arg-type]
        file.seek(len(MAGIC))
        file.write(content.digest())
        with contextlib.suppress(FileNotFoundError):
            path.replace(before(path))  # a crash right here leaves that one, which is read then


class _Hashing:
    """File that is written, with the SHA-256 of what was."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sum = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write it."""
        self._sum.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Hand on what is buffered."""
        self._file.flush()

    def digest(self) -> bytes:
        """Hexadecimal digits of the sum."""
        return self._sum.hexdigest().encode()


def before(path: Path) -> Path:
    """Where the checkpoint before this one stands."""
    return path.with_name(path.name + ".before")


def load(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Read it, or None where there is none yet. `fingerprint` names model and adapter.

    A damaged one is told, and the one before it is read.

    Raises:
        CheckpointError: all are damaged, or were made by another model or adapter.
    """
    there = [one for one in (path, before(path)) if one.exists()]
    advice = f"choose another TTA_STORE__PATH, or remove {path}* to start from the source"
    damage: list[str] = []
    for one in there:
        try:
            state = _read(one)
        except CheckpointError as error:
            damage.append(str(error))
            continue
        if damage:
            log.error("%s; going on from %s", damage[0], one)
        if state.get("format") != FORMAT or state.get("fingerprint") != fingerprint:
            raise CheckpointError(
                f"{one} was made by another model, adapter or version of tta-agent; {advice}"
            )
        return state
    if damage:
        raise CheckpointError("\n".join([*damage, advice]))
    return None


def _read(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    if content.startswith(MAGIC):
        told, _, content = content[len(MAGIC) :].partition(b"\n")
        if hashlib.sha256(content).hexdigest().encode() != told:
            raise CheckpointError(f"{path} is damaged: its checksum does not fit")
    try:
        state = dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    except Exception as error:  # a damaged file raises whatever the reader meets first
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__})") from None
    if state.get("format") == 5:
        state = upgraded(state)
    if state.get("format") == 6:
        state = with_taught(state)
    if state.get("format") == 7:  # its regimes know a feature less, and go by those
        state["format"] = FORMAT
    return state


def upgraded(state: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of format 5 under the names of format 6."""
    kept = {name: state[name] for name in ("fingerprint", "learner", "positions")}
    others = [value for value in state.values() if isinstance(value, Mapping)]
    promoter = next(value for value in others if "agenda" in value)
    monitor = next(value for value in others if "pace" in value)
    deployments = next(value for name, value in monitor.items() if name != "pace")
    told = {"deployments": _renamed(deployments), "limits": _renamed(monitor["pace"])}
    return {"format": 6, **kept, "promoter": _renamed(promoter), "monitor": told}


def with_taught(state: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint of format 6 in format 7: its evaluations count no entity that teaches, for they knew of none."""
    promoter = dict(state["promoter"])
    queue = promoter["queue"]
    running, *suspended = (
        saved and {**saved, "taught_before": EVER, "requested": 0, "labelled_at": 0}
        for saved in (queue["running"], *queue["suspended"])
    )
    promoter |= {"labels_come": bool(promoter["labels_used"])}
    promoter |= {
        "queue": {
            **queue,
            "running": running,
            "suspended": suspended,
            "recent": NONE,
            "unsettled": False,
            "others": [],
        }
    }
    return {**state, "format": 7, "promoter": promoter, "taught": {"count": 0, "first": []}}


def _renamed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {FORMER.get(name, name): _named(name, _renamed(inner)) for name, inner in value.items()}
    return type(value)(map(_renamed, value)) if isinstance(value, list | tuple) else value


def _named(name: str, value: Any) -> Any:
    """Two values that had another form: looks and successes in a row; a regime that is not known."""
    if name == "looks":
        return value[0]
    return value or None if name == "domain" else value
