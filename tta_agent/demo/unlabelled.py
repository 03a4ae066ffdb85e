"""The demo without labels: half of the images are the user's labelled anchor, the other half arrives as traffic."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tta_agent.core.errors import TtaError
from tta_agent.samples.dataset import LabelledImages


def split(images: LabelledImages, anchor: Path) -> LabelledImages:
    """Write the second half as a labelled anchor set; returns the first half, in which no anchor image is."""
    half = len(images.labels) // 2
    anchor.parent.mkdir(parents=True, exist_ok=True)
    np.savez(anchor, inputs=images.inputs[half:], labels=images.labels[half:])
    return LabelledImages(images.inputs[:half], images.labels[:half])


def rehearse(environ: Mapping[str, str], minutes: float) -> None:
    """Run `tta-agent rehearse`; scenarios of an earlier run for the same model and settings are kept.

    Raises:
        TtaError: the rehearsal failed.
    """
    keep = {name: value for name, value in os.environ.items() if not name.startswith("TTA_")}
    command = [sys.executable, "-m", "tta_agent", "rehearse", "--budget-minutes", str(minutes)]
    if subprocess.run(command, env={**keep, **environ}, check=False).returncode:
        raise TtaError("the rehearsal failed; its message stands above")
