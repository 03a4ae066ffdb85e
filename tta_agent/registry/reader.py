"""Reading half of the registry."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tta_agent.core import json_text
from tta_agent.core.errors import RegistryError, StoreError, nearest
from tta_agent.core.types import Array, Proof, Version
from tta_agent.models.data_files import DataFiles
from tta_agent.registry import artefacts, hash_chain, history, shared_data
from tta_agent.registry.cache import Cache, same
from tta_agent.registry.rows import rows
from tta_agent.registry.storage import MANIFEST, Storage, home

Alias = Literal["source", "serving", "previous", "candidate"]
ALIASES: tuple[Alias, ...] = ("source", "serving", "previous", "candidate")
STANDS: tuple[Proof, ...] = ("certified", "rehearsed", "source")  # what a roll-back may go to


class Reader:
    """Reading half of `ModelRegistry`: no method changes the storage."""

    storage: Storage
    cache: Cache
    _known: dict[tuple[int, str], dict[str, Any]]

    def get(self, number: int) -> Version:
        """Version by its number, its graph on this machine and verified.

        Raises:
            RegistryError: there is none, its graph is gone, or it is damaged.
        """
        self._must_have(number)
        sha256, proof = self.manifest(number)["sha256"], self.verdict(number).get("proof", "none")
        data = self.data()
        try:
            path = self._whole(number, sha256, data)
            shared_data.bring(self.storage, self.cache, path.parent, data)
        except StoreError:
            raise
        except RegistryError as error:
            raise RegistryError(f"version {number} is damaged: {error}") from None
        return Version(number, sha256, path, proof, data)

    def _whole(self, number: int, sha256: str, data: Mapping[str, str]) -> Path:
        """Graph of a version in the store, or in the cache where it is not whole there."""
        path = self.storage.path(f"{home(number)}/{artefacts.FULL}")
        with_data = number == 0 or not data
        if path is not None and with_data and path.exists() and self.cache.sound(path, sha256):
            return path
        return self.cache.fetch(sha256, lambda: artefacts.unpack(self.storage, number, self._skeleton))

    def data(self) -> dict[str, str]:
        """Hash of each data file that all versions share, by name; most models have none."""
        return shared_data.hashes(self.manifest(0))

    def data_files(self) -> DataFiles | None:
        """The same files on this machine, verified, for graphs that are in no file yet."""
        names = tuple(self.data())
        return DataFiles(self.get(0).path.parent, names) if names else None

    def _skeleton(self) -> bytes:
        return self.get(0).path.read_bytes()

    def has_graph(self, number: int) -> bool:
        """Whether the graph of a version is kept, not its explanation only."""
        return artefacts.present(self.storage, number)

    def _must_have(self, number: int) -> None:
        with self.storage.glance():
            numbers = self.numbers()
            if number not in numbers or not self.has_graph(number):
                have = [n for n in numbers if self.has_graph(n)]
                raise RegistryError(self._lacks(f"version {number} is not in {self.storage.where}", have))

    def _lacks(self, told: str, have: list[int]) -> str:
        return f"{told}; there are {have}" if have else self.nothing()

    def nothing(self) -> str:
        """Sentence about a registry without versions."""
        return (
            f"no version is in {self.storage.where} yet: `tta-agent run` or `serve` writes the first"
            " (TTA_STORE__PATH, TTA_STORE__VERSIONS)"
        )

    def numbers(self) -> list[int]:
        """Numbers of all versions, rejected ones included."""
        return self.storage.numbers()

    def number_of(self, name: str) -> int:
        """Number of a version, by number or alias.

        Raises:
            RegistryError: there is none of that name.
        """
        if name.isdecimal():
            if int(name) in self.numbers():
                return int(name)
            raise RegistryError(self._lacks(f"there is no version {name}", self.numbers()))
        if name not in ALIASES:
            raise RegistryError(f"{name!r} is neither a number nor an alias; {nearest(name, ALIASES)}")
        number = self.aliases().get(name)
        if number is None:
            raise RegistryError(f"no version is {name} now; `tta-agent versions list` shows all")
        return number

    def undecided(self) -> list[int]:
        """Numbers of the candidates without a verdict."""
        with self.storage.glance():
            return [number for number in self.numbers() if not self.verdict(number)]

    def aliases(self) -> dict[str, int | None]:
        """Version number of each alias."""
        found = self._small("aliases.json", {})
        if not isinstance(found, dict) or not all(at is None or _is_number(at) for at in found.values()):
            raise RegistryError(
                f"{self.storage.where}/aliases.json is damaged: expected a version for each alias"
            )
        return found

    def pinned(self) -> list[int]:
        """Numbers of the versions that are pinned: retention keeps them."""
        found = self._small("pins.json", [])
        if not isinstance(found, list) or not all(map(_is_number, found)):
            raise RegistryError(f"{self.storage.where}/pins.json is damaged: expected a list of versions")
        return sorted(found)

    def manifest(self, number: int) -> dict[str, Any]:
        """Manifest of a version: its origin."""
        return self._document(number, MANIFEST)

    def verdict(self, number: int) -> dict[str, Any]:
        """Verdict on a version: how its evaluation ended; empty while it runs."""
        known = (number, hash_chain.VERDICT) in self._known
        there = known or self.storage.exists(f"{home(number)}/{hash_chain.VERDICT}")
        return self._document(number, hash_chain.VERDICT) if there else {}

    def _document(self, number: int, name: str) -> dict[str, Any]:
        if self.storage.path("") is not None:
            return hash_chain.document(self.storage, number, name)
        if (number, name) not in self._known:  # written once, and far away
            self._known[number, name] = hash_chain.document(self.storage, number, name)
        return dict(self._known[number, name])

    def withdrawal(self, number: int) -> dict[str, Any]:
        """Withdrawal of a version as {time, by, reason}; empty where it was not taken back."""
        return history.withdrawal(self.storage, number)

    def is_withdrawn(self, number: int) -> bool:
        """Whether a version was taken back after it had served."""
        return bool(self.withdrawal(number))

    def served_by(self) -> str:
        """Author of the last change of service; `agent` where no change is known."""
        changes = history.entries(self.storage)
        return str(changes[-1]["by"]) if changes else "agent"

    def last_proven(self) -> Version:
        """Rollback target: of the versions that labels or rehearsals have proven (or the source), that were not taken
        back and still have their graph, the one that served last."""
        with self.storage.glance():
            return self.get(self._last_proven())

    def _last_proven(self) -> int:
        proven = [n for n in self.numbers() if self.verdict(n).get("proof") in STANDS]
        order = history.served(self.storage, proven, self.aliases().get("serving"))
        for number in reversed(order):
            if number in proven and not self.is_withdrawn(number) and self.has_graph(number):
                return number
        return 0

    def rows(self) -> list[dict[str, Any]]:
        """Rows of all versions, one each, for people and scripts."""
        with self.storage.glance():
            return rows(self)

    def golden_inputs(self) -> Array:
        """Fixed inputs, [N, ...] float32."""
        return np.asarray(np.load(io.BytesIO(self.storage.read("golden.npy"))))

    def check(self, number: int) -> str:
        """Verify one version: graph and parent against its manifest.

        Returns:
            "sound", or "explanation only" where the graph was given up.

        Raises:
            RegistryError: it is damaged, or its parent is; the message names which.
        """
        manifest = hash_chain.document(self.storage, number, MANIFEST)
        self.verdict(number)
        hash_chain.prove(self.storage, number, manifest)
        if not self.has_graph(number):
            return "explanation only"
        try:
            same(artefacts.unpack(self.storage, number, self._skeleton), manifest["sha256"])
            shared_data.check(self.storage, shared_data.hashes(manifest))
        except StoreError:
            raise
        except RegistryError as error:
            raise RegistryError(f"version {number} is damaged: {error}") from None
        return "sound"

    def _small(self, name: str, otherwise: Any) -> Any:
        try:
            return json_text.parse(self.storage.read(name))
        except FileNotFoundError:
            return otherwise
        except ValueError as error:
            raise RegistryError(f"{self.storage.where}/{name} cannot be read: {error}") from None

    @property
    def folder(self) -> Path:
        """Local folder; for other stores their URL, to be shown only."""
        return as_path(self.storage)

    def _needed(self) -> Collection[str]:
        needed = set()
        for number in {0, *self.aliases().values()} - {None}:
            with contextlib.suppress(RegistryError):  # a damaged one needs no copy
                needed.add(str(self.manifest(int(number or 0))["sha256"]))
        return needed


def _is_number(value: object) -> bool:
    return type(value) is int and value >= 0


def as_path(storage: Storage) -> Path:
    """Folder of a local registry; for other stores their URL, to be shown only."""
    return storage.path("") or Path(storage.where)
