"""Work folder: finished cells, one a line, so that an interrupted run goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tta_agent.core import json_text
from tta_agent.core.errors import ConfigError

Result = Mapping[str, Any]


class Work:
    """Results by key of a cell. The last line of a key counts; a line that was cut off does not.

    Args:
        folder: created where it is missing.
        fresh: forget the results of earlier runs.

    Raises:
        ConfigError: nothing can be written there.
    """

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self.folder, self.path = folder, folder / "cells.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._whole_lines()
        except OSError as error:
            raise ConfigError(
                f"--work {folder}: {error.strerror}; name a folder that can be written"
            ) from None
        self._known = {} if fresh else self._read()

    @property
    def cache(self) -> Path:
        """Folder of arrays that can be made again."""
        return self.folder / "arrays"

    def get(self, key: str) -> Result | None:
        """Result of a cell, or None."""
        return self._known.get(key)

    def add(self, key: str, tags: Mapping[str, Any], result: Result, seconds: float) -> None:
        """Keep the result of a finished cell: durable when this returns."""
        line = {"key": key, "cell": tags, "result": result, "seconds": round(seconds, 3)}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._known[key] = result

    def _whole_lines(self) -> None:
        """A run that was killed may have left half a line: the next one must not be glued to it."""
        self.path.touch()
        text = self.path.read_bytes()
        if text and not text.endswith(b"\n"):
            with self.path.open("ab") as file:
                file.write(b"\n")

    def _read(self) -> dict[str, Result]:
        known = {}
        for line in self.path.read_bytes().splitlines():
            try:
                cell = json_text.parse(line)
                known[cell["key"]] = cell["result"]
            except (ValueError, KeyError, TypeError):
                continue
        return known
