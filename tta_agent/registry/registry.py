"""Model registry: immutable, content-addressed graphs with a manifest, and the aliases that point at them.

    versions/
      000000/model.onnx manifest.json     the source: the skeleton of all others; above 2 GiB with data files
      000003/tensors.safetensors manifest.json   a version: what it changed; written once
      000003/verdict.json                 written once, when the candidate's evaluation ends
      000003/withdrawn.json               written once, if it is taken back
      aliases.json pins.json              source, serving, previous, candidate; versions that must stay
      history.jsonl                       changes of service
      golden.npy                          fixed inputs for verifying swaps

Integers count up; version 0 is the source and is never deleted. A graph that is no other tensors in the skeleton is
kept whole. Rejected candidates lose their graph and keep their explanation, the newest `KEEP_REJECTED` of them.
"""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tta_agent.core.errors import RegistryError
from tta_agent.core.types import Array, GateResult, Proof, Version
from tta_agent.models.data_files import DataFiles
from tta_agent.registry import artefacts, hash_chain, history
from tta_agent.registry.cache import Cache
from tta_agent.registry.reader import Alias, Reader
from tta_agent.registry.retention import KEEP_REJECTED, Plan, plan
from tta_agent.registry.storage import MANIFEST, Storage, home, open_storage

__all__ = ["KEEP_REJECTED", "Alias", "ModelRegistry"]


