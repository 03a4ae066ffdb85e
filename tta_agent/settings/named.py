"""Settings by a short name: a preset, a method under a preset, or a file of settings by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tta_agent.core import plugins
from tta_agent.core.errors import ConfigError, nearest
from tta_agent.settings import env
from tta_agent.settings.presets import presets
from tta_agent.settings.schema import Settings


@dataclass(frozen=True, slots=True)
class Named:
    """Settings by group under a short name; they win over environment and preset."""

    name: str
    flags: Mapping[str, Any]

    def settings(self, **fixed: Any) -> Settings:
        """All settings; `fixed` wins.

        Raises:
            ConfigError: a setting that does not fit.
        """
        return env.load(**merged(self.flags, fixed))


def policy(text: str) -> Named:
    """Settings of `PRESET`, `METHOD@PRESET`, `METHOD` under the preset of TTA_POLICY, or `FILE.yaml`.

    Raises:
        ConfigError: no such preset, method or file; says what there is.
    """
    if is_file(text):
        return of_file(Path(text), "--policy")
    if "@" in text:
        method, _, preset = text.partition("@")
        return of_method(method, preset) if method else of_preset(preset)
    if text in presets():
        return of_preset(text)
    if text.rpartition(":")[2] and (":" in text or text in plugins.available("adapters")):
        return of_method(text)
    there = [*presets(), *plugins.available("adapters")]
    raise ConfigError(f"no preset or method {text!r}; {nearest(text, there)} (or a .yaml of settings)")


def policies(texts: list[str]) -> list[Named]:
    """Settings of several policies, each under a name of its own.

    Raises:
        ConfigError: as `policy`, and where two names are equal.
    """
    found = [policy(text) for text in texts]
    called = [one.name for one in found]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two policies are called {twice!r}: give each once, or rename a file")
    return found


def is_file(text: str) -> bool:
    """Whether the text names a YAML file."""
    return text.endswith((".yaml", ".yml"))


def of_preset(name: str) -> Named:
    """Settings of a preset. Raises ConfigError where there is none."""
    _refuse_unknown(name)
    return Named(name, {"policy": name})


def of_method(method: str, preset: str | None = None) -> Named:
    """Settings of a method (name or module:Class) under a preset, or under that of the environment.

    Raises:
        ConfigError: there is no such method or preset.
    """
    if preset is not None:
        _refuse_unknown(preset)
    plugins.load("adapters", method)
    name = method.rpartition(":")[2]
    flags: dict[str, Any] = {"adapt": {"method": method}}
    return Named(f"{name}@{preset}", {"policy": preset, **flags}) if preset else Named(name, flags)


def of_file(path: Path, option: str) -> Named:
    """Settings by group from a YAML file, under the file's name.

    Args:
        option: of the command line, for messages.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        flags = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{option} {path}: cannot read it ({error})") from None
    if not isinstance(flags, dict) or not all(isinstance(name, str) for name in flags):
        raise ConfigError(
            f"{option} {path}: expected settings by group, as in a preset: adapt: {{method: tent}}"
        )
    return Named(path.stem, flags)


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; `other` wins."""
    both = dict(one)
    for name, value in other.items():
        inner = both.get(name)
        both[name] = (
            merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
        )
    return both


def _refuse_unknown(preset: str) -> None:
    if preset not in presets():
        raise ConfigError(f"no preset {preset!r}; {nearest(preset, presets())}")
