"""Adapters that can still use a model from which an exporter has folded the BatchNorms away."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from tta_agent.core import plugins
from tta_agent.models.batchnorm import census
from tta_agent.models.onnx_import.proof import OnnxModel

log = logging.getLogger(__name__)


def can_adapt(module: nn.Module) -> list[str]:
    """Names of the installed adapters that accept the model, by trying each."""
    able = []
    for name in plugins.available("adapters"):
        try:
            plugins.make("adapters", name, {}, module)
        except Exception as error:  # somebody else's adapter may raise anything: it is none to recommend
            log.debug("adapter %s refuses the model: %s", name, error)
        else:
            able.append(name)
    return able


def tell(model: OnnxModel, path: Path) -> None:
    """Log the layers of the file, and warn where those are gone that most adapters need."""
    has = ", ".join(f"{n} {kind}" for kind, n in census(model.module).items()) or "no normalisation layer"
    log.info("%s: the torch module built from it answers as it does; it has %s", path.name, has)
    if not model.folded:
        return
    log.warning(
        "%d BatchNorms were folded into convolutions when %s was exported: their statistics are gone, and %s is "
        "left; these adapters remain: %s. An export that keeps the BatchNorms, or TTA_MODEL__NAME or "
        "TTA_MODEL__FACTORY with TTA_MODEL__WEIGHTS, allows the others",
        model.folded,
        path.name,
        has,
        ", ".join(can_adapt(model.module)) or "none",
    )
