"""Plugins by name: entry points of the groups `tta_agent.<kind>`, or `module:Class` without one.

Heavy imports stay behind `load`, so that --help starts fast.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Literal

from tta_agent.core.errors import ConfigError, PluginNotFound, nearest

Kind = Literal["adapters", "selectors", "schedules", "gates", "codecs", "drivers", "detectors"]


def available(kind: Kind) -> list[str]:
    """Names of the installed plugins of a kind, sorted."""
    return sorted({entry.name for entry in entry_points(group=f"tta_agent.{kind}")})


def load(kind: Kind, name: str) -> Any:
    """Class of a plugin.

    Args:
        name: of an entry point, or `module:Class`.

    Raises:
        PluginNotFound: no such name, module or class, or it cannot be imported; says what there is.
    """
    if ":" in name:
        return import_path(name)
    found = entry_points(group=f"tta_agent.{kind}", name=name)
    if not found:
        what = kind.removesuffix("s")
        raise PluginNotFound(
            f"no {what} is called {name!r}; {nearest(name, available(kind))}, or module:Class"
        )
    entry = next(iter(found))
    return import_path(f"{entry.module}:{entry.attr}")


def import_path(path: str) -> Any:
    """Object at `module:attribute`.

    Raises:
        PluginNotFound: it cannot be imported.
    """
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise PluginNotFound(f"cannot import {path!r} (expected module:name): {error}") from None


def make(kind: Kind, name: str, options: Mapping[str, Mapping[str, Any]], *args: Any) -> Any:
    """Instance of a plugin, built as `Class(*args, **options[name])`.

    Args:
        options: constructor arguments by plugin name, as the settings hold them.

    Raises:
        PluginNotFound: as `load`.
        ConfigError: an argument that the class does not take, or a value that it refuses.
    """
    given = dict(options.get(name, {}))
    try:
        return load(kind, name)(*args, **given)
    except (TypeError, ValueError) as error:
        said = {
            option: value for option, value in given.items() if option != "origin"
        }  # holds whole data sets
        raise ConfigError(f"{kind.removesuffix('s')} {name!r} with options {said}: {error}") from None
