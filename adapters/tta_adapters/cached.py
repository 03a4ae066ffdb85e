"""What is computed once from source data is kept in a file, named after the content that it was computed from."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)
Made = dict[str, Any]  # tensors and plain values, by name; nested
DAMAGED = (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError)


def digest(*things: object) -> str:
    """SHA-256 of tensors (dtype, shape and bytes), of mappings, and of the repr of anything else."""
    sha = hashlib.sha256()
    for thing in things:
        for piece in _pieces(thing):
            sha.update(piece)
    return sha.hexdigest()


def _pieces(thing: object) -> Iterator[Any]:
    if isinstance(thing, Mapping):
        for name, value in thing.items():
            yield from (*_pieces(name), *_pieces(value))
    elif isinstance(thing, Tensor):
        yield f"{thing.dtype} {tuple(thing.shape)};".encode()
        yield thing.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    else:
        yield f"{thing!r};".encode()


def cached(folder: Path | None, name: str, key: str, make: Callable[[], Made]) -> Made:
    """What the file `<name>-<key>.pt` holds; made, and put there, where it is missing or damaged.

    Without a folder it is just made. A folder that cannot be written to costs a warning.
    """
    if folder is None:
        return make()
    path = folder / f"{name}-{key[:32]}.pt"
    if path.exists():
        try:
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        except DAMAGED as error:
            log.warning("%s cannot be read (%s) and is made anew", path, error)
    made = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        torch.save(made, beside)
        beside.replace(path)
    except (OSError, RuntimeError) as error:
        log.warning("%s cannot be kept: %s", path, error)
    return made
