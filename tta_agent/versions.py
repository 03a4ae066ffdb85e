"""The ledger: immutable, content-addressed graphs with a manifest, and the aliases that point at them.

    versions/
      000003/model.onnx manifest.json     written once, by rename of a finished folder
      000003/verdict.json                 written once, when the candidate's trial ends
      aliases.json                        source, serving, previous, candidate
      golden.npy                          fixed inputs for verifying swaps

Integers count up; version 0 is the source and is never deleted. Rejected candidates lose their graph and keep
their explanation, the newest `KEEP_REJECTED` of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tta_agent.errors import LedgerError
from tta_agent.files import sync_folder, write_atomic
from tta_agent.types import Array, Finding, Version

Alias = Literal["source", "serving", "previous", "candidate"]
Proof = Literal["source", "certified", "rehearsed", "guarded", "none"]
KEEP_REJECTED = 50


class Ledger:
    """The versions of one model under one folder, shared by processes.

    Raises:
        LedgerError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(f"TTA_STORE__PATH: cannot make {folder}: {error.strerror}") from None

    def ensure_source(self, fingerprint: str, make: Callable[[], tuple[bytes, Array]]) -> Version:
        """Version 0, made by `make() -> (graph, golden inputs)` where it is not there yet.

        Raises:
            LedgerError: the folder holds the versions of another model.
        """
        with self._lock():
            if not self._home(0).exists():
                graph, golden = make()
                np.save(self.folder / "golden.npy", golden)
                self._write(0, graph, {"fingerprint": fingerprint, "parent": None})
                self.conclude(0, "source", "source", [], by="deployment")
                self._point({"source": 0, "serving": 0})
        if self.manifest(0)["fingerprint"] != fingerprint:
            raise LedgerError(
                f"{self.folder} holds versions of another model; choose another TTA_STORE__PATH, or remove the folder"
            )
        return self.get(0)

    def add(self, graph: bytes, parent: Version, manifest: dict[str, Any]) -> Version:
        """A new candidate; durable when this returns."""
        with self._lock():
            number = max(self.numbers()) + 1
            self._write(number, graph, {**manifest, "parent": parent.number, "parent_sha256": parent.sha256})
            self._point({"candidate": number})
        return self.get(number)

    def conclude(
        self, number: int, outcome: str, proof: Proof, findings: Sequence[Finding], *, by: str = "agent"
    ) -> None:
        """Write how the trial of a version ended. Once: a verdict is not changed."""
        path = self._home(number) / "verdict.json"
        if path.exists():
            raise LedgerError(f"version {number} already has a verdict: {path.read_text()}")
        verdict = {"outcome": outcome, "proof": proof, "by": by, "time": time.time()}
        write_atomic(
            path, json.dumps({**verdict, "findings": [asdict(f) for f in findings]}, indent=1).encode()
        )

    def reject(self, number: int, outcome: str, findings: Sequence[Finding]) -> None:
        """Conclude without proof, and keep the explanation only."""
        self.conclude(number, outcome, "none", findings)
        (self._home(number) / "model.onnx").unlink(missing_ok=True)
        with self._lock():
            self._point({"candidate": None})
        gone = [n for n in self.numbers() if not (self._home(n) / "model.onnx").exists()]
        for old in gone[:-KEEP_REJECTED]:
            shutil.rmtree(self._home(old), ignore_errors=True)

    def serve(self, number: int) -> None:
        """Move the alias `serving`; what served before becomes `previous`."""
        with self._lock():
            before = self.aliases().get("serving")
            clear = {"candidate": None} if self.aliases().get("candidate") == number else {}
            if before != number:
                self._point({"previous": before, "serving": number, **clear})

    def get(self, number: int) -> Version:
        """One version.

        Raises:
            LedgerError: there is none, or its graph is gone.
        """
        home = self._home(number)
        if not (home / "model.onnx").exists():
            have = [n for n in self.numbers() if (self._home(n) / "model.onnx").exists()]
            raise LedgerError(f"version {number} is not in {self.folder}; there are {have}")
        proof: Proof = self.verdict(number).get("proof", "none")
        return Version(number, self.manifest(number)["sha256"], home / "model.onnx", proof)

    def numbers(self) -> list[int]:
        """All versions, rejected ones included."""
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdecimal())

    def undecided(self) -> list[int]:
        """Candidates without a verdict."""
        return [number for number in self.numbers() if not self.verdict(number)]

    def aliases(self) -> dict[str, int | None]:
        """Where each alias points."""
        path = self.folder / "aliases.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def manifest(self, number: int) -> dict[str, Any]:
        """How a version came to be."""
        return self._json(number, "manifest.json")

    def verdict(self, number: int) -> dict[str, Any]:
        """How its trial ended; empty while it runs."""
        return self._json(number, "verdict.json") if (self._home(number) / "verdict.json").exists() else {}

    def rows(self) -> list[dict[str, Any]]:
        """One row a version, for people and scripts."""
        alias: dict[int | None, list[str]] = {}
        for name, number in self.aliases().items():
            alias.setdefault(number, []).append(name)
        return [self._row(number, ", ".join(alias.get(number, []))) for number in self.numbers()]

    def _row(self, number: int, alias: str) -> dict[str, Any]:
        verdict = self.verdict(number)
        findings = verdict.get("findings", [])
        telling = [f for f in findings if f["verdict"] == "fail"] or findings[-1:]
        return {
            "version": number,
            "alias": alias,
            "parent": self.manifest(number)["parent"],
            "outcome": verdict.get("outcome", "under test"),
            "proof": verdict.get("proof"),
            "by": verdict.get("by"),
            "reason": telling[0]["reason"] if telling else None,
        }

    def golden_inputs(self) -> Array:
        """Fixed inputs, [N, ...] float32."""
        return np.asarray(np.load(self.folder / "golden.npy"))

    def _json(self, number: int, name: str) -> dict[str, Any]:
        path = self._home(number) / name
        try:
            return dict(json.loads(path.read_text()))
        except (OSError, ValueError) as error:
            raise LedgerError(f"{path} cannot be read: {error}") from None

    def _home(self, number: int) -> Path:
        return self.folder / f"{number:06d}"

    def _write(self, number: int, graph: bytes, manifest: dict[str, Any]) -> None:
        # staged under a name that is no number, so that nobody takes a half-written folder for a version
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=self.folder))
        head = {"number": number, "sha256": hashlib.sha256(graph).hexdigest(), "bytes": len(graph)}
        write_atomic(staging / "model.onnx", graph)
        text = json.dumps({**head, "time": time.time(), **manifest}, indent=1, default=str)
        write_atomic(staging / "manifest.json", text.encode())
        staging.chmod(0o755)
        staging.rename(self._home(number))
        sync_folder(self.folder)

    def _point(self, aliases: dict[str, int | None]) -> None:
        write_atomic(self.folder / "aliases.json", json.dumps({**self.aliases(), **aliases}).encode())

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
