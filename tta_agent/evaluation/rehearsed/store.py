"""Rehearsals on disk: plain JSON, groups of scenarios as they finish; learners are fitted again when read."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from tta_agent.core import json_text
from tta_agent.core.atomic_files import write_atomic
from tta_agent.core.errors import ConfigError
from tta_agent.evaluation.rehearsed import features, regress
from tta_agent.evaluation.rehearsed.proof import FEWEST, Fit, GainEstimator
from tta_agent.evaluation.rehearsed.table import RehearsedRow

log = logging.getLogger(__name__)
ROWS, SUMMARY = "rows.jsonl", "rehearsal.json"


def key(fingerprint: str, settings: Mapping[str, Any]) -> str:
    """Name of a rehearsal: digest of the model's weights, of the settings of adaptation, and of the features.

    Args:
        fingerprint: of the weights.
        settings: from `learning`.
    """
    told = json.dumps([fingerprint, settings, features.VERSION], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def learning(settings: Any) -> dict[str, Any]:
    """Settings that decide how a copy learns: a change of one asks for another rehearsal."""
    s = settings
    return {
        "method": s.adapt.method,
        "options": s.adapt.options.get(s.adapt.method, {}),
        "batch": s.adapt.batch_size,
        "window": s.adapt.window,
        "selectors": s.select.selectors,
        "selector_options": s.select.options,
        "schedules": s.schedule.schedules,
        "schedule_options": s.schedule.options,
    }


class RehearsalStore:
    """Folder of one rehearsal.

    Args:
        folder: `<store>/rehearsal`.
        name: from `key`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / name

    def rows(self, groups: Collection[str]) -> list[RehearsedRow]:
        """Rows of these groups. A line that was cut off by a crash is left out; its group is played again."""
        return [
            RehearsedRow.read(row)
            for name, saved in self._saved().items()
            if name in groups
            for row in saved["rows"]
        ]

    def finished(self) -> set[str]:
        """Names of the finished groups."""
        return set(self._saved())

    def seconds(self, groups: Collection[str]) -> list[float]:
        """Seconds that each of these groups took, in one process."""
        return [float(saved.get("seconds", 0.0)) for name, saved in self._saved().items() if name in groups]

    def keep(self, group: str, rows: Sequence[RehearsedRow], seconds: float) -> None:
        """Keep the rows of a finished group; on disk when this returns."""
        self.path.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"scene": group, "seconds": seconds, "rows": [row.plain() for row in rows]})
        with (self.path / ROWS).open("a+b") as file:
            if file.tell() and not _ends_a_line(file):
                file.write(b"\n")
            file.write(line.encode() + b"\n")

    def conclude(self, known: Fit, about: Mapping[str, Any]) -> None:
        """Write the errors of the estimate, and facts about the rehearsal."""
        text = json.dumps({**about, "learners": regress.VERSION, "fit": asdict(known)}, indent=1, default=str)
        write_atomic(self.path / SUMMARY, text.encode())

    def summary(self) -> dict[str, Any] | None:
        """Content of `conclude`'s file, or None where there is none.

        Raises:
            ConfigError: the file is damaged.
        """
        path = self.path / SUMMARY
        try:
            return json_text.parse_object(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ConfigError(f"{path} is damaged ({error}); remove it and run: tta-agent rehearse") from None

    def forget(self) -> None:
        """Remove all rows and the summary."""
        for name in (ROWS, SUMMARY):
            (self.path / name).unlink(missing_ok=True)

    def _saved(self) -> dict[str, dict[str, Any]]:
        path = self.path / ROWS
        lines = path.read_bytes().splitlines() if path.is_file() else []
        found = [saved for saved in map(_line, lines) if saved is not None]
        return {saved["scene"]: saved for saved in sorted(found, key=lambda saved: str(saved["scene"]))}


def open_rehearsal(folder: Path, name: str, source: nn.Module) -> GainEstimator | None:
    """Fit the estimator to the rehearsal of this name (a second or two); None where there is none.

    Args:
        folder: `<store>/rehearsal`.
        name: from `key`.
        source: the deployed module.

    Raises:
        ConfigError: its files are damaged.
    """
    saved = RehearsalStore(folder, name)
    summary = saved.summary()
    if summary is None:
        return None
    if summary.get("learners") != regress.VERSION:
        log.warning("%s is of another release: run tta-agent rehearse again (scenarios are kept)", saved.path)
        return None
    try:
        rows = saved.rows(set(summary["scenes"]))
        known, window = Fit(**summary["fit"]), int(summary["window"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        told = f"{saved.path} is damaged ({type(error).__name__}: {error})"
        raise ConfigError(f"{told}; remove it and run: tta-agent rehearse") from None
    return None if len(rows) < FEWEST else GainEstimator(rows, known, source, window)


def _ends_a_line(file: Any) -> bool:
    file.seek(-1, 2)
    return bool(file.read(1) == b"\n")


def _line(line: bytes) -> dict[str, Any] | None:
    try:
        found = json_text.parse_object(line)
    except ValueError:
        return None
    return found if {"scene", "rows"} <= set(found) else None
