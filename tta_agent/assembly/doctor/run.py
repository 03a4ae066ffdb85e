"""All checks of the doctor, in the order in which a failure of one explains those of the next."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from tta_agent.assembly.doctor import broker, finding, model, records, volume
from tta_agent.assembly.doctor.finding import CheckFinding
from tta_agent.core.errors import ConfigError, TtaError, nearest
from tta_agent.settings.schema import Settings

GROUPS = ("settings", "volume", "broker", "model", "records", "server")


def examine(settings: Settings, only: Sequence[str] = (), skip: Sequence[str] = ()) -> Iterator[CheckFinding]:
    """Findings, one after the other, as they are made.

    Args:
        only: groups of checks; all where empty.
        skip: groups that are left out.

    Raises:
        ConfigError: no group of that name.
    """
    for name in (*only, *skip):
        if name not in GROUPS:
            raise ConfigError(f"there is no check {name!r}; {nearest(name, GROUPS)}")
    for name, (subject, look, fix) in _checks(settings).items():
        if name not in skip and (not only or name in only):
            yield from finding.guarded(name, subject, look, fix)


def _checks(s: Settings) -> Mapping[str, tuple[str, finding.Check, str]]:
    from tta_agent.assembly.copy import load_source

    loaded = functools.cache(lambda: load_source(s))

    def perhaps() -> object:
        """The model; None where it cannot be had, which its own check tells."""
        try:
            return loaded()
        except (TtaError, OSError):
            return None

    tolerant: Callable[[], object] = perhaps
    return {
        "settings": ("settings", lambda: volume.settings(s), ""),
        "volume": ("TTA_STORE__PATH", lambda: volume.volume(s), "see TTA_STORE__PATH"),
        "broker": (
            {"kafka": s.stream.bootstrap_servers or "", "http": "receiver"}.get(
                s.stream.kind, "embedded log"
            ),
            lambda: broker.broker(s),
            "see TTA_STREAM__*",
        ),
        "model": ("model", lambda: model.model(s, loaded), "see TTA_MODEL__*"),
        "records": (s.stream.topic, lambda: records.records(s, tolerant), "see `tta-agent peek`"),  # type: ignore[arg-type]
        "server": (s.swap.url, lambda: model.server(s), "see TTA_SWAP__*"),
    }
