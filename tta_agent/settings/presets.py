"""Presets: settings of a paper, or of a posture, as YAML files beside the policies."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import yaml

from tta_agent.core.errors import ConfigError, nearest


def presets() -> dict[str, Path]:
    """Files of the installed presets by name."""
    folder = Path(next(iter(importlib.import_module("tta_policies").__path__))) / "presets"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def preset(name: str) -> dict[str, Any]:
    """Settings of one preset by group.

    Raises:
        ConfigError: there is none of that name.
    """
    found = presets()
    if name not in found:
        raise ConfigError(f"TTA_POLICY={name}: no such preset; {nearest(name, found)}")
    return dict(yaml.safe_load(found[name].read_text()) or {})
