"""A name or `module:Class` to a class. Heavy imports stay behind `load`, so that --help starts fast."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Literal

from tta_agent.core.errors import ConfigError, PluginNotFound, nearest

Kind = Literal["adapters", "selectors", "schedules", "gates"]


def available(kind: Kind) -> list[str]:
    """Names that installed packages announce."""
    return sorted(entry.name for entry in entry_points(group=f"tta_agent.{kind}"))


def load(kind: Kind, name: str) -> Any:
    """The class behind a name.

    Raises:
        PluginNotFound: no such name, module or class; says what there is.
    """
    if ":" in name:
        return import_path(name)
    found = entry_points(group=f"tta_agent.{kind}", name=name)
    if not found:
        what = kind.removesuffix("s")
        raise PluginNotFound(
            f"no {what} is called {name!r}; {nearest(name, available(kind))}, or module:Class"
        )
    return next(iter(found)).load()


def import_path(path: str) -> Any:
    """`module:attribute` to the object.

    Raises:
        PluginNotFound: it cannot be imported.
    """
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise PluginNotFound(f"cannot import {path!r} (expected module:name): {error}") from None


def make(kind: Kind, name: str, options: Mapping[str, Mapping[str, Any]], *args: Any) -> Any:
    """An instance, with the constructor arguments that the settings give for that name.

    Raises:
        ConfigError: an argument that the class does not take, or a value that it refuses.
    """
    given = dict(options.get(name, {}))
    try:
        return load(kind, name)(*args, **given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{kind.removesuffix('s')} {name!r} with options {given}: {error}") from None
