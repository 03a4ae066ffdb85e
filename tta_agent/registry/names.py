"""Versions as the log of a server names them, to numbers of the registry."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from tta_agent.core.errors import RegistryError
from tta_agent.core.types import FOREIGN
from tta_agent.registry.reader import ALIASES, Reader

FRESH_S = 1.0  # an alias moves, and a version is added, at most so long before it is known here
LEAST_DIGITS = 8  # of a hash
log = logging.getLogger(__name__)


class VersionNames:
    """Lookup of the number that a version in the log has.

    Args:
        registry: of the versions.
        source: name of the deployed model's version, 0, in the log; None where the server says 0. Where it is a
            number, version n of the registry has this number + n there.
        clock: seconds that never go back.
    """

    def __init__(
        self, registry: Reader, source: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry, self._source, self._clock = registry, source, clock
        self._first = int(source) if source is not None and source.isdecimal() else 0
        self._known: dict[str, int] = {}
        self._read_s = -FRESH_S
        self._told: set[str] = set()

    def __call__(self, name: str) -> int:
        """Number of the version, by number, alias, or the first digits of its hash; `FOREIGN` for any other name."""
        if self._source is not None and name == self._source:
            return 0
        if name.isdecimal():
            number = int(name) - self._first
            return number if number >= 0 else FOREIGN
        if self._clock() - self._read_s >= FRESH_S:
            self._read()
        digits = name.removeprefix("sha256:").lower()
        by_hash = [number for known, number in self._known.items() if known.startswith(f"#{digits}")]
        if len(digits) >= LEAST_DIGITS and len(by_hash) == 1:
            return by_hash[0]
        return self._known.get(name, self._foreign(name))

    def _read(self) -> None:
        """Aliases and hashes; the last ones that could be read stay."""
        self._read_s = self._clock()
        try:
            aliases = {name: at for name, at in self._registry.aliases().items() if at is not None}
            hashed = {number for known, number in self._known.items() if known.startswith("#")}
            new = [number for number in self._registry.numbers() if number not in hashed]
            hashes = {f"#{self._registry.manifest(n)['sha256']}": n for n in new}
        except (RegistryError, OSError, KeyError) as error:
            log.warning("names of versions in the stream cannot be looked up: %s", error)
            return
        kept = {name: number for name, number in self._known.items() if name not in ALIASES}
        self._known = {**kept, **hashes, **aliases}

    def _foreign(self, name: str) -> int:
        if name not in self._known and name not in self._told and len(self._told) < 100:
            self._told.add(name)
            log.warning(
                "version %s of the stream is not in the registry: its answers count as foreign; "
                "TTA_MODEL__SERVED_VERSION names the deployed model's",
                name,
            )
        return FOREIGN
