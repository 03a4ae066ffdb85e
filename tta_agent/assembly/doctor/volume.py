"""Checks of settings, files and volumes: nothing outside of this machine is asked."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tta_agent.assembly import preflight
from tta_agent.assembly.doctor.finding import CheckFinding
from tta_agent.settings.schema import Settings

LEAST_FREE_BYTES = 1 << 30
VERSIONS_HELD = 6  # of a graph: several versions and their parts, checkpoint, cache


def settings(s: Settings) -> Iterator[CheckFinding]:
    """Names of plugins, their options, files that the settings name."""
    preflight.check_plugins(s)
    preflight.check_files(s)
    yield CheckFinding("settings", "settings and plugins", "ok", f"mode {s.mode}, method {s.adapt.method}")


def volume(s: Settings) -> Iterator[CheckFinding]:
    """Rights and space of the store."""
    places = {"TTA_STORE__PATH": s.store.path, "TTA_STORE__PROOFS": s.store.proofs}
    if s.store.versions and "://" not in s.store.versions:
        places["TTA_STORE__VERSIONS"] = Path(s.store.versions)
    for name, path in places.items():
        if path is not None:
            yield _rights(name, path)
            yield _space(name, path, s.model.onnx or s.model.weights)


def _rights(name: str, path: Path) -> CheckFinding:
    at = _nearest(path)
    subject, user = f"{name}={path}", f"user {os.getuid()}, group {os.getgid()}"
    try:
        with tempfile.TemporaryFile(dir=at):
            pass
    except OSError as error:
        told = f"{at} cannot be written by {user}: {error.strerror}"
        fix = "mount a volume that this user may write (runAsUser, runAsGroup, fsGroup)"
        return CheckFinding("volume", subject, "failure", told, fix)
    return CheckFinding("volume", subject, "ok", f"{at} can be written by {user}")


def _space(name: str, path: Path, model: Path | None) -> CheckFinding:
    free = shutil.disk_usage(_nearest(path)).free
    size = model.stat().st_size if model is not None and model.is_file() else 0
    needed = max(LEAST_FREE_BYTES, VERSIONS_HELD * size)
    subject, told = f"{name}={path}", f"{free / 2**30:.1f} GiB are free, {needed / 2**30:.1f} are advised"
    if free >= needed:
        return CheckFinding("volume", subject, "ok", told)
    fix = "give the volume more space, or keep fewer versions (TTA_STORE__KEEP)"
    return CheckFinding("volume", subject, "warning", told, fix)


def _nearest(path: Path) -> Path:
    """The path, or the closest folder above that is there."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.is_dir())
