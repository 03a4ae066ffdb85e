"""Plugins that cannot be used with a model: those that need images, or exclusive classes, say so by an attribute.

An adapter, selector or schedule with `needs_images = True` works on samples [channels, height, width]; one with
`exclusive_classes = True` on answers of which one class is right. Either is an attribute of the class, or a property
where options decide.
"""

from __future__ import annotations

from tta_agent.core import plugins
from tta_agent.core.task import Task


def misfit(plugin: object, shape: tuple[int, ...], task: Task) -> str | None:
    """What a plugin, or its class, needs and the model has not; None where it fits.

    Args:
        shape: of one sample.
        task: of the model.
    """
    if getattr(plugin, "needs_images", False) is True and len(shape) != 3:
        return f"needs images [channels, height, width], and the model takes samples of shape {list(shape)}"
    if getattr(plugin, "exclusive_classes", False) is True and task == "multilabel":
        return "needs exclusive classes, and the model answers label sets (TTA_MODEL__TASK)"
    return None


def selectors_fit(adapter: str, shape: tuple[int, ...], task: Task) -> bool:
    """Whether the selectors that an adapter brings fit the model."""
    own = getattr(plugins.load("adapters", adapter), "selectors", {})
    return not any(misfit(plugins.load("selectors", name), shape, task) for name in own)
