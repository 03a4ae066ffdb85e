"""Who is measured: a method with the settings that a user would run it with."""

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
# What a protocol needs beyond the contender's own settings.
PROTOCOL_SETTINGS: dict[str, dict[str, Any]] = {"single": {"adapt": {"batch_size": 1, "window": WINDOW}}}


@dataclass(frozen=True, slots=True)
class Contender:
    """A name for the tables, and settings by group that win over environment and preset."""

    name: str
    flags: Mapping[str, Any]

    def settings(self, model: Mapping[str, Any], protocol: str, store: Path | None = None) -> Settings:
        """Everything that the engine is built from.

        Args:
            model: settings of the group `model`.
            protocol: may need settings of its own.
            store: folder for what methods keep of the source.

        Raises:
            ConfigError: a setting that does not fit.
        """
        extra = PROTOCOL_SETTINGS.get(protocol, {})
        fixed = {"model": model, "mode": "shadow", **({"store": {"path": store}} if store else {})}
        return env.load(**merged(merged(self.flags, extra), fixed))


def parse(methods: str, preset: str | None = None) -> list[Contender]:
    """Contenders of a comma-separated list.

    `tent` is a method under the default preset, `tent@PRESET` under another one, `@PRESET` a preset as it
    stands, `FILE.yaml` settings by group as in a preset, `all` everyone who is installed.

    Args:
        methods: what the user wrote.
        preset: for those that name none.

    Raises:
        ConfigError: no such method, preset or file; says what there is.
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
    """Every adapter that is installed, in the order of the tables."""
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
