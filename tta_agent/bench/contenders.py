"""Contenders of a benchmark: methods with the settings that a user would run them with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tta_agent.core import plugins
from tta_agent.core.errors import ConfigError
from tta_agent.settings import env, named
from tta_agent.settings.named import merged
from tta_agent.settings.schema import Settings

FIRST = ("frozen", "norm", "tent", "deyo", "rmt", "adamixbn", "tesla", "eata", "sar", "cotta", "roid")
WINDOW = 64  # images that a stream of single ones is looked at through
AS_GIVEN: dict[str, dict[str, Any]] = {"adapt": {"window": 1}}  # small batches too, as papers take them
# What a protocol needs beyond the contender's own settings.
PROTOCOL_SETTINGS: dict[str, dict[str, Any]] = {"single": {"adapt": {"batch_size": 1, "window": WINDOW}}}


@dataclass(frozen=True, slots=True)
class Contender:
    """Method or policy that is measured: its name, and settings that win over environment and preset."""

    name: str
    flags: Mapping[str, Any]

    def settings(self, model: Mapping[str, Any], protocol: str, store: Path | None = None) -> Settings:
        """Settings of the agent for one stream.

        Args:
            model: settings of the group `model`.
            protocol: of `arrivals.PROTOCOLS`; some need settings of their own.
            store: folder for the statistics of the source that methods keep.

        Raises:
            ConfigError: a setting that does not fit.
        """
        flags = merged(merged(AS_GIVEN, self.flags), PROTOCOL_SETTINGS.get(protocol, {}))
        fixed = {"model": model, "mode": "shadow", **({"store": {"path": store}} if store else {})}
        return env.load(**merged(flags, fixed))


def parse(methods: str, preset: str | None = None) -> list[Contender]:
    """Contenders of a comma-separated list.

    `tent` is a method under the default preset, `tent@PRESET` under another one, `@PRESET` a preset as it
    stands, `FILE.yaml` settings by group as in a preset, `all` every installed adapter.

    Args:
        methods: the list.
        preset: of the methods that name none.

    Raises:
        ConfigError: no such method, preset or file; names the nearest valid choice.
    """
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if "all" in names:
        names = [name for given in names for name in (everyone() if given == "all" else [given])]
    found = [_contender(name, preset) for name in dict.fromkeys(names)]
    if not found:
        raise ConfigError(f"--methods {methods!r} names nobody; valid: all, {', '.join(everyone())}")
    called = [contender.name for contender in found]
    twice = [name for name in called if called.count(name) > 1]
    if twice:
        raise ConfigError(f"--methods has two contenders called {twice[0]!r}: rename a file")
    return found


def everyone() -> list[str]:
    """Names of the installed adapters, in the order of the tables."""
    there = plugins.available("adapters")
    return [name for name in FIRST if name in there] + [name for name in there if name not in FIRST]


def _contender(text: str, preset: str | None) -> Contender:
    if named.is_file(text):
        found = named.of_file(Path(text), "--methods")
    else:
        method, _, own = text.partition("@")
        policy = own or preset
        found = named.of_method(method, policy) if method else named.of_preset(str(policy))
    return Contender(found.name, found.flags)
