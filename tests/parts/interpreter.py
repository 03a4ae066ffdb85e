"""Interpreter that has this project and all packages of the one that runs, but some."""

from __future__ import annotations

import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = Path(pytest.__file__).parent.parent


def without(folder: Path, *packages: str) -> Path:
    """Make the environment in a folder; its interpreter.

    Args:
        packages: beginnings of the names of what it lacks.
    """
    venv.create(folder, symlinks=True)
    [site] = folder.glob("lib/python*/site-packages")
    for package in SITE.iterdir():
        if not package.name.startswith(packages):
            (site / package.name).symlink_to(package)
    (site / "project.pth").write_text("\n".join(str(ROOT / name) for name in (".", "adapters", "policies")))
    return folder / "bin" / "python"
