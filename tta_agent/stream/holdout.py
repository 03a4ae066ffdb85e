"""Secret of the hold-out: without it a client could choose, by its key, to be held out or to be learnt from."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
from pathlib import Path

from tta_agent.core.atomic_files import sync_folder
from tta_agent.core.errors import ConfigError
from tta_agent.core.os_errors import describe

NAME, BYTES = "holdout.key", 32
log = logging.getLogger(__name__)


def secret_of(store: Path) -> bytes:
    """Secret of a store, `<store>/holdout.key`, made where there is none; it never changes and moves with the store.

    Raises:
        ConfigError: it is damaged, or cannot be read or written.
    """
    path = store / NAME
    try:
        if not path.exists():
            _make(path)
        secret = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be used: {describe(error)} (TTA_STORE__PATH)") from None
    if len(secret) != BYTES:
        raise ConfigError(
            f"{path} has {len(secret)} bytes; expected {BYTES}. Copy it from a backup of the store, or remove it:"
            " then all entities are dealt anew"
        )
    return secret


def _make(path: Path) -> None:
    """Written whole before it has its name; of two processes the first wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if (path.parent / "checkpoint.pt").exists():
        log.warning("%s was missing: who is held out is dealt anew, once", path)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        Path(draft).unlink()
    sync_folder(path.parent)
