"""Settings from `TTA_*` variables: unknown names are refused, bad values explained."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from tta_agent.core.errors import ConfigError, nearest
from tta_agent.settings import values
from tta_agent.settings.retired import RETIRED
from tta_agent.settings.schema import PREFIX, Settings


def load(**flags: Any) -> Settings:
    """Read the environment; `flags` (nested dicts by group) win over it.

    Raises:
        ConfigError: an unknown name or a value that does not fit, with what was expected.
    """
    _refuse_unknown(os.environ)
    try:
        return Settings(**flags)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from None


def env_names() -> list[str]:
    """Names of all variables that are read."""
    names = []
    for name, field in Settings.model_fields.items():
        group = field.annotation
        inner = group.model_fields if isinstance(group, type) and issubclass(group, BaseModel) else {}
        names += [f"{PREFIX}{name}__{leaf}".upper() for leaf in inner] or [f"{PREFIX}{name}".upper()]
    return names


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    # pydantic-settings ignores unknown top-level names even under extra="forbid"
    valid = env_names()
    groups = {name.rpartition("__")[0] for name in valid if "__" in name}  # a whole group as JSON
    for name, text in environ.items():
        upper = name.upper()
        if values.is_service_link(upper, text):
            continue
        if upper.startswith(PREFIX) and upper not in (*valid, *groups, *RETIRED):
            deeper = upper.split("__")[
                :2
            ]  # TTA_GATE__OPTIONS__X, TTA_STREAM__KAFKA__X: a key inside a mapping
            if "__".join(deeper) in valid and deeper[-1:] in (["OPTIONS"], ["KAFKA"]):
                continue
            raise ConfigError(f"{name} is not a setting; {nearest(upper, valid)} (all: tta-agent schema)")


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors()[:3]:
        name = PREFIX + "__".join(str(part) for part in item["loc"] if isinstance(part, str)).upper()
        told = item["msg"].removeprefix("Value error, ")
        lines.append(
            f"{name}={item['input']!r:.100}: {told}" if _may_be_shown(item["loc"]) else f"{name}: {told}"
        )
    return "\n".join(lines)


def _may_be_shown(place: tuple[int | str, ...]) -> bool:
    """Whether a setting holds no secret; a whole group, and all settings, may hold some."""
    group = (
        Settings.model_fields[str(place[0])].annotation
        if place and place[0] in Settings.model_fields
        else None
    )
    if not (isinstance(group, type) and issubclass(group, BaseModel)):
        return bool(place)
    leaf = group.model_fields.get(str(place[1])) if len(place) > 1 else None
    return leaf is not None and "Secret" not in str(leaf.annotation)