class ModelRegistry(Reader):
    """Versions of one model. A local folder is shared by processes; other stores take one writer.

    Args:
        where: local folder, or URL of any fsspec store.
        cache: local folder for full graphs; `.cache` in a local registry, else a new temporary one.
        stamp: goes into the manifest of every candidate.

    Raises:
        RegistryError: the folder cannot be written, or the store cannot be reached.
    """

    def __init__(
        self,
        where: str | Path | Storage,
        cache: Path | None = None,
        *,
        stamp: Mapping[str, Any] | None = None,
    ) -> None:
        self.storage, self._stamp = open_storage(where), dict(stamp or {})
        self._known = {}
        self._check: Callable[[], None] = lambda: None
        self.cache = Cache(cache or self._own_cache(), self._needed)

    def _own_cache(self) -> Path:
        return self.storage.path(".cache") or Path(tempfile.mkdtemp(prefix="tta-graphs-"))

    def fence(self, check: Callable[[], None]) -> None:
        """Call `check` before every change; it raises where another agent has taken over."""
        self._check = check

    def _writing(self) -> AbstractContextManager[None]:
        self._check()
        return self.storage.lock()

    def ensure_source(
        self, fingerprint: str, make: Callable[[], tuple[bytes, Array]], data: DataFiles | None = None
    ) -> Version:
        """Version 0, made by `make() -> (graph, golden inputs)` where it does not exist yet.

        Args:
            data: files with large tensors of the graph, which are copied.

        Raises:
            RegistryError: the registry holds the versions of another model.
        """
        with self._writing():
            if 0 not in self.numbers():
                graph, golden = make()
                buffer = io.BytesIO()
                np.save(buffer, golden)
                self.storage.write("golden.npy", buffer.getvalue())
                self._write(
                    0, artefacts.pack(graph, None, data), {"fingerprint": fingerprint, "parent": None}
                )
            if not self.verdict(0):  # a crash may have come between the two
                self._conclude(0, "source", "source", [], by="deployment")
            if not self.aliases():
                self._point({"source": 0, "serving": 0})
        if self.manifest(0)["fingerprint"] != fingerprint:
            raise RegistryError(
                f"{self.storage.where} holds versions of another model; choose another TTA_STORE__PATH"
                " (or TTA_STORE__VERSIONS), or remove it"
            )
        return self.get(0)

    def add(self, graph: bytes, parent: Version, manifest: Mapping[str, Any]) -> Version:
        """Add a candidate; durable when this returns."""
        skeleton = self.get(0).path.read_bytes()
        told = {**self._stamp, **manifest, "parent": parent.number, "parent_sha256": parent.sha256}
        with self._writing():
            number = max(self.numbers()) + 1
            told |= hash_chain.links(self.storage, parent.number)
            self._write(number, artefacts.pack(graph, skeleton), told)
            self._point({"candidate": number})
        return self.get(number)

    def conclude(
        self,
        number: int,
        outcome: str,
        proof: Proof,
        findings: Sequence[GateResult],
        *,
        by: str = "agent",
        counts: Mapping[str, float] | None = None,
        expires_s: float | None = None,
    ) -> None:
        """Write the verdict on a version, once: it is never changed.

        Args:
            outcome: a word or two: certified, rejected, expired, ...
            by: who or what approved it.
            counts: evidence of the proof: `wins`, `losses`, `labels`, `records`, as far as known.
            expires_s: when a guarded version must have been proven or be taken back, seconds since the epoch.
        """
        with self._writing():
            self._conclude(number, outcome, proof, findings, by=by, counts=counts, expires_s=expires_s)

    def _conclude(
        self, number: int, outcome: str, proof: Proof, findings: Sequence[GateResult], *, by: str, **more: Any
    ) -> None:
        if found := self.verdict(number):
            raise RegistryError(f"version {number} already has a verdict: {json.dumps(found)}")
        verdict = {"outcome": outcome, "proof": proof, "by": by, "time": time.time()}
        known = {name: value for name, value in more.items() if value is not None}
        told = {**verdict, **known, "findings": [asdict(f) for f in findings]}
        self.storage.write(f"{home(number)}/{hash_chain.VERDICT}", json.dumps(told, indent=1).encode())

    def reject(self, number: int, outcome: str, findings: Sequence[GateResult]) -> None:
        """Conclude a version without proof, and keep its explanation only.

        A candidate that somebody has promoted by force meanwhile serves, and stays; so does one that was proven,
        but could not be brought into service. May be done again where it was cut off.
        """
        with self._writing():
            if self.aliases().get("candidate") == number:
                self._point({"candidate": None})
            known = self.verdict(number)
            if known.get("outcome") == "forced" or known.get("proof", "none") != "none":
                return
            if not known:
                self._conclude(number, outcome, "none", findings, by="agent")
            artefacts.discard(self.storage, number)
            if len(self.numbers()) > KEEP_REJECTED:
                for old in self._plan(len(self.numbers())).versions:
                    self.storage.remove_version(old)

    def serve(self, number: int, *, by: str = "agent", reason: str = "") -> None:
        """Move the alias `serving`; the version that served before becomes `previous`.

        Raises:
            RegistryError: there is no such version, or its graph is gone.
        """
        with self._writing():
            before = self.aliases().get("serving")
            clear = {"candidate": None} if self.aliases().get("candidate") == number else {}
            if before != number:
                self._must_have(number)
                # first: an alias that the history does not know is not believed
                before = history.note(self.storage, number, before, by, reason)
                self._point({"previous": before, "serving": number, **clear})

    def take_back(self, number: int, reason: str, *, by: str = "agent") -> None:
        """Mark a version as withdrawn: `last_proven` passes it over from now on. The first reason stays.

        The source is never marked, since there must be something left to go back to.

        Raises:
            RegistryError: there is no such version.
        """
        if number not in self.numbers():
            raise RegistryError(f"version {number} cannot be taken back; there are {self.numbers()}")
        if number:
            with self._writing():
                history.withdraw(self.storage, number, reason, by)

    def pin(self, number: int) -> None:
        """Pin a version: retention keeps it.

        Raises:
            RegistryError: there is no such version, or its graph is gone.
        """
        self._must_have(number)
        with self._writing():
            self._put_small("pins.json", sorted({*self.pinned(), number}))

    def unpin(self, number: int) -> None:
        """Unpin a version: retention may remove it."""
        with self._writing():
            self._put_small("pins.json", [n for n in self.pinned() if n != number])

    def gc(self, keep: int, *, dry_run: bool = False) -> Plan:
        """Remove graphs of all but the newest `keep` proven versions, and the oldest explanations of rejected ones.

        Source, serving, previous, candidate, pinned and undecided ones and the rollback target stay.
        """
        with self._writing():
            found = self._plan(keep)
            if not dry_run:
                for number in found.graphs:
                    artefacts.discard(self.storage, number)
                for number in found.versions:
                    self.storage.remove_version(number)
                self.storage.sweep()
        if not dry_run:
            self.cache.prune()
        return found

    def _plan(self, keep: int) -> Plan:
        parents = {self.manifest(n)["parent"] for n in self.numbers()}
        undecided = self.undecided()
        held = {0, *self.aliases().values(), *self.pinned(), *undecided, self._last_proven()}
        decided = [n for n in self.numbers() if n not in undecided]
        kept = [n for n in decided if self.has_graph(n)]
        gone = set(decided) - set(kept) - parents
        rejected = [n for n in gone if self.verdict(n)["proof"] == "none"]
        return plan(kept, rejected, {n for n in held if n is not None}, keep)

    def _write(self, number: int, artefact: artefacts.Packed, manifest: Mapping[str, Any]) -> None:
        files, head = artefact
        told = {"number": number, **head, "time": time.time(), **manifest}
        self.storage.add(number, {**files, MANIFEST: json.dumps(told, indent=1, default=str).encode()})

    def _point(self, aliases: Mapping[str, int | None]) -> None:
        self._put_small("aliases.json", {**self.aliases(), **aliases})

    def _put_small(self, name: str, value: Any) -> None:
        self.storage.write(name, json.dumps(value).encode())
