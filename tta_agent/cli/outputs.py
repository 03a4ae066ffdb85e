"""Files that commands write where they are told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tta_agent.core.errors import ConfigError
from tta_agent.core.os_errors import naming


def check(files: Mapping[str, Path | None]) -> None:
    """See that files can be written later, before work begins that takes minutes.

    Args:
        files: by option; None for those that were not given.

    Raises:
        ConfigError: a folder is missing, or stands in the place of the file.
    """
    for option, path in files.items():
        if path is None:
            continue
        if not path.resolve().parent.is_dir():
            raise ConfigError(f"{option} {path}: there is no folder {path.resolve().parent}")
        if path.is_dir():
            raise ConfigError(f"{option} {path}: a folder stands there; name a file")


def write(path: Path, text: str) -> None:
    """Write a text file in UTF-8.

    Raises:
        OSError: with the name of the file.
    """
    with naming(path):
        path.write_text(text, encoding="utf-8")
