"""Temporary distributions: a module and its metadata in a folder on PYTHONPATH, as an installer would leave them."""

from __future__ import annotations

import shutil
from pathlib import Path

TOYS = Path(__file__).parent / "toys"


def install(folder: Path, kind: str, module: str, name: str, class_name: str) -> Path:
    """Install a toy.

    Args:
        folder: on PYTHONPATH, like a `site-packages`.
        kind: `adapters`, `codecs`, `drivers`, `gates`, `detectors`.
        module: file among the toys, without suffix.
        name: of the entry point.

    Returns:
        The folder.
    """
    info = folder / f"toy_{module}-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copyfile(TOYS / f"{module}.py", folder / f"toy_{module}.py")
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: toy-{module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tta_agent.{kind}]\n{name} = toy_{module}:{class_name}\n")
    return folder
